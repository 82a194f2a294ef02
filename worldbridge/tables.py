"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from worldbridge.bridge.protocol import WorldSpec

__all__ = ["named_values", "worlds_table"]


def named_values(title: str, values: Mapping[str, Any]) -> Table:
    """Two columns: name and value. Values that are mappings get one row per entry."""
    table = Table("measure", title=title)
    table.add_column("value", justify="right")
    for name, value in values.items():
        if isinstance(value, Mapping):
            for inner, item in value.items():
                table.add_row(f"{name}.{inner}", format_value(item))
        else:
            table.add_row(name, format_value(value))
    return table


def format_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return "-" if value is None else str(value)


def worlds_table(worlds: Sequence[WorldSpec]) -> Table:
    table = Table("world", "title", "picture", "frames/s", "themes")
    for world in worlds:
        picture = f"{world.width} x {world.height}"
        table.add_row(world.name, world.title, picture, f"{world.fps:g}", ", ".join(world.themes))
    return table
