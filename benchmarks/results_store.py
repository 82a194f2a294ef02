"""The machine that a result was measured on, and where results are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from worldbridge.benchmarks.environment import describe

__all__ = ["RESULTS", "describe", "read_results", "result_path", "write_result"]

RESULTS = Path(__file__).parent / "results"


def machine_name(environment: dict[str, Any]) -> str:
    """A folder name: the GPU, or the processor and its cores."""
    text = environment["gpu"] or f"{environment['processor']} {environment['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write `results/<machine>/<name>.json` with the environment beside the result."""
    path = result_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": describe(), **result}, indent=1) + "\n")
    return path


def result_path(name: str) -> Path:
    """Where that result of this machine is, or would be."""
    return RESULTS / machine_name(describe()) / f"{name}.json"


def read_results(name: str) -> list[dict[str, Any]]:
    """That result of every machine."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"*/{name}.json"))]
