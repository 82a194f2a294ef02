"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from worldbridge.bridge.protocol import WorldSpec

if TYPE_CHECKING:
    from worldbridge.runtime.load_report import LoadReport

__all__ = ["decode_table", "load_table", "named_values", "players_table", "worlds_table"]


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
    table = Table("world", "title", "picture", "frames/s", "takes", "themes")
    for world in worlds:
        picture = f"{world.width} x {world.height}"
        takes = ", ".join(world.conditionings) or "-"
        themes = ", ".join(world.themes)
        table.add_row(world.name, world.title, picture, f"{world.fps:g}", takes, themes)
    return table


def load_table(reports: Sequence[LoadReport]) -> Table:
    """Of `worldbridge worlds DIR --load`."""
    table = Table("world")
    for head in ("parameters", "weights MB", "seconds", "peak memory MB", "before MB"):
        table.add_column(head, justify="right")
    for report in reports:
        sizes = (report.weights, report.peak_memory, report.peak_memory_before)
        weights, peak, before = (f"{size / 1e6:,.0f}" for size in sizes)
        parameters, seconds = f"{report.parameters:,}", f"{report.seconds:.1f}"
        table.add_row(report.world, parameters, weights, seconds, peak, before)
    return table


def decode_table(result: Mapping[str, Any]) -> Table:
    """Of `worldbridge bench decode`."""
    title = f"{result['world']}, {result['latents']} latents, {result['threads']} threads"
    table = Table("mode", title=title)
    for head in (
        "same tokens",
        "ms/forward",
        "forwards",
        "tokens each",
        "frames/s",
        "speed-up",
        "% read",
    ):
        table.add_column(head, justify="right")
    for mode in result["modes"]:
        table.add_row(
            mode["name"],
            "yes" if mode["identical_to_sequential"] else "NO",
            f"{mode['ms_per_forward']['p50']:.2f}",
            f"{mode['forwards_per_latent']:.1f}",
            f"{mode['tokens_per_forward']:.2f}",
            f"{mode['frames_per_second']:.2f}",
            f"{mode['times_sequential']:.2f}",
            f"{mode['percent_of_measured_bandwidth']:.0f}",
        )
    return table


def players_table(result: Mapping[str, Any]) -> Table:
    """Of `worldbridge bench players`."""
    rate = result["frames_per_second_of_the_world"]
    title = f"{result['world']} at {rate:g} frames/s: {result['players_at_that_rate']} players"
    table = Table("players", title=title)
    for head in ("ms/step p10 / p50 / p90", "frames/s each"):
        table.add_column(head, justify="right")
    for row in result["by_players"]:
        step = row["ms_per_step"]
        table.add_row(
            str(row["players"]),
            " / ".join(f"{step[p]:.1f}" for p in ("p10", "p50", "p90")),
            f"{row['frames_per_second_each']:.2f}",
        )
    return table
