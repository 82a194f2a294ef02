"""Write the README's tables from the committed results.

Run `python -m worldbridge.benchmarks.readme [--check]`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from worldbridge.benchmarks import roofline
from worldbridge.benchmarks.quality.report import MEASURES
from worldbridge.benchmarks.store import MISSING, machine, newest, read_results, table

__all__ = ["main", "render"]

README: Final = Path(__file__).parents[1] / "README.md"
_DECODE: Final = ("decode", "decode-fp8", "decode-int8")  # the last two from a GPU
# the first in the world's own choice of mode, the others in a given one
_PLAYERS: Final = (
    "players",
    "players-sequential",
    "players-medusa",
    "players-jacobi",
    "players-diagonal-k1",
    "players-diagonal-k2",
)
_DRAFTING: Final = ("jacobi", "medusa")
_FORWARD_ROWS: Final = 10  # one player's forward pass with nine heads


def render(text: str) -> str:
    """Return the README with every generated block written again."""
    blocks = {
        "setup": _setup(),
        "speed": _speed(),
        "world": _world(),
        "bridge": _bridge(),
        "network": _network(),
        "decode": _decode(),
        "kernels": _kernels(),
        "quality": _quality(),
        "fidelity": _fidelity(),
        "conversion": _conversion(),
        "limits": _limits(),
    }
    for name, block in blocks.items():
        pattern = rf"(<!-- begin:{name} -->\n).*?(<!-- end:{name} -->)"
        found = list(re.finditer(pattern, text, flags=re.S))
        if len(found) != 1:
            raise ValueError(f"README.md: expected one block {name!r}, found {len(found)}")
        text = text[: found[0].end(1)] + block + text[found[0].start(2) :]
    return text


# --- a served world ------------------------------------------------------------------------------


def _setup() -> str:
    head = "machine", "clone to `ready` (min)", "download (MB)", "second start to `ready` (s)"
    return table(
        head,
        (
            (
                machine(result),
                f"{result['minutes_clone_to_ready']:.1f}",
                f"{result['download_mb']:.0f}",
                f"{result['seconds_start_to_ready']:.1f}",
            )
            for result in read_results("setup")
        ),
    )


def _speed() -> str:
    photon, shown = "input to photon p50 / p95 (ms)", "encode to shown p50 / p95 (ms)"
    return table(
        ("machine", "world and client", "frames/s", photon, shown),
        (
            (
                machine(result),
                run["what"],
                f"{run['frames_per_second']:.1f}",
                _pair(run["input_to_photon_ms"]),
                _pair(run.get("handed_to_shown_ms")),
            )
            for result in read_results("latency")
            for run in result["runs"]
        ),
    )


def _bridge() -> str:
    """Return how long frames take through the gateway at the highest frame rate measured.

    With one viewer and with nine; the results have the other cases.
    """
    head = (
        "machine",
        "transport",
        "frames/s, viewers",
        "handed over to last packet received p50 / p95 / p99 (ms)",
        "to shown in Chromium",
        "server, % of a core",
    )
    return table(
        head,
        (
            (
                machine(result),
                f"`{run['transport']}`",
                f"{run['fps']:g}, {run['viewers']}",
                _three(run["handed_to_received_ms"]),
                _three(run.get("handed_to_displayed_ms")),
                f"{run['server_cpu_percent']:.0f}",
            )
            for result in read_results("bridge")
            for run in result["runs"]
            if run["viewers"] in (1, 9) and run["fps"] == max(r["fps"] for r in result["runs"])
        ),
    )


_LINES: Final = {
    "lan": "LAN",
    "10_percent_loss": "10 % loss, 20 ms each way",
    "200_ms": "200 ms each way",
    "2_mbit": "2 Mbit/s, 1 % loss, 30 ms",
    "600_kbit": "600 kbit/s, 3 % loss, 50 ms",
    "300_kbit": "300 kbit/s, 50 ms",
}


def _network() -> str:
    """Return how play goes over each line, and how inputs cross one with loss."""
    results = read_results("network")
    if not results:
        return MISSING + "\n"
    lines = table(
        (
            "machine",
            "line",
            "frames/s",
            "longest pause (ms)",
            "input to photon p50 / p95 / p99 (ms)",
            "new frame after 2 s of darkness (ms)",
        ),
        (
            (
                machine(result),
                _LINES[name],
                f"{case['frames_per_second']:.1f}",
                f"{case['longest_pause_ms']:.0f}",
                _three(case["input_to_photon_ms"]),
                _whole(case["frame_after_outage_ms"]),
            )
            for result in results
            for name, case in result["lines"].items()
        ),
    )
    inputs = table(
        ("machine", "input channel", "states delivered", "on their way p50 / p95 / p99 (ms)"),
        (
            (
                machine(result),
                way,
                f"{case['delivered_percent']:g}%",
                _three(case["sent_to_gateway_ms"]),
            )
            for result in results
            for way, case in result["inputs"].items()
        ),
    )
    return f"{lines}\nInputs through 2 % loss and 20 ms each way, in the same run:\n\n{inputs}"


def _three(values: dict[str, float] | None) -> str:
    return "-" if values is None else " / ".join(f"{values[p]:.1f}" for p in ("p50", "p95", "p99"))


def _pair(values: dict[str, float] | None) -> str:
    return "-" if values is None else f"{values['p50']:.0f} / {values['p95']:.0f}"


def _world() -> str:
    """Return what a frame costs by the share of its blocks that is new."""
    return table(
        ("machine", "new blocks", "processor ms per frame, p50", "frames/s of one core"),
        (
            (
                machine(result),
                f"{row['new_share']:.0%}",
                f"{row['processor_ms']['p50']:.0f}",
                f"{row['frames_per_second_of_a_core']:.1f}",
            )
            for result in read_results("world")
            for row in result["rows"]
        ),
    )


# --- decoding ------------------------------------------------------------------------------------


def _decode() -> str:
    """Return the decode modes, and how many players each one serves."""
    results = [result for name in _DECODE for result in read_results(name)]
    head = (
        "machine",
        "world, mode",
        "exact",
        "same tokens",
        "ms per forward, p50",
        "forwards per latent",
        "frames/s",
        "speed-up over the baseline",
        "% of read bandwidth, measured / datasheet",
    )
    text = table(head, (_mode(result, mode) for result in results for mode in result["modes"]))
    notes = sorted({result["note"] for result in results if "note" in result})
    text += "".join(f"\nRandom weights: {note.partition(': ')[2]}.\n" for note in notes)
    if not any(result["environment"]["gpu"] for result in results):
        text += f"\nOn a GPU: {MISSING.lower()}\n"
    return text + "".join(_players(r) for name in _PLAYERS for r in read_results(name))


def _mode(result: dict[str, Any], mode: dict[str, Any]) -> tuple[str, ...]:
    # the gain of drafting is a property of trained weights
    unknown = result["trained"] is False and mode["name"].split()[0] in _DRAFTING
    name = f"{result['world']}, {mode['name']}"
    details = ["random weights"] if result["trained"] is False else []
    if result.get("precision", "model") != "model" and mode["name"] != result["baseline"]:
        details.append(result["precision"])
    gain = mode.get("times_plain")
    return (
        machine(result),
        f"{name} ({', '.join(details)})" if details else name,
        "yes" if mode["exact"] else "no",
        "yes" if mode["identical_to_sequential"] else "no",
        f"{mode['ms_per_forward']['p50']:.2f}",
        "-" if unknown else f"{mode['forwards_per_latent']:.1f}",
        _rates(mode) if unknown else f"{mode['frames_per_second']:.1f}",
        "-" if unknown or gain is None else f"{gain:.2f}",
        f"{mode['percent_of_measured_bandwidth']:.0f} / {_whole(mode.get('percent_of_datasheet'))}",
    )


def _rates(result: dict[str, Any]) -> str:
    """Return the frames per second at the given acceptances."""
    rates = (
        f"{at['frames_per_second']:.1f} at {at['tokens_per_forward']:g} tokens per forward"
        for at in result.get("frames_per_second_at", [])
    )
    return ", ".join(rates) or "-"


def _players(result: dict[str, Any]) -> str:
    unknown = result["weights"] == "random" and result["mode"] in _DRAFTING
    rates = (
        _rates(row) if unknown else f"{row['frames_per_second_each']:.1f}"
        for row in result["by_players"]
    )
    each = ", ".join(
        f"{row['players']}: {rate}" for row, rate in zip(result["by_players"], rates, strict=True)
    )
    cost = result["ms_per_frame_per_further_player"]
    more = "" if cost is None or unknown else f" One more player costs {cost:.1f} ms per frame."
    mode = "" if result["mode"] is None else f", mode {result['mode']}"
    if result.get("diagonal") is not None:
        mode += f" k={result['diagonal']}"
    rate = f"(the world's rate is {result['frames_per_second_of_the_world']:g})"
    return (
        f"\nFrames/s of each player of {result['world']}{mode}, on {machine(result)}, by the "
        f"number of players: {each} {rate}.{more}\n"
    )


def _kernels() -> str:
    """Return the kernels of a forward pass of ten rows, and those that run once per latent."""
    rows = [_kernel(r, case) for r in read_results("kernels") for case in r["cases"] if _kept(case)]
    head = (
        "machine",
        "kernel",
        "shape",
        "weights",
        "us, p50",
        "GB/s",
        "% of read bandwidth, measured / datasheet",
        "speed-up over torch",
        "error, ours / torch's",
    )
    return table(head, rows) if rows else f"On a GPU: {MISSING.lower()}\n"


def _kept(case: dict[str, Any]) -> bool:
    shape = case["shape"]
    rows = shape.get("rows", shape.get("tokens"))
    wanted = 1 if case["kernel"] == "medusa_heads" else _FORWARD_ROWS  # its heads make ten of one
    return shape.get("batch", 1) == 1 and rows in (None, wanted)


def _kernel(result: dict[str, Any], case: dict[str, Any]) -> tuple[str, ...]:
    error = case["error"]
    return (
        machine(result),
        f"{case['kernel']}, {case['what']}",
        ", ".join(f"{name} {size:,}" for name, size in case["shape"].items()),
        case["weights"],
        f"{1000 * case['ms']['p50']:.1f}",
        f"{case['gb_per_second']:,.0f}",
        f"{_whole(case['percent_of_measured_bandwidth'])} / {_whole(case['percent_of_datasheet'])}",
        f"{case['baselines'][0]['times_ours']:.2f}",
        f"{error['ours']:.0e} / {error['torch']:.0e}",
    )


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


# --- quality of the bundled world ----------------------------------------------------------------


def _quality() -> str:
    """Return the measures of the guided world, and how the embedded one drafts."""
    return _measures(read_results("quality-guided")) + _embedded(read_results("quality"))


def _measures(results: list[dict[str, Any]]) -> str:
    if not results:
        return f"Measures of the guided world: {MISSING.lower()}\n\n"
    result = newest(results)
    quality = result["quality"]
    rows = [
        (f"{text}{key}", _number(value), _number(beside), goal)
        for name, text, goal in MEASURES
        for key, value, beside in _values(quality, name)
    ]
    note = f"Measured on {machine(result)}, {result['environment']['date']}, {quality['scenes']}.\n"
    return table(("measure", "guided", "real frames", "goal"), rows) + "\n" + note + "\n"


def _embedded(results: list[dict[str, Any]]) -> str:
    if not results:
        return f"Drafts of the embedded world: {MISSING.lower()}\n"
    quality = newest(results)["quality"]
    text = _training(quality.get("training", {}))
    drafts = list(_drafts(quality))
    head = (
        "drafter",
        "tokens per forward",
        "forwards per frame",
        "share of drafts accepted, first to last head",
        "frames equal to `diagonal`",
    )
    return text + ("\n" + table(head, drafts) if drafts else "")


def _values(quality: dict[str, Any], name: str) -> list[tuple[str, float | None, float | None]]:
    """Return a measure's values, one for each second or route, beside those of real frames."""
    if name not in quality or "real" not in quality:  # a result that measured something else
        return []
    value, real = quality[name], quality["real"].get(name)
    if not isinstance(value, dict):
        return [("", value, None if isinstance(real, dict) else real)]
    return [
        (f", {key}" + _unit(name, key), item, _beside(real, key)) for key, item in value.items()
    ]


