"""Write the README's tables from the committed results: `python -m benchmarks.readme [--check]`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.environment import read_results

__all__ = ["main", "render"]

README = Path(__file__).parents[1] / "README.md"
_MISSING = "Not yet measured."

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
        "quality": _quality(),
        "fidelity": _fidelity(),
    }
    for name, block in blocks.items():
        pattern = rf"(<!-- begin:{name} -->\n).*?(<!-- end:{name} -->)"
        text, count = re.subn(pattern, lambda m, b=block: m[1] + b + m[2], text, flags=re.S)
        if count != 1:
            raise ValueError(f"README.md: expected one block {name!r}, found {count}")
    return text


def _setup() -> str:
    results = read_results("setup")
    if not results:
        return _MISSING + "\n"
    rows = [
        (
            _machine(r),
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
    return _table(head, rows)


def _speed() -> str:
    rows = []
    for result in read_results("latency"):
        for run in result["runs"]:
            rows.append(
                (
                    _machine(result),
                    run["what"],
                    f"{run['frames_per_second']:.1f}",
                    _pair(run["input_to_photon_ms"]),
                    _pair(run.get("handed_to_shown_ms")),
                )
            )
    if not rows:
        return _MISSING + "\n"
    head = (
        "machine",
        "played by",
        "frames/s",
        "input to photon p50 / p95 (ms)",
        "frame handed over to shown p50 / p95 (ms)",
    )
    return _table(head, rows)


def _decode() -> str:
    """Decode modes, and how many players."""
    rows = [
        (
            _machine(result),
            f"{result['world']}, {mode['name']}",
            "yes" if mode["identical_to_sequential"] else "no",
            f"{mode['ms_per_forward']['p50']:.2f}",
            f"{mode['forwards_per_latent']:.1f}",
            f"{mode['frames_per_second']:.1f}",
            f"{mode['times_sequential']:.2f}",
        )
        for result in read_results("decode")
        for mode in result["modes"]
    ]
    if not rows:
        return _MISSING + "\n"
    head = (
        "machine",
        "world, mode",
        "same tokens",
        "ms a forward, p50",
        "forwards a latent",
        "frames/s",
        "times sequential",
    )
    return _table(head, rows) + "".join(_players(r) for r in read_results("players"))


def _players(result: dict[str, Any]) -> str:
    each = ", ".join(
        f"{row['players']}: {row['frames_per_second_each']:.1f}" for row in result["by_players"]
    )
    return (
        f"\nPlayers of {result['world']} on {_machine(result)}, and the frames/s of each: {each} "
        f"(the world's rate is {result['frames_per_second_of_the_world']:g}).\n"
    )


def _quality() -> str:
    results = read_results("quality")
    if not results:
        return _MISSING + "\n"
    newest = max(results, key=lambda r: str(r["environment"]["date"]))
    quality = newest["quality"]
    rows = [
        (text, f"{quality[name]:.2f}", goal) for name, text, goal in _QUALITY if name in quality
    ]
    note = (
        f"Measured on {_machine(newest)}, {newest['environment']['date']}, {quality['scenes']}.\n"
    )
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
    return _table(("measure", "value", "aim"), rows) + "\n" + note + _guesses(quality)


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
    return "\n" + _table(head, rows) if rows else ""


def _fidelity() -> str:
    """How close the Cosmos networks are to the reference outputs, from the newest result."""
    results = read_results("fidelity")
    if not results:
        return _MISSING + "\n"
    newest = max(results, key=lambda r: str(r["environment"]["date"]))
    rows = [
        (
            told["reference"],
            f"{max(told['prefill'], told['cached_decode']):.1e}",
            f"{told['bf16_worst_logit']:.1e}, likeliest token the same at "
            f"{told['bf16_same_choice']:.0%}",
        )
        for told in newest["transformers"]
    ]
    rows += [
        (
            told["reference"],
            f"{told['decoded']:.1e}",
            f"{told['bf16_decoded']:.1e}, {told['bf16_different_indices']:.0%} of the codes differ",
        )
        for told in newest["tokenizers"]
    ]
    head = ("reference", "worst error, float32", "worst error, bfloat16")
    sizes = ", ".join(f"{name} {count:,}" for name, count in newest["parameters"].items())
    streams = "".join(_streamed(told) for told in newest["tokenizers"])
    return _table(head, rows) + streams + f"\nParameters: {sizes}.\n"


def _streamed(told: dict[str, Any]) -> str:
    windows = ", ".join(f"{count}: {error:.1e}" for count, error in told["windows"].items())
    return (
        f"\n{told['reference']} decoded as a stream, 1 to {told['latents']} latents in any pieces, "
        f"differs from decoding at once by {told['stream_worst']:.1e} of the largest value. In an "
        "endless stream its temporal attention sees a window of earlier latents; for windows of so "
        f"many latents the difference is {windows} (the reference's weights are random, so this is "
        "no forecast for trained ones).\n"
    )


def _machine(result: dict[str, Any]) -> str:
    environment = result["environment"]
    return environment["gpu"] or f"{environment['cores']} cores of {environment['processor']}"


def _pair(values: dict[str, float] | None) -> str:
    return "-" if values is None else f"{values['p50']:.0f} / {values['p95']:.0f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args()
    old = README.read_text()
    new = render(old)
    if options.check:
        if new != old:
            sys.exit("README.md is not what the results say; run python -m benchmarks.readme")
        return
    README.write_text(new)


if __name__ == "__main__":
    main()
