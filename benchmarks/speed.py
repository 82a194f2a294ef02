"""Measure decode modes, players and kernels on this machine.

Run `python -m worldbridge.benchmarks.speed [PART ...]`.

With a GPU it measures the shapes of the 4B model with random weights, in bfloat16 and with weights
of one byte, and the kernels; without one the embedded world.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from worldbridge.benchmarks.decode.bench import bench_decode
from worldbridge.benchmarks.decode.players import bench_players
from worldbridge.benchmarks.results_store import write_result

__all__ = ["main", "parts"]

_PRESET = "cosmos-4b-320p"
# tokens per forward that are published for the 4B model with nine heads (arXiv 2501.03575, table
# 15): random weights guess as well as nobody's
_PUBLISHED = 4.24
_CHOICES: dict[str, Any] = {
    "widths": (16, 32, 64),
    "diagonals": (1, 2),
    "acceptances": (_PUBLISHED,),
}
_Part = Callable[[], dict[str, Any]]


def parts(quick: bool, gpu: bool) -> dict[str, _Part]:
    """What is measured, by the names of the results."""
    threads = len(os.sched_getaffinity(0))
    common: dict[str, Any] = {"quick": quick, "threads": threads, "progress": _tell}
    if not gpu:
        return {
            "decode": lambda: bench_decode("embedded", **common),
            "players": lambda: bench_players("embedded", most=4, device="cpu", **common),
        }
    on_gpu = {"preset": _PRESET, "device": "cuda", **common}
    decode = partial(bench_decode, **on_gpu, **_CHOICES)
    players = partial(bench_players, **on_gpu)
    guessing = partial(players, most=8, acceptances=(_PUBLISHED,))
    return {
        "decode": decode,
        "decode-fp8": partial(decode, weights="fp8"),
        "decode-int8": partial(decode, weights="int8"),
        # one token per forward is far from the rate: it is for what one more player costs
        "players-sequential": partial(players, most=3, mode="sequential"),
        "players-medusa": partial(guessing, mode="medusa"),
        "players-jacobi": partial(guessing, mode="jacobi"),
        "players-diagonal-k1": partial(players, most=12, mode="diagonal", diagonal=1),
        "players-diagonal-k2": partial(players, most=12, mode="diagonal", diagonal=2),
        "kernels": lambda: _kernels(quick),
    }


def _kernels(quick: bool) -> dict[str, Any]:
    from worldbridge.benchmarks.kernels.bench import bench_kernels  # Triton is only needed here

    return bench_kernels("cuda", only=(), quick=quick, progress=_tell)


def main() -> None:
    known = parts(quick=False, gpu=torch.cuda.is_available())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", help=f"of {', '.join(known)}; all without any")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    options = parser.parse_args()
    for name in options.part:
        if name not in known:
            parser.error(f"expected parts of {', '.join(known)} on this machine, got {name!r}")
    chosen = parts(options.quick, torch.cuda.is_available())
    for name in options.part or known:
        print(f"written: {write_result(name, chosen[name]())}")


def _tell(text: str, share: float) -> None:
    print(f"{share:4.0%}  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