def _unit(name: str, key: str) -> str:
    return "" if not key.isdigit() else " px" if name == "texture_octaves" else " s"


def _beside(real: Any, key: str) -> float | None:
    return real.get(key) if isinstance(real, dict) else real


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _training(made: dict[str, Any]) -> str:
    if not made:
        return ""
    text = (
        f"The embedded world was trained for {made['tokenizer_minutes']:.0f} minutes (tokenizer, "
        f"{made['tokenizer_steps']:,} steps on {made['pictures']:,} frames) and "
        f"{made['transformer_minutes']:.0f} minutes (transformer, "
        f"{made['transformer_steps']:,} steps on {made['frames_of_play']:,} frames of play).\n"
    )
    if "heads_minutes" not in made:
        return text
    before, after = made["network_nats_before_heads"], made["network_nats_with_heads"]
    text += (
        f"Then {made['heads_minutes']:.0f} minutes ({made['heads_steps']:,} steps) for the Medusa "
        "heads together with the last layers of the network, "
    )
    if before == after:
        return text + "which were restored afterwards, because the network's own loss had risen.\n"
    return text + f"whose own loss went from {before:.3f} to {after:.3f} nats per token.\n"


def _drafts(quality: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the tokens per forward pass of each drafter, and how good each Medusa head is."""
    for mode in ("medusa", "jacobi"):
        if found := quality.get(mode):
            kept = found.get("acceptance_per_head", [])
            yield (
                f"`{mode}`",
                f"{found['tokens_per_forward']:.2f}",
                f"{found['forwards_per_latent']:.1f}",
                ", ".join(f"{share:.3f}" for share in kept) or "-",
                f"{found['same_latents']:.0%} of {found['latents']}",
            )


# --- Cosmos --------------------------------------------------------------------------------------


def _fidelity() -> str:
    """Return how close our networks are to the reference outputs, from the newest result."""
    results = read_results("fidelity")
    if not results:
        return MISSING + "\n"
    result = newest(results)
    rows = [
        (
            found["reference"],
            f"{max(found['prefill'], found['cached_decode']):.1e}",
            f"{found['bf16_worst_logit']:.1e}, same likeliest token at "
            f"{found['bf16_same_choice']:.0%}",
        )
        for found in result["transformers"]
    ]
    rows += [
        (
            found["reference"],
            f"{found['decoded']:.1e}",
            f"{found['bf16_decoded']:.1e}, {found['bf16_different_indices']:.0%} of the tokens "
            "differ",
        )
        for found in result["tokenizers"]
    ]
    head = ("reference", "largest error, float32", "largest error, bfloat16")
    sizes = ", ".join(f"{name} {count:,}" for name, count in result["parameters"].items())
    streams = "".join(_streamed(found) for found in result["tokenizers"])
    slid = _slid(result.get("slides", []))
    return table(head, rows) + streams + slid + f"\nParameters: {sizes}.\n"


def _streamed(found: dict[str, Any]) -> str:
    windows = ", ".join(f"{count}: {error:.1e}" for count, error in found["windows"].items())
    return (
        f"\n{found['reference']} decoded as a stream, 1 to {found['latents']} latents in chunks of "
        f"any size, differs from decoding at once by {found['stream_worst']:.1e} of the largest "
        "value. In an endless stream the temporal attention sees a limited number of earlier "
        f"latents. By that number the difference is {windows}. The weights of the reference are "
        "random, so this does not predict the difference for trained ones.\n"
    )


def _slid(rows: list[dict[str, Any]]) -> str:
    """Return what the two ways of sliding the context do to the logits."""
    if not rows:
        return ""
    found = [
        f"{row['way']} against {row['against']}: {row['deviation']:.2f}, same likeliest token at "
        f"{row['same_choice']:.0%}"
        for row in rows
    ]
    return (
        f"\nWhen the context of an endless stream slides ({rows[0]['reference']}, from two latents "
        "to one), the logits of the next latent change by this share of their standard deviation: "
        f"{'; '.join(found)}. `kept` did not slide. With random weights a forgotten latent changes "
        "nearly everything; only the last figure compares the two ways.\n"
    )


def _conversion() -> str:
    head = (
        "machine",
        "size",
        "weights (GB)",
        "conversion (s)",
        "peak memory (GiB)",
        "loading (s)",
        "peak memory (GiB)",
    )
    return table(
        head,
        (
            (
                machine(result),
                found["size"].upper(),
                f"{found['weights_gb']:.1f}",
                f"{found['convert_seconds']:.0f}",
                f"{found['convert_peak_gib']:.1f}",
                f"{found['load_seconds']:.0f}" if "load_seconds" in found else "-",
                f"{found['load_peak_gib']:.1f}" if "load_seconds" in found else "-",
            )
            for result in read_results("conversion")
            for found in result["sizes"]
        ),
    )


def _limits() -> str:
    head = (
        "GPU, weights",
        "GB per forward",
        "ms per forward, at least",
        "frames/s sequential, at most",
        f"tokens per forward for {roofline.RATE:g} frames/s, at least",
        "frames/s `diagonal` 1 / 2, at most",
    )
    return table(
        head,
        (
            (
                f"{limit.gpu}, {limit.weights}",
                f"{limit.gigabytes:.2f}",
                f"{limit.milliseconds:.2f}",
                f"{limit.sequential:.1f}",
                f"{limit.needed:.1f}",
                f"{limit.diagonal[1]:.0f} / {limit.diagonal[2]:.0f}",
            )
            for limit in roofline.limits()
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check whether it is up to date")
    options = parser.parse_args()
    old = README.read_text()
    new = render(old)
    if not options.check:
        README.write_text(new)
    elif new != old:
        sys.exit(
            "README.md does not match the results; run python -m worldbridge.benchmarks.readme"
        )


if __name__ == "__main__":
    main()
