"""What the README's generated blocks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["MISSING", "machine", "newest", "table"]

MISSING = "Not yet measured."


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def machine(result: dict[str, Any]) -> str:
    environment = result["environment"]
    return environment["gpu"] or f"{environment['cores']} cores of {environment['processor']}"


def newest(results: list[dict[str, Any]]) -> dict[str, Any]:
    return max(results, key=lambda result: str(result["environment"]["date"]))
