"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table

from worldbridge.bridge.protocol import WorldSpec
from worldbridge.cli.decode_table import environment_block, rates_at

if TYPE_CHECKING:
    from worldbridge.runtime.worlds.load_report import LoadReport

__all__ = [
    "kernel_checks_table",
    "kernels_table",
    "load_table",
    "named_values",
    "players_table",
    "worlds_table",
]


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


def players_table(result: Mapping[str, Any]) -> RenderableType:
    """Of `worldbridge bench players`."""
    rate = result["frames_per_second_of_the_world"]
    title = f"{result['world']} at {rate:g} frames/s: {result['players_at_that_rate']} players"
    if result["mode"] is not None:
        k = result["diagonal"]
        title += f", mode {result['mode']}" + ("" if k is None else f" k={k}")
    more = result["ms_per_frame_per_further_player"]
    caption = None if more is None else f"one more player costs {more:.3g} ms a frame"
    table = Table("players", title=title, caption=caption)
    wanted = sorted(rates_at(result["by_players"][0]))
    heads = ("ms/step p10 / p50 / p90", "frames/s each", *(f"at {t:g} tokens" for t in wanted))
    for head in heads:
        table.add_column(head, justify="right")
    for row in result["by_players"]:
        step, at = row["ms_per_step"], rates_at(row)
        table.add_row(
            str(row["players"]),
            " / ".join(f"{step[p]:.1f}" for p in ("p10", "p50", "p90")),
            f"{row['frames_per_second_each']:.2f}",
            *(f"{at[tokens]:.2f}" for tokens in wanted),
        )
    return Group(environment_block(result), table)


def kernels_table(result: Mapping[str, Any]) -> RenderableType:
    """Of `worldbridge bench kernels`."""
    gpu = result["gpu"]
    title = f"{gpu['name']}, {result['measured_read_bandwidth_gb_s']:,.0f} GB/s measured"
    table = Table("kernel", "shape", "weights", title=title)
    for head in ("us p10 / p50 / p90", "GB/s", "% measured", "% peak", "x torch", "error", "torch"):
        table.add_column(head, justify="right")
    for case in result["cases"]:
        times, error = case["ms"], case["error"]
        table.add_row(
            f"{case['kernel']} {case['what']}",
            _shape(case),
            case["weights"],
            " / ".join(f"{1000 * times[p]:.1f}" for p in ("p10", "p50", "p90")),
            f"{case['gb_per_second']:,.0f}",
            format_value(case["percent_of_measured_bandwidth"]),
            format_value(case["percent_of_datasheet"]),
            f"{case['baselines'][0]['times_ours']:.2f}",
            f"{error['ours']:.1e}",
            f"{error['torch']:.1e}",
        )
    return Group(environment_block(result), table)


def kernel_checks_table(result: Mapping[str, Any]) -> Table:
    """Of `worldbridge bench kernels --check`."""
    table = Table("kernel", "shape", title=f"against float64, in {result['runs_in']}")
    table.add_column("weights, activations")
    for head in ("error", "torch's", "limit", "within"):
        table.add_column(head, justify="right")
    for case in result["cases"]:
        error = case["error"]
        table.add_row(
            f"{case['kernel']} {case['what']}",
            _shape(case),
            f"{case['weights']}, {case['activations']}",
            f"{error['ours']:.1e}",
            f"{error['torch']:.1e}",
            f"{case['limit']:.1e}",
            "yes" if case["within_limit"] else "NO",
        )
    return table


def _shape(case: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {size:,}" for name, size in case["shape"].items())
