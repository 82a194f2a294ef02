"""What `worldbridge bench decode` prints: where it was measured, and a table of the modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["decode_table", "environment_block", "rates_at"]


def decode_table(result: Mapping[str, Any]) -> RenderableType:
    """80 columns wide: a table of times, one of what they were spent on, and one of the frames per
    second at the wanted tokens per forward."""
    block = environment_block(result, _bandwidths(result), _context(result))
    title = Text(_title(result), style="bold")
    wanted = _wanted(result)
    tables = [_times(result), _work(result), *([_guesses(result, wanted)] if wanted else [])]
    return Group(title, block, *tables, Text(_caption(result)))


def environment_block(result: Mapping[str, Any], *more: tuple[str, str]) -> Table:
    """Names and values of the machine, and of whatever `more` says, without lines."""
    table = Table.grid(padding=(0, 2))
    for name, value in (*_machine(result), *more):
        table.add_row(name, value)
    return table


def _times(result: Mapping[str, Any]) -> Table:
    heads = "exact", "same", "ms a forward\np10 / p50 / p90", "frames/s", "speed-up"
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
    """What a forward draws, and what it reads how fast."""
    table = _columns(
        "mode",
        "rows",
        "tokens a\nforward",
        "forwards\na latent",
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


def _guesses(result: Mapping[str, Any], wanted: list[float]) -> Table:
    table = _columns("frames/s at tokens a forward", *(f"{tokens:g}" for tokens in wanted))
    for mode in result["modes"]:
        if at := rates_at(mode):
            told = (f"{at[tokens]:.2f}" if tokens in at else "-" for tokens in wanted)
            table.add_row(mode["name"], *told)
    return table


def _columns(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for head in others:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _wanted(result: Mapping[str, Any]) -> list[float]:
    """Numbers of tokens per forward that any mode tells its speed at."""
    return sorted({tokens for mode in result["modes"] for tokens in rates_at(mode)})


def rates_at(mode: Mapping[str, Any]) -> dict[float, float]:
    """Frames per second by tokens per forward, where somebody asked for them."""
    found = mode.get("frames_per_second_at", [])
    return {at["tokens_per_forward"]: at["frames_per_second"] for at in found}


def _share(same: float) -> str:
    """100% is said of all alone."""
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
        return "unknown: nvidia-smi does not tell them"
    text = f"SM {sm['p50']:.0f} MHz"
    if sm["p10"] != sm["p90"]:
        text += f" ({sm['p10']:.0f} to {sm['p90']:.0f})"
    if (most := state.get("most_sm_clock_mhz")) is not None:
        text += f" of {most:.0f}"
    text += f", memory {memory['p50']:.0f} MHz"
    power, limit = state.get("power_w"), state.get("power_limit_w")
    if power and limit:
        text += f", {power['p50']:.0f} of {limit['p50']:.0f} W"
    return text if state.get("at_work") else f"{text}, not at work"


def _bandwidths(result: Mapping[str, Any]) -> tuple[str, str]:
    read, peak = result["measured_read_bandwidth_gb_s"], result["datasheet_bandwidth_gb_s"]
    text = f"{read:,.4g} GB/s read, measured"
    return "memory", text if peak is None else f"{text}; {peak:,.0f} GB/s by the datasheet"


def _context(result: Mapping[str, Any]) -> tuple[str, str]:
    latents, first = result["context_latents"], result["modes"][0]
    context = f"{result['context_tokens']:,} tokens of context"
    if latents is not None:
        context += f" ({latents} latents)"
    size = f"{first['tokens_per_latent']} tokens a latent"
    return "decoding", f"batch {result['batch']}, {context}, {size}, {result['latents']} latents"


def _caption(result: Mapping[str, Any]) -> str:
    text = (
        f"exact: by its rule; same: tokens as sequential; speed-up: over {result['baseline']}; "
        "GB: that a forward reads, measured and peak: bandwidth of the memory"
    )
    if _wanted(result):
        text += "; frames/s at tokens a forward: from the time of a forward, whatever was drawn"
    return f"{text}\n{result['note']}" if "note" in result else text
