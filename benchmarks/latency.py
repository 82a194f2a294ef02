"""Measure frame rate and input-to-photon latency of a served world.

Run `python -m worldbridge.benchmarks.latency`.

There are five runs, each with its own server: the profiler and a headless Chromium with each
bundled world, and a headless Chromium with the procedural world at 30 frames per second, which
shows the latency of everything but the model.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.chromium import Page, chromium, find_chromium
from tests.support.page import read_latency_table
from tests.support.server import Server, serving
from worldbridge.benchmarks.store import write_result
from worldbridge.cli.profile import measure

__all__ = ["main"]

_PLAYING = "window.worldbridge && worldbridge.state === 'playing'"
_TRACK = ("KeyW", "ArrowLeft", "KeyD", "ArrowRight", "KeyS", "KeyA")
_NOT_THE_MODEL = ("encode_ms", "downlink_ms", "show_ms")


def profiled(world: str, seconds: float) -> dict[str, Any]:
    """Play with the Python profiler: JPEG over the WebSocket."""
    with serving(_log(), "--world", world) as server:
        result = measure(server.url, seconds=seconds).as_json()
    return {"what": f"{world}, Python profiler (JPEG)", **result}


def browsed(world: str, seconds: float) -> dict[str, Any]:
    """Play with a headless Chromium over WebRTC, and read the latency table of the page."""
    with serving(_log(), "--world", world) as server:
        return asyncio.run(_browse(server, world, seconds))


async def _browse(server: Server, world: str, seconds: float) -> dict[str, Any]:
    binary = find_chromium()
    if binary is None:
        sys.exit("no Chromium found; install one or name it with CHROMIUM=/path/to/chrome")
    async with chromium(binary) as browser:
        page = await browser.new_page()
        await page.open(f"{server.url}/?theme=city&seed=7&autoplay=1&video=webrtc")
        await page.until(_PLAYING, 60)
        await asyncio.sleep(3)
        await _play(page, seconds)
        stats = await page.evaluate("worldbridge.stats()")
        rows = await read_latency_table(page)
        await page.open("about:blank")
    by_frame = {row["frame"]: row for row in rows}
    shown = [sum(row[leg] for leg in _NOT_THE_MODEL) for row in by_frame.values()]
    quantiles = np.percentile(shown, [50, 95, 99]).round(2).tolist()
    return {
        "what": f"{world}, headless Chromium (WebRTC)",
        "handed_to_shown_ms": dict(zip(("p50", "p95", "p99"), quantiles, strict=True)),
        **{k: stats[k] for k in _KEPT if k in stats},
    }


_KEPT = (
    "frames_per_second",
    "input_to_photon_ms",
    "spans_ms",
    "dropped_frames",
    "world",
    "transport",
)


async def _play(page: Page, seconds: float) -> None:
    """Hold one key after another, so that the controls change while frames are measured."""
    end = time.monotonic() + seconds
    turn = 0
    while time.monotonic() < end:
        code = _TRACK[turn % len(_TRACK)]
        await page.key(code, down=True)
        await asyncio.sleep(0.7)
        await page.key(code, down=False)
        turn += 1


def start_seconds(world: str) -> float:
    """Return the seconds from the command to its ready line, with everything installed."""
    started = time.monotonic()
    with serving(_log(), "--world", world):
        return round(time.monotonic() - started, 2)


def _log() -> Path:
    return Path(tempfile.mkdtemp(prefix="wb-bench-")) / "server.log"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each run")
    options = parser.parse_args()
    runs = []
    for measured, world in (
        (profiled, "guided"),
        (browsed, "guided"),
        (profiled, "embedded"),
        (browsed, "embedded"),
        (browsed, "procedural"),
    ):
        print(f"{measured.__name__} {world}, {options.seconds:.0f} s ...", flush=True)
        runs.append(measured(world, options.seconds))
        print(runs[-1], flush=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    result = {"commit": commit, "start_to_ready_s": start_seconds("embedded"), "runs": runs}
    write_result("latency", result)


if __name__ == "__main__":
    main()
