"""Which parts of `benchmarks.speed` a machine can measure."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.readme import _DECODE
from benchmarks.speed import parts


def test_a_gpu_adds_kernels_and_weights_of_one_byte() -> None:
    assert set(parts(quick=True, gpu=False)) == {"decode", "players"}
    assert set(parts(quick=True, gpu=True)) == {*_DECODE, "players", "kernels"}


def test_an_unknown_part_is_refused_before_anything_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.speed", "speed"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "got 'speed'" in done.stderr
