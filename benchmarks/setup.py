"""Measure set-up time: clone this checkout and start the server.

Run `python -m worldbridge.benchmarks.setup`.

Measures a fresh clone to its ready line, what was downloaded, and a second start.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from worldbridge.benchmarks.results_store import write_result

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
_SIZE = re.compile(r"Downloading \S+ \(([\d.]+) ([kMG])B\)")
_FILE = re.compile(r"Processing (\S+\.whl)")
_MEGABYTES = {"k": 1e-3, "M": 1.0, "G": 1e3}


def start(clone: Path) -> float:
    """Seconds from `./build.sh serve` to its ready line."""
    environment = {**os.environ, "PIP_NO_CACHE_DIR": "1"}
    began = time.monotonic()
    process = subprocess.Popen(
        ["./build.sh", "serve", "--port", "0"],
        cwd=clone,
        env=environment,
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


def downloaded_mb(log: str) -> float:
    """Megabytes of packages, from pip's log; a wheel that lay on the disk counts with its size."""
    total = sum(float(size) * _MEGABYTES[unit] for size, unit in _SIZE.findall(log))
    files = (Path(name.removeprefix("file://")) for name in _FILE.findall(log))
    return total + sum(f.stat().st_size / 1e6 for f in files if f.is_file())


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wb-clone-") as folder:
        clone = Path(folder) / "worldbridge"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        first = start(clone)
        log = (clone / ".venv-setup.log").read_text(errors="replace")
        again = start(clone)
    result = {
        "minutes_clone_to_ready": round(first / 60, 2),
        "download_mb": round(downloaded_mb(log)),
        "seconds_start_to_ready": round(again, 1),
    }
    print(f"{result}\nwritten: {write_result('setup', result)}")


if __name__ == "__main__":
    main()
