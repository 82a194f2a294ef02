"""Measure the conversion of checkpoints at full size.

Run `python -m worldbridge.benchmarks.conversion 4b 13b`.

Writes a checkpoint of random weights in the published layout, converts it, and loads what came of
it on the CPU, each in a process of its own whose largest memory is taken. The three need disk space
for two copies of the weights: 16 GB for 4b, 54 GB for 13b. `--no-load` leaves loading out, which
holds all weights in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldbridge.benchmarks.results_store import result_path, write_result

__all__ = ["main"]

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class _Done:
    output: str
    seconds: float
    peak_memory: int  # bytes


def run(*command: str) -> _Done:
    """A command that has to succeed, with what it took."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
        output.seek(0)
        # Linux counts kibibytes
        return _Done(output.read(), time.monotonic() - began, usage.ru_maxrss * 1024)


def measure(size: str, load: bool, place: Path | None) -> dict[str, Any]:
    ours = (sys.executable, "-m", "worldbridge")
    with tempfile.TemporaryDirectory(prefix="wb-convert-", dir=place) as folder:
        source, world = f"{folder}/source", f"{folder}/world"
        synthetic = "worldbridge.models.convert.synthetic"
        written = run(sys.executable, "-m", synthetic, source, "--size", size)
        resolution = ("--resolution", "320x512")
        converted = run(*ours, "convert", source, "--out", world, *resolution)
        result = {
            "size": size,
            "weights_gb": round(sum(p.stat().st_size for p in Path(world).iterdir()) / 1e9, 2),
            "write_seconds": round(written.seconds, 1),
            "convert_seconds": round(converted.seconds, 1),
            "convert_peak_gib": round(converted.peak_memory / _GIB, 2),
        }
        if load:
            loaded = run(*ours, "worlds", world, "--load", "--json")
            report = json.loads(loaded.output)["loaded"][0]
            result |= {
                "parameters": report["parameters"],
                "load_seconds": round(report["seconds"], 1),
                "load_peak_gib": round(loaded.peak_memory / _GIB, 2),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["4b"], help="4b, 5b, 12b, 13b")
    parser.add_argument("--no-load", action="store_true", help="convert only")
    parser.add_argument("--dir", type=Path, help="where there is disk space; default: /tmp")
    chosen = parser.parse_args()
    results = []
    for size in chosen.sizes:
        results.append(measure(size, not chosen.no_load, chosen.dir))
        print(results[-1], flush=True)
    measured = {result["size"] for result in results}
    kept = [entry for entry in _earlier() if entry["size"] not in measured]
    print(f"written: {write_result('conversion', {'sizes': kept + results})}")


def _earlier() -> list[dict[str, Any]]:
    """What was measured of other sizes on this machine."""
    path = result_path("conversion")
    return json.loads(path.read_text())["sizes"] if path.exists() else []


if __name__ == "__main__":
    main()
