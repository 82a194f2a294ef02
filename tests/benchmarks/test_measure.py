"""Which parts of `worldbridge.benchmarks.measure` a machine can measure."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worldbridge.benchmarks.decode.bench import bench_decode
from worldbridge.benchmarks.decode.players import bench_players
from worldbridge.benchmarks.measure import parts
from worldbridge.benchmarks.readme import _DECODE, _PLAYERS

SCRIPT = (Path(__file__).parents[2] / "benchmarks" / "gpu_decode.sh").read_text()


def test_a_gpu_adds_kernels_and_weights_of_one_byte() -> None:
    anywhere = {"setup", "conversion", "bridge", "network"}
    assert set(parts(quick=True, gpu=False)) == {"decode", "players", *anywhere}
    assert set(parts(quick=True, gpu=True)) == {*_DECODE, *_PLAYERS[1:], "kernels", *anywhere}


def test_parts_ask_for_what_the_benchmarks_take() -> None:
    for name, part in parts(quick=True, gpu=True).items():
        if name in (*_DECODE, *_PLAYERS):
            call: Any = part
            bench = bench_decode if name in _DECODE else bench_players
            assert call.func is bench
            inspect.signature(bench).bind(*call.args, **call.keywords)


def test_the_script_for_gpus_writes_what_the_readme_reads() -> None:
    written = set(re.findall(r'--out "\$out/([a-z0-9-]+)\.json"', SCRIPT))
    written |= set(re.findall(r"^players (players-[a-z0-9-]+) ", SCRIPT, re.M))
    assert 'file="decode-$weights"' in SCRIPT and "file=decode " in SCRIPT
    assert {*_PLAYERS[1:], "kernels", "check"} == written
    assert "for weights in bf16 fp8 int8" in SCRIPT


def test_an_unknown_part_is_refused_before_anything_is_measured() -> None:
    command = [sys.executable, "-m", "worldbridge.benchmarks.measure", "speed"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "got 'speed'" in done.stderr


def test_a_part_stands_for_all_that_begin_with_its_name(tmp_path: Path) -> None:
    """Without its sanitizer the script says which commands it does not run."""
    script = Path(__file__).parents[2] / "benchmarks" / "gpu_decode.sh"
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    if shutil.which("compute-sanitizer", path=environment["PATH"]):
        pytest.skip("it is here")
    done = subprocess.run(
        ["bash", str(script), "out", "sanitizer"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = {path.stem: path.read_text() for path in (tmp_path / "out").iterdir()}
    tools = {
        "memcheck": "memcheck",
        "decoding": "memcheck",
        "racecheck": "racecheck",
        "synccheck": "synccheck",
    }
    assert {name.removeprefix("sanitizer-") for name in said} == set(tools)
    for name, tool in tools.items():
        text = said[f"sanitizer-{name}"]
        assert text.startswith(f"compute-sanitizer is not here; not run: {tool} python3 -m pytest")
    assert "tests/runtime/decoding" in said["sanitizer-decoding"]
    assert "test_skinny_gemm" in said["sanitizer-racecheck"]
