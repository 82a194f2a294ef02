"""Decode modes and players of the embedded world: `python -m benchmarks.speed`."""

from __future__ import annotations

import os
import sys

from benchmarks.environment import write_result
from worldbridge.runtime.bench.decode import bench_decode
from worldbridge.runtime.bench.players import bench_players

__all__ = ["main"]


def main() -> None:
    threads = len(os.sched_getaffinity(0))
    decode = bench_decode("embedded", quick=False, threads=threads, progress=_tell)
    print(f"written: {write_result('decode', decode)}")
    players = bench_players(
        "embedded", most=4, quick=False, threads=threads, device="cpu", progress=_tell
    )
    print(f"written: {write_result('players', players)}")


def _tell(text: str, share: float) -> None:
    print(f"{share:4.0%}  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
