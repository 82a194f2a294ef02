"""Write the README's tables from the committed results.

Run `python -m worldbridge.benchmarks.readme [--check]`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from worldbridge.benchmarks.markdown import MISSING, machine, newest, table
from worldbridge.benchmarks.readme_cosmos import conversion, fidelity, limits
from worldbridge.benchmarks.results_store import read_results

__all__ = ["main", "render"]

README = Path(__file__).parents[1] / "README.md"
_DECODE = ("decode", "decode-fp8", "decode-int8")  # the last two of a GPU
# the first is of the world's own choice, the others of modes chosen by hand
_PLAYERS = (
    "players",
    "players-sequential",
    "players-medusa",
    "players-jacobi",
    "players-diagonal-k1",
    "players-diagonal-k2",
)
_GUESSING = ("jacobi", "medusa")
_FORWARD = 10  # rows of one player's forward with nine heads

# name in the result, what a reader sees, the target
_QUALITY = (
    ("tokenizer_psnr_db", "tokenizer, PSNR (dB)", ">= 27"),
    ("next_frame_psnr_db", "next frame while moving, PSNR (dB)", ">= 21, and 1 above copying"),
    ("copy_last_psnr_db", "copying the last frame, PSNR (dB)", "-"),
    ("yaw_following", "follows turns (share of trials)", ">= 0.9"),
    ("move_following", "follows walking (share of trials)", ">= 0.8"),
    ("sharpness_ratio_60s", "sharpness after 60 s of play / rendered world", "0.6 to 1.4"),
    ("frozen_or_collapsed_rate", "frozen or collapsed after 60 s", "<= 0.05"),
    ("frozen_or_collapsed_rate_rendered", "the same of rendered play (into walls)", "-"),
)


def render(text: str) -> str:
    """The README with every generated block made anew."""
    blocks = {
        "setup": _setup(),
        "speed": _speed(),
        "decode": _decode(),
        "kernels": _kernels(),
        "quality": _quality(),
        "fidelity": fidelity(),
        "conversion": conversion(),
        "limits": limits(),
    }
    for name, block in blocks.items():
        pattern = rf"(<!-- begin:{name} -->\n).*?(<!-- end:{name} -->)"
        before = re.search(pattern, text, flags=re.S)
        count = 0 if before is None else len(re.findall(pattern, text, flags=re.S))
        if count != 1:
            raise ValueError(f"README.md: expected one block {name!r}, found {count}")
        assert before is not None
        text = text[: before.end(1)] + block + text[before.start(2) :]
    return text


def _setup() -> str:
    results = read_results("setup")
    if not results:
        return MISSING + "\n"
    rows = [
        (
            machine(r),
            f"{r['minutes_clone_to_ready']:.1f}",
            f"{r['download_mb']:.0f}",
            f"{r['seconds_start_to_ready']:.1f}",
        )
        for r in results
    ]
    head = (
        "machine",
        "fresh clone to `ready` (min)",
        "downloaded (MB)",
        "start to `ready`, set up (s)",
    )
    return table(head, rows)


def _speed() -> str:
    rows = []
    for result in read_results("latency"):
        for run in result["runs"]:
            rows.append(
                (
                    machine(result),
                    run["what"],
                    f"{run['frames_per_second']:.1f}",
                    _pair(run["input_to_photon_ms"]),
                    _pair(run.get("handed_to_shown_ms")),
                )
            )
    if not rows:
        return MISSING + "\n"
    head = (
        "machine",
        "played by",
        "frames/s",
        "input to photon p50 / p95 (ms)",
        "frame handed over to shown p50 / p95 (ms)",
    )
    return table(head, rows)


def _decode() -> str:
    """Decode modes, and how many players."""
    results = [result for name in _DECODE for result in read_results(name)]
    rows = [_mode(result, mode) for result in results for mode in result["modes"]]
    head = (
        "machine",
        "world, mode",
        "exact",
        "same tokens",
        "ms a forward, p50",
        "forwards a latent",
        "frames/s",
        "times plain",
        "% of read bandwidth, measured / datasheet",
    )
    text = table(head, rows) if rows else MISSING + "\n"
    notes = sorted({result["note"] for result in results if "note" in result})
    text += "".join(f"\nOf random weights: {_after(note)}.\n" for note in notes)
    if not any(result["environment"]["gpu"] for result in results):
        text += f"\nOn a GPU: {MISSING.lower()}\n"
    return text + "".join(_players(r) for name in _PLAYERS for r in read_results(name))


def _mode(result: dict[str, Any], mode: dict[str, Any]) -> tuple[str, ...]:
    # what guesses gain belongs to the weights, and random ones are nobody's
    nobody = result["trained"] is False and mode["name"].split()[0] in _GUESSING
    name = f"{result['world']}, {mode['name']}"
    told = ["random weights"] if result["trained"] is False else []
    if result.get("precision", "model") != "model" and mode["name"] != result["baseline"]:
        told.append(result["precision"])
    gain = mode.get("times_plain")
    return (
        machine(result),
        f"{name} ({', '.join(told)})" if told else name,
        "yes" if mode["exact"] else "no",
        "yes" if mode["identical_to_sequential"] else "no",
        f"{mode['ms_per_forward']['p50']:.2f}",
        "-" if nobody else f"{mode['forwards_per_latent']:.1f}",
        _at(mode) if nobody else f"{mode['frames_per_second']:.1f}",
        "-" if nobody or gain is None else f"{gain:.2f}",
        f"{mode['percent_of_measured_bandwidth']:.0f} / {_whole(mode.get('percent_of_datasheet'))}",
    )


def _at(result: dict[str, Any]) -> str:
    """The frames per second of weights that guess so well, which these need not."""
    return (
        ", ".join(
            f"{at['frames_per_second']:.1f} at {at['tokens_per_forward']:g} tokens a forward"
            for at in result.get("frames_per_second_at", [])
        )
        or "-"
    )


def _after(note: str) -> str:
    """What a note says behind its colon."""
    return note.partition(": ")[2]


def _kernels() -> str:
    """Of a forward of ten rows, and what is done once a latent."""
    results = read_results("kernels")
    rows = [_kernel(r, case) for r in results for case in r["cases"] if _shown(case)]
    if not rows:
        return f"On a GPU: {MISSING.lower()}\n"
    head = (
        "machine",
        "kernel",
        "shape",
        "weights",
        "us, p50",
        "GB/s",
        "% of read bandwidth, measured / datasheet",
        "times torch",
        "error, ours / torch's",
    )
    return table(head, rows)


def _shown(case: dict[str, Any]) -> bool:
    shape = case["shape"]
    rows = shape.get("rows", shape.get("tokens"))
    wanted = 1 if case["kernel"] == "medusa_heads" else _FORWARD  # its heads make ten of one
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


def _players(result: dict[str, Any]) -> str:
    nobody = result["weights"] == "random" and result["mode"] in _GUESSING
    each = ", ".join(
        f"{row['players']}: {_at(row) if nobody else format(row['frames_per_second_each'], '.1f')}"
        for row in result["by_players"]
    )
    cost = result["ms_per_frame_per_further_player"]
    more = "" if cost is None or nobody else f" One more costs {cost:.1f} ms a frame."
    mode = "" if result["mode"] is None else f", mode {result['mode']}"
    if result.get("diagonal") is not None:
        mode += f" k={result['diagonal']}"
    return (
        f"\nPlayers of {result['world']}{mode}, on {machine(result)}, and the frames/s of each: "
        f"{each} (the world's rate is {result['frames_per_second_of_the_world']:g}).{more}\n"
    )


def _quality() -> str:
    results = read_results("quality")
    if not results:
        return MISSING + "\n"
    result = newest(results)
    quality = result["quality"]
    rows = [
        (text, f"{quality[name]:.2f}", goal) for name, text, goal in _QUALITY if name in quality
    ]
    note = f"Measured on {machine(result)}, {result['environment']['date']}, {quality['scenes']}.\n"
    made = quality.get("training", {})
    if made:
        note += (
            f"Trained for {made['tokenizer_minutes']:.0f} minutes (tokenizer, "
            f"{made['tokenizer_steps']:,} steps on {made['pictures']:,} pictures) and "
            f"{made['transformer_minutes']:.0f} minutes (transformer, "
            f"{made['transformer_steps']:,} steps on {made['frames_of_play']:,} frames of play).\n"
        )
    if "heads_minutes" in made:
        note += _heads_training(made)
    return table(("measure", "value", "aim"), rows) + "\n" + note + _guesses(quality)


def _heads_training(made: dict[str, Any]) -> str:
    before, after = made["network_nats_before_heads"], made["network_nats_with_heads"]
    text = (
        f"Then {made['heads_minutes']:.0f} minutes ({made['heads_steps']:,} steps) for the Medusa "
        "heads and, with them, the network's end, "
    )
    if before == after:
        text += "which was put back as it was, because the network's own loss had risen.\n"
    else:
        text += f"whose own loss went from {before:.3f} to {after:.3f} nats a token.\n"
    return text


def _guesses(quality: dict[str, Any]) -> str:
    """Tokens per forward of the ways to guess, and how good each Medusa head is."""
    rows = []
    for mode in ("medusa", "jacobi"):
        if told := quality.get(mode):
            kept = told.get("acceptance_per_head", [])
            rows.append(
                (
                    f"`{mode}`",
                    f"{told['tokens_per_forward']:.2f}",
                    f"{told['forwards_per_latent']:.1f}",
                    ", ".join(f"{share:.3f}" for share in kept) or "-",
                    f"{told['same_latents']:.0%} of {told['latents']}",
                )
            )
    head = (
        "guesses",
        "tokens per forward",
        "forwards per frame",
        "share of drafts kept, first to last head",
        "frames equal to `diagonal`",
    )
    return "\n" + table(head, rows) if rows else ""


def _pair(values: dict[str, float] | None) -> str:
    return "-" if values is None else f"{values['p50']:.0f} / {values['p95']:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args()
    old = README.read_text()
    new = render(old)
    if options.check:
        if new != old:
            sys.exit(
                "README.md is not what the results say; run python -m worldbridge.benchmarks.readme"
            )
        return
    README.write_text(new)


if __name__ == "__main__":
    main()
