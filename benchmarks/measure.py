"""Measure this machine for the README: set-up, decoding, players, kernels, conversion.

Run `python -m worldbridge.benchmarks.measure PART...`. Each part writes a result.

setup              a fresh clone to its ready line, the download, and a second start
conversion         a checkpoint of random weights in the published layout, at full size: written,
                   converted, loaded, each in a process of its own. Disk space for two copies of the
                   weights: 16 GB for 4b, 54 GB for 13b
decode, players    the bundled world; with a GPU the 4B model with random weights, in every type
bridge             frames through the gateway, by transport; a headless Chromium if there is one
network            inputs through loss, and play over poor lines in a headless Chromium
kernels            with a GPU only
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from worldbridge.benchmarks.decode.bench import bench_decode
from worldbridge.benchmarks.decode.players import bench_players
from worldbridge.benchmarks.store import result_path, write_result

__all__ = ["main", "parts"]

ROOT: Final = Path(__file__).parents[1]
_PRESET: Final = "cosmos-4b-320p"
# Tokens per forward pass published for the 4B model with nine heads (arXiv 2501.03575, table 15).
# How many drafts random weights accept says nothing about trained ones.
_PUBLISHED: Final = 4.24
_CHOICES: Final[dict[str, Any]] = {
    "widths": (16, 32, 64),
    "diagonals": (1, 2),
    "acceptances": (_PUBLISHED,),
}
_Part = Callable[[], dict[str, Any]]


def parts(
    quick: bool, gpu: bool, sizes: tuple[str, ...] = ("4b",), folder: Path | None = None
) -> dict[str, _Part]:
    """Return what this machine can measure, by the names of the results."""
    common: dict[str, Any] = {
        "quick": quick,
        "threads": len(os.sched_getaffinity(0)),
        "progress": _print_progress,
    }
    anywhere: dict[str, _Part] = {
        "setup": measure_setup,
        "conversion": partial(measure_conversions, sizes, folder),
        "bridge": partial(_bridge, quick),
        "network": partial(_network, quick),
    }
    if not gpu:
        return anywhere | {
            "decode": partial(bench_decode, "embedded", **common),
            "players": partial(bench_players, "embedded", most=4, device="cpu", **common),
        }
    on_gpu = {"preset": _PRESET, "device": "cuda", **common}
    decode = partial(bench_decode, **on_gpu, **_CHOICES)
    players = partial(bench_players, **on_gpu)
    drafting = partial(players, most=8, acceptances=(_PUBLISHED,))
    return anywhere | {
        "decode": decode,
        "decode-fp8": partial(decode, weights="fp8"),
        "decode-int8": partial(decode, weights="int8"),
        # far from the frame rate, but it shows the cost of one more player
        "players-sequential": partial(players, most=3, mode="sequential"),
        "players-medusa": partial(drafting, mode="medusa"),
        "players-jacobi": partial(drafting, mode="jacobi"),
        "players-diagonal-k1": partial(players, most=12, mode="diagonal", diagonal=1),
        "players-diagonal-k2": partial(players, most=12, mode="diagonal", diagonal=2),
        "kernels": partial(_kernels, quick),
    }


def _bridge(quick: bool) -> dict[str, Any]:
    from worldbridge.benchmarks.bridge.bench import bench_bridge  # loads WebRTC

    return bench_bridge(quick=quick, progress=_print_progress)


def _network(quick: bool) -> dict[str, Any]:
    from worldbridge.benchmarks.bridge.network import bench_network

    return bench_network(quick=quick, progress=_print_progress)


def _kernels(quick: bool) -> dict[str, Any]:
    from worldbridge.benchmarks.kernels.bench import bench_kernels  # needs Triton

    return bench_kernels("cuda", only=(), quick=quick, progress=_print_progress)


def _print_progress(text: str, share: float) -> None:
    print(f"{share:4.0%}  {text}", file=sys.stderr, flush=True)


# --- set-up --------------------------------------------------------------------------------------

_SIZE: Final = re.compile(r"Downloading \S+ \(([\d.]+) ([kMG])B\)")
_FILE: Final = re.compile(r"Processing (\S+\.whl)")
_MEGABYTES: Final = {"k": 1e-3, "M": 1.0, "G": 1e3}


def measure_setup() -> dict[str, Any]:
    """Clone this checkout, start the server twice, and return times and the download's size."""
    with tempfile.TemporaryDirectory(prefix="wb-clone-") as folder:
        clone = Path(folder) / "worldbridge"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        first = _seconds_to_ready(clone)
        log = (clone / ".venv-setup.log").read_text(errors="replace")
        again = _seconds_to_ready(clone)
    return {
        "minutes_clone_to_ready": round(first / 60, 2),
        "download_mb": round(_downloaded_mb(log)),
        "seconds_start_to_ready": round(again, 1),
    }


