"""The tables of `worldbridge bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worldbridge.cli.console import format_value, table_of

__all__ = [
    "bridge_table",
    "decode_table",
    "kernel_checks_table",
    "kernels_table",
    "memory_table",
    "players_table",
    "world_table",
]


def decode_table(result: Mapping[str, Any]) -> RenderableType:
    """Return tables of times, of the work behind them, and of frames/s at the given acceptances.

    They fit into 80 columns.
    """
    block = _environment(result, _bandwidths(result), _context(result))
    title = Text(_title(result), style="bold")
    wanted = _wanted(result)
    tables = [_times(result), _work(result), *([_at_acceptances(result, wanted)] if wanted else [])]
    return Group(title, block, *tables, Text(_caption(result)))


def _environment(result: Mapping[str, Any], *more: tuple[str, str]) -> Table:
    """Return the names and values of the machine, followed by `more`."""
    table = Table.grid(padding=(0, 2))
    for name, value in (*_machine(result), *more):
        table.add_row(name, value)
    return table


def _times(result: Mapping[str, Any]) -> Table:
    heads = "exact", "same", "ms per forward\np10 / p50 / p90", "frames/s", "speed-up"
    table = _columns("mode", *heads)
    for mode in result["modes"]:
        ms = mode["ms_per_forward"]
        table.add_row(
            mode["name"],
            "yes" if mode["exact"] else "no",
            _share(mode["tokens_as_sequential"]),
            " / ".join(f"{ms[p]:.2f}" for p in ("p10", "p50", "p90")),
            f"{mode['frames_per_second']:.2f}",
            f"{mode['times_plain']:.2f}",
        )
    return table


def _work(result: Mapping[str, Any]) -> Table:
    """Return the tokens and bytes of a forward pass, and the bandwidth it reaches."""
    table = _columns(
        "mode",
        "rows",
        "tokens per\nforward",
        "forwards\nper latent",
        "GB",
        "GB/s",
        "% of\nmeasured",
        "% of\npeak",
    )
    for mode in result["modes"]:
        shares = (mode["percent_of_measured_bandwidth"], mode["percent_of_datasheet"])
        table.add_row(
            mode["name"],
            str(mode["rows_per_forward"] or "-"),
            f"{mode['tokens_per_forward']:.2f}",
            f"{mode['forwards_per_latent']:.1f}",
            f"{mode['gb_per_forward']:.3g}",
            f"{mode['gb_per_second']:,.4g}",
            *("-" if share is None else f"{share:.0f}" for share in shares),
        )
    return table


def _at_acceptances(result: Mapping[str, Any], wanted: list[float]) -> Table:
    table = _columns("frames/s at tokens per forward", *(f"{tokens:g}" for tokens in wanted))
    for mode in result["modes"]:
        if at := _rates_at(mode):
            rates = (f"{at[tokens]:.2f}" if tokens in at else "-" for tokens in wanted)
            table.add_row(mode["name"], *rates)
    return table


def _columns(first: str, *others: str) -> Table:
    table = table_of(first, *others, numbers=len(others), box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    return table


def _wanted(result: Mapping[str, Any]) -> list[float]:
    """Return all tokens per forward pass that any mode has a frame rate for."""
    return sorted({tokens for mode in result["modes"] for tokens in _rates_at(mode)})


def _rates_at(mode: Mapping[str, Any]) -> dict[float, float]:
    """Return frames per second by tokens per forward pass, for the given acceptances."""
    found = mode.get("frames_per_second_at", [])
    return {at["tokens_per_forward"]: at["frames_per_second"] for at in found}


def _share(same: float) -> str:
    """Return a percentage that is 100% only if nothing differs."""
    return "100%" if same == 1 else f"{min(same, 0.999):.1%}"


def _title(result: Mapping[str, Any]) -> str:
    own = " random weights," if result["trained"] is False else ""
    read = result["precision"]
    read = "the model's own type" if read == "model" else read
    return f"{result['world']},{own} {result['parameters'] / 1e6:,.4g} M parameters, read as {read}"


def _machine(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    environment, gpu = result["environment"], result["gpu"]
    packages = ", ".join(
        f"{name} {environment['packages'][name]}"
        for name in ("torch", "triton")
        if name in environment["packages"]
    )
    versions = ("versions", f"Python {environment['python']}, {packages}")
    if gpu is None:
        threads = result["threads"]
        processor = f"{environment['processor']}, {threads} of {environment['cores']} cores"
        return [("processor", processor), versions]
    state = environment.get("gpu_state") or {}
    parts = [
        gpu["name"],
        f"{gpu['multiprocessors']} multiprocessors",
        f"{gpu['memory_gib']:g} GiB",
        f"driver {state.get('driver', 'unknown')}",
        f"CUDA {gpu['cuda']}",
    ]
    return [("GPU", ", ".join(parts)), ("clocks", _clocks(state)), versions]


def _clocks(state: Mapping[str, Any]) -> str:
    sm, memory = state.get("sm_clock_mhz"), state.get("memory_clock_mhz")
    if not sm or not memory:
        return "unknown: nvidia-smi does not report them"
    text = f"SM {sm['p50']:.0f} MHz"
    if sm["p10"] != sm["p90"]:
        text += f" ({sm['p10']:.0f} to {sm['p90']:.0f})"
    if (most := state.get("most_sm_clock_mhz")) is not None:
        text += f" of {most:.0f}"
    text += f", memory {memory['p50']:.0f} MHz"
    power, limit = state.get("power_w"), state.get("power_limit_w")
    if power and limit:
        text += f", {power['p50']:.0f} of {limit['p50']:.0f} W"
    return text if state.get("at_work") else f"{text}, measured while idle"


def _bandwidths(result: Mapping[str, Any]) -> tuple[str, str]:
    read, peak = result["measured_read_bandwidth_gb_s"], result["datasheet_bandwidth_gb_s"]
    text = f"{read:,.4g} GB/s read, measured"
    return "memory", text if peak is None else f"{text}; {peak:,.0f} GB/s by the datasheet"


def _context(result: Mapping[str, Any]) -> tuple[str, str]:
    latents, first = result["context_latents"], result["modes"][0]
    context = f"{result['context_tokens']:,} context tokens"
    if latents is not None:
        context += f" ({latents} latents)"
    size = f"{first['tokens_per_latent']} tokens per latent"
    return "decoding", f"batch {result['batch']}, {context}, {size}, {result['latents']} latents"


def _caption(result: Mapping[str, Any]) -> str:
    text = (
        "exact: samples the tokens of sequential decoding by construction; same: tokens equal to "
        f"sequential; speed-up: over {result['baseline']}; GB: read per forward pass; measured and "
        "peak: memory bandwidth"
    )
    if _wanted(result):
        text += "; frames/s at tokens per forward: computed from the time of a forward pass"
    return f"{text}\n{result['note']}" if "note" in result else text


def players_table(result: Mapping[str, Any]) -> RenderableType:
    rate = result["frames_per_second_of_the_world"]
    title = f"{result['world']} at {rate:g} frames/s: {result['players_at_that_rate']} players"
    if result["mode"] is not None:
        k = result["diagonal"]
        title += f", mode {result['mode']}" + ("" if k is None else f" k={k}")
    more = result["ms_per_frame_per_further_player"]
    caption = None if more is None else f"one more player costs {more:.3g} ms per frame"
    wanted = sorted(_rates_at(result["by_players"][0]))
    heads = "ms/step p10 / p50 / p90", "frames/s each", *(f"at {t:g} tokens" for t in wanted)
    table = table_of("players", *heads, numbers=len(heads), title=title, caption=caption)
    for row in result["by_players"]:
        step, at = row["ms_per_step"], _rates_at(row)
        table.add_row(
            str(row["players"]),
            " / ".join(f"{step[p]:.1f}" for p in ("p10", "p50", "p90")),
            f"{row['frames_per_second_each']:.2f}",
            *(f"{at[tokens]:.2f}" for tokens in wanted),
        )
    return Group(_environment(result), table)


def world_table(result: Mapping[str, Any]) -> Table:
    """Return the cost of a frame by the share of new blocks."""
    title = f"{result['world']}, {result['frame']}, threads: {result['threads']}"
    heads = "ms p50", "processor ms p50", "frames/s", "frames/s of one core"
    table = table_of("new blocks", *heads, numbers=4, title=title)
    for row in result["rows"]:
        table.add_row(
            f"{row['new_share']:.1%}",
            f"{row['ms']['p50']:.1f}",
            f"{row['processor_ms']['p50']:.1f}",
            f"{row['frames_per_second']:.1f}",
            f"{row['frames_per_second_of_a_core']:.1f}",
        )
    return table


def memory_table(result: Mapping[str, Any]) -> Table:
    ms = (
        " / ".join(f"{result[name][p]:.1f}" for p in ("p10", "p50", "p90"))
        for name in ("render_ms", "add_ms")
    )
    title = f"Spatial memory, {result['frame']}, {result['backend']} on {result['device']}"
    caption = "ms p10 / p50 / p90 per frame, one thread: render {}, add {}".format(*ms)
    heads = "route", "PSNR, dB", "known", "points", "MB"
    table = table_of("theme", *heads, numbers=4, title=title, caption=caption)
    for row in result["routes"]:
        table.add_row(
            row["theme"],
            row["route"],
            f"{row['psnr_db']:.1f}",
            f"{row['known']:.1%}",
            f"{row['points']:,}",
            f"{row['megabytes']:g}",
        )
    for route, psnr in result["revisit_psnr_db"].items():
        table.add_row("mean", route, f"{psnr:.1f}", "", "", "")
    return table


def bridge_table(result: Mapping[str, Any]) -> Table:
    """Return the cases of `bench bridge`. It fits into 80 columns."""
    gains = ", ".join(f"{name} {times:g}" for name, times in result["times_naive_p99"].items())
    table = _columns("transport", "fps", "viewers", "received", "shown", "CPU %")
    table.title = f"From hand-over to last packet, and to the screen: {result['content']}"
    table.caption = (
        "ms p50 / p95 / p99; CPU: of the server, in % of a core. "
        f"Shown in: {result['displayed_in']}. Times shorter than naive at p99, received: {gains}"
    )
    for run in result["runs"]:
        table.add_row(
            run["transport"],
            f"{run['fps']:g}",
            str(run["viewers"]),
            _three(run["handed_to_received_ms"]),
            _three(run.get("handed_to_displayed_ms")),
            f"{run['server_cpu_percent']:.0f}",
        )
    return table


def network_tables(result: Mapping[str, Any]) -> Group:
    """Return the inputs and the lines of `bench network`."""
    inputs = _columns("input channel", "states", "delivered", "ms")
    inputs.title = "Inputs through 2 % loss and 20 ms each way: controller to gateway"
    inputs.caption = "ms p50 / p95 / p99"
    for way, case in result["inputs"].items():
        delivered = f"{case['delivered_percent']:g} %"
        inputs.add_row(way, str(case["sent"]), delivered, _three(case["sent_to_gateway_ms"]))
    if not result["lines"]:
        return Group(inputs, result["displayed_in"])
    heads = "frames/s", "longest pause", "input to photon", "displayed", "after outage"
    lines = _columns("line", *heads)
    lines.title = f"Play by {result['video']} in {result['displayed_in']}"
    lines.caption = (
        "ms, p50 / p95 / p99; displayed: since hand-over; after outage: from the end of "
        "2 s of darkness to a new frame"
    )
    for name, case in result["lines"].items():
        back = case["frame_after_outage_ms"]
        lines.add_row(
            name,
            f"{case['frames_per_second']:g}",
            f"{case['longest_pause_ms']:.0f}",
            _three(case["input_to_photon_ms"]),
            _three(case["handed_to_displayed_ms"]),
            "never" if back is None else f"{back:.0f}",
        )
    return Group(inputs, lines)


def _three(ms: Mapping[str, float] | None) -> str:
    if ms is None:
        return "-"
    values = (ms[p] for p in ("p50", "p95", "p99"))
    return "/".join(f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in values)


def kernels_table(result: Mapping[str, Any]) -> RenderableType:
    gpu = result["gpu"]
    title = f"{gpu['name']}, {result['measured_read_bandwidth_gb_s']:,.0f} GB/s measured"
    times = "us p10 / p50 / p90", "GB/s", "% measured", "% peak", "x torch", "error", "torch"
    table = table_of("kernel", "shape", "weights", *times, numbers=len(times), title=title)
    for case in result["cases"]:
        ms, error = case["ms"], case["error"]
        table.add_row(
            f"{case['kernel']} {case['what']}",
            _shape(case),
            case["weights"],
            " / ".join(f"{1000 * ms[p]:.1f}" for p in ("p10", "p50", "p90")),
            f"{case['gb_per_second']:,.0f}",
            format_value(case["percent_of_measured_bandwidth"]),
            format_value(case["percent_of_datasheet"]),
            f"{case['baselines'][0]['times_ours']:.2f}",
            f"{error['ours']:.1e}",
            f"{error['torch']:.1e}",
        )
    return Group(_environment(result), table)


def kernel_checks_table(result: Mapping[str, Any]) -> Table:
    heads = "kernel", "shape", "weights, activations", "error", "torch's", "limit", "within"
    table = table_of(*heads, numbers=4, title=f"against float64, in {result['runs_in']}")
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
