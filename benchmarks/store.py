"""Where results are kept, and the Markdown that the README is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from worldbridge.benchmarks.machine import describe

__all__ = [
    "MISSING",
    "RESULTS",
    "machine",
    "newest",
    "read_results",
    "result_path",
    "table",
    "write_result",
]

RESULTS: Final = Path(__file__).parent / "results"
MISSING: Final = "Not yet measured."


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write `results/<machine>/<name>.json` with the environment beside the result."""
    path = result_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": describe(), **result}, indent=1) + "\n")
    print(f"written: {path}")
    return path


def result_path(name: str) -> Path:
    """Return the path of a result of this machine."""
    environment = describe()
    text = environment["gpu"] or f"{environment['processor']} {environment['cores']} cores"
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") / f"{name}.json"


def read_results(name: str) -> list[dict[str, Any]]:
    """Return the results of that name of all machines."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"*/{name}.json"))]


def newest(results: list[dict[str, Any]]) -> dict[str, Any]:
    return max(results, key=lambda result: str(result["environment"]["date"]))


def machine(result: dict[str, Any]) -> str:
    """Return the name of the machine that a result was measured on."""
    environment = result["environment"]
    return environment["gpu"] or f"{environment['cores']} cores of {environment['processor']}"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table, or `MISSING` without rows."""
    found = list(rows)
    if not found:
        return MISSING + "\n"
    lines = [head, tuple("---" for _ in head), *found]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
