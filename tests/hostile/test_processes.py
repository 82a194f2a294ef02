"""Processes that are stopped, and a log that cannot be written: one player's game goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

from tests.support.server import Server, alive, serving
from worldbridge.engine_plugins.python import connect
from worldbridge.engine_plugins.python.client import Client
from worldbridge.health import forks_of

pytestmark = [pytest.mark.e2e, pytest.mark.serial]

PATIENCE_S = 120.0
MAX_GROWTH_MB = 20.0
# A server that gives up after ten starts in five minutes is right, except here.
PATIENT_SERVER = (
    sys.executable,
    "-c",
    "from worldbridge import children, cli; children._MOST_STARTS = 10**6; cli.main()",
)


def size(pid: int) -> tuple[int, int, float]:
    """How many children a supervisor has, its descriptors and its MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return len(forks_of(pid)), len(os.listdir(f"/proc/{pid}/fd")), memory


async def stop(server: Server, player: Client, name: str) -> float:
    """Stop a process and play on. Returns how many seconds later frames came again."""
    pid = server.child(name)
    if name == "worker":  # a fork of the process that holds the loaded world
        pid = (forks_of(pid) or [pid])[-1]
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while alive(pid):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(player.frame(), 0.2)
            for _ in range(3):  # what was on its way may be the first
                await player.frame()
    except TimeoutError:
        said = "\n".join(server.output().splitlines()[-30:])
        raise AssertionError(f"{name} {pid} was stopped:\n{said}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)  # for nobody, if it was ended
    return time.monotonic() - began


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.long)])
async def test_play_goes_on_when_processes_stop(times: int, tmp_path: Path) -> None:
    options = ("--world", "procedural", "--seats", "1")
    taken: dict[str, list[float]] = {"worker": [], "gateway": []}
    with serving(tmp_path / "log", *options, command=PATIENT_SERVER) as server:
        supervisor = server.process.pid
        async with connect(server.url) as player:
            await player.frame()
            sizes = []
            for name in islice(cycle(taken), times):
                taken[name].append(await stop(server, player, name))
                for _ in range(30):
                    await player.frame()
                sizes.append(size(supervisor))
                print(f"{name} {taken[name][-1]:.1f} s, {sizes[-1]}", flush=True)
            assert player.error is None
            assert all(lost.same_world for lost in player.interruptions), player.interruptions
    for name, seconds in taken.items():
        median, longest = np.percentile(seconds, [50, 100])
        print(f"{name}: frames {median:.1f} s after a stop, {longest:.1f} s at most")
    # the first two replacements allocate what stays
    first, last = sizes[1], sizes[-1]
    print(f"processes, descriptors, MB of the supervisor: {first} -> {last}")
    assert last[:2] <= first[:2] and last[2] - first[2] <= MAX_GROWTH_MB
    said = server.output()
    assert "Traceback" not in said
    for name in taken:
        assert f"{name} does not answer; printing its stacks and replacing it" in said
    assert "most recent call first" in said, "no stacks"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["full", "closed", "unread"])
@pytest.mark.parametrize("seconds", [6.0, pytest.param(60.0, marks=pytest.mark.long)])
async def test_no_frame_is_lost_to_a_log_that_cannot_be_written(
    tmp_path: Path, kind: str, seconds: float
) -> None:
    reader, writer = os.pipe()
    if kind == "closed":
        os.close(reader)
    elif kind == "full":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    process = subprocess.Popen(
        [sys.executable, "-m", "worldbridge", "serve", "--port", "0", "--world", "procedural"]
        + ["--seats", "1", "--log-level", "debug"],
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.to_thread(process.stdout.readline)).removeprefix("ready ").strip()
        noise = asyncio.create_task(_causing_lines(url))
        numbers = []
        async with connect(url) as player, asyncio.timeout(seconds + PATIENCE_S):
            numbers.append((await player.frame()).header.frame)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                numbers.append((await player.frame()).header.frame)
            skipped, lost = player.frames_skipped, len(player.interruptions)
        noise.cancel()
        missed = numbers[-1] - numbers[0] + 1 - len(numbers) - skipped
        print(f"{kind}, {seconds:.0f} s: {len(numbers)} frames, {missed} missed, {skipped} skipped")
        assert lost == 0 and numbers == sorted(numbers) and len(numbers) > seconds
    finally:
        process.terminate()
        assert process.wait(60) == 0


async def _causing_lines(url: str) -> None:
    """Cause lines in the log, more than a pipe holds."""
    while True:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(urllib.request.urlopen, f"{url}/session", timeout=5)
        await asyncio.sleep(0.02)
