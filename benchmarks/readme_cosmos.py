"""The README's blocks about the Cosmos networks."""

from __future__ import annotations

from typing import Any

from worldbridge.benchmarks import roofline
from worldbridge.benchmarks.markdown import MISSING, machine, newest, table
from worldbridge.benchmarks.results_store import read_results

__all__ = ["conversion", "fidelity", "limits"]


def fidelity() -> str:
    """How close the Cosmos networks are to the reference outputs, from the newest result."""
    results = read_results("fidelity")
    if not results:
        return MISSING + "\n"
    result = newest(results)
    rows = [
        (
            told["reference"],
            f"{max(told['prefill'], told['cached_decode']):.1e}",
            f"{told['bf16_worst_logit']:.1e}, likeliest token the same at "
            f"{told['bf16_same_choice']:.0%}",
        )
        for told in result["transformers"]
    ]
    rows += [
        (
            told["reference"],
            f"{told['decoded']:.1e}",
            f"{told['bf16_decoded']:.1e}, {told['bf16_different_indices']:.0%} of the codes differ",
        )
        for told in result["tokenizers"]
    ]
    head = ("reference", "worst error, float32", "worst error, bfloat16")
    sizes = ", ".join(f"{name} {count:,}" for name, count in result["parameters"].items())
    streams = "".join(_streamed(told) for told in result["tokenizers"])
    slid = _slid(result.get("slides", []))
    return table(head, rows) + streams + slid + f"\nParameters: {sizes}.\n"


def _streamed(told: dict[str, Any]) -> str:
    windows = ", ".join(f"{count}: {error:.1e}" for count, error in told["windows"].items())
    return (
        f"\n{told['reference']} decoded as a stream, 1 to {told['latents']} latents in any pieces, "
        f"differs from decoding at once by {told['stream_worst']:.1e} of the largest value. In an "
        "endless stream its temporal attention sees a window of earlier latents; for windows of so "
        f"many latents the difference is {windows} (the reference's weights are random, so this is "
        "no forecast for trained ones).\n"
    )


def _slid(rows: list[dict[str, Any]]) -> str:
    """What the two ways of sliding a window do to the logits."""
    told = [
        f"{row['way']} against {row['against']}: {row['deviation']:.2f}, likeliest token the same "
        f"at {row['same_choice']:.0%}"
        for row in rows
    ]
    if not told:
        return ""
    return (
        f"\nWhen the window of an endless stream slides ({rows[0]['reference']}, from two latents "
        "to one), the next latent's logits change by so much of their standard deviation: "
        f"{'; '.join(told)}. `kept` has not slid. With random weights a forgotten latent changes "
        "nearly everything; what tells the two ways apart is the last figure.\n"
    )


def conversion() -> str:
    """What it costs to bring a checkpoint of full size."""
    rows = [
        (
            machine(result),
            told["size"].upper(),
            f"{told['weights_gb']:.1f}",
            f"{told['convert_seconds']:.0f}",
            f"{told['convert_peak_gib']:.1f}",
            f"{told['load_seconds']:.0f}" if "load_seconds" in told else "-",
            f"{told['load_peak_gib']:.1f}" if "load_seconds" in told else "-",
        )
        for result in read_results("conversion")
        for told in result["sizes"]
    ]
    head = (
        "machine",
        "size",
        "weights (GB)",
        "converted (s)",
        "most memory (GiB)",
        "loaded from disk (s)",
        "most memory (GiB)",
    )
    return table(head, rows) if rows else MISSING + "\n"


def limits() -> str:
    """Arithmetic, so that nobody mistakes a missing measurement for a missing limit."""
    rows = [
        (
            f"{limit.gpu}, {limit.weights}",
            f"{limit.gigabytes:.2f}",
            f"{limit.milliseconds:.2f}",
            f"{limit.sequential:.1f}",
            f"{limit.needed:.1f}",
            f"{limit.diagonal[1]:.0f} / {limit.diagonal[2]:.0f}",
        )
        for limit in roofline.limits()
    ]
    head = (
        "GPU, weights",
        "GB a forward",
        "ms a forward, at least",
        "frames/s sequential, at most",
        f"tokens per forward for {roofline.RATE:g} frames/s, at least",
        "frames/s `diagonal` 1 / 2, at most",
    )
    return table(head, rows)