def _seconds_to_ready(clone: Path) -> float:
    began = time.monotonic()
    process = subprocess.Popen(
        ["./build.sh", "serve", "--port", "0"],
        cwd=clone,
        env={**os.environ, "PIP_NO_CACHE_DIR": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.monotonic() - began
    process.terminate()
    process.wait(30)
    if not line.startswith("ready "):
        sys.exit(f"the server did not start: {line!r}")
    return seconds


def _downloaded_mb(log: str) -> float:
    """Return the megabytes of packages in pip's log; a wheel on the disk counts by its size."""
    total = sum(float(size) * _MEGABYTES[unit] for size, unit in _SIZE.findall(log))
    files = (Path(name.removeprefix("file://")) for name in _FILE.findall(log))
    return total + sum(f.stat().st_size / 1e6 for f in files if f.is_file())


# --- conversion ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Done:
    output: str
    seconds: float
    peak_gib: float


def measure_conversions(sizes: tuple[str, ...], folder: Path | None) -> dict[str, Any]:
    """Measure some sizes, and keep the earlier results of the others on this machine."""
    path = result_path("conversion")
    earlier = json.loads(path.read_text())["sizes"] if path.exists() else []
    kept = [entry for entry in earlier if entry["size"] not in sizes]
    return {"sizes": kept + [_convert(size, folder) for size in sizes]}


def _convert(size: str, place: Path | None) -> dict[str, Any]:
    ours = (sys.executable, "-m", "worldbridge")
    with tempfile.TemporaryDirectory(prefix="wb-convert-", dir=place) as folder:
        source, world = f"{folder}/source", f"{folder}/world"
        synthetic = "worldbridge.models.convert.synthetic"
        written = _run(sys.executable, "-m", synthetic, source, "--size", size)
        converted = _run(*ours, "convert", source, "--out", world, "--resolution", "320x512")
        loaded = _run(*ours, "worlds", world, "--load", "--json")
        report = json.loads(loaded.output)["loaded"][0]
        return {
            "size": size,
            "weights_gb": round(sum(p.stat().st_size for p in Path(world).iterdir()) / 1e9, 2),
            "write_seconds": round(written.seconds, 1),
            "convert_seconds": round(converted.seconds, 1),
            "convert_peak_gib": round(converted.peak_gib, 2),
            "parameters": report["parameters"],
            "load_seconds": round(report["seconds"], 1),
            "load_peak_gib": round(loaded.peak_gib, 2),
        }


def _run(*command: str) -> _Done:
    """Run a command that has to succeed, and return its output, time and largest memory."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
        output.seek(0)
        # Linux counts kibibytes
        return _Done(output.read(), time.monotonic() - began, usage.ru_maxrss / 2**20)


def main() -> None:
    gpu = torch.cuda.is_available()
    known = parts(quick=False, gpu=gpu)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="+", help=f"one of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--size", action="append", help="conversion: 4b, 5b, 12b, 13b; repeatable")
    parser.add_argument("--dir", type=Path, help="conversion: where there is disk space")
    options = parser.parse_args()
    for name in options.part:
        if name not in known:
            parser.error(f"expected parts of {', '.join(known)} on this machine, got {name!r}")
    chosen = parts(options.quick, gpu, tuple(options.size or ("4b",)), options.dir)
    for name in options.part:
        write_result(name, chosen[name]())


if __name__ == "__main__":
    main()
