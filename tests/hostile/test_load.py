"""A real server under attack: an honest player plays on, and the gateway stays as large as it was.

The frame times depend on the machine and are printed, not asserted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.hostile.attacks import ATTACKS, BURNERS, PLAYERS
from tests.support.server import Server, serving
from worldbridge.engine_plugins.python import connect
from worldbridge.engine_plugins.python.client import Client

pytestmark = [pytest.mark.e2e, pytest.mark.serial]

MAX_GROWTH = 64 << 20  # bytes
SHORT_S, LONG_S = 2.0, 20.0
SHORT = ("junk before hello", "starts", "idle connections", "empty fragments")
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("hostile") / "log"
    with serving(log, "--world", "procedural", "--seats", "6") as found:
        yield found


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]


async def intervals(client: Client, seconds: float) -> list[float]:
    """Return the ms between frames that arrive within `seconds`."""
    found, before = [], time.monotonic()
    end = before + seconds
    while before < end:
        async with asyncio.timeout(PATIENCE_S):
            await client.frame()
        now = time.monotonic()
        found.append((now - before) * 1000)
        before = now
    return found


async def attacked(server: Server, name: str, seconds: float) -> None:
    gateway, worker = server.child("gateway"), server.child("worker")
    async with connect(server.url) as honest:
        await honest.frame()
        quiet = await intervals(honest, seconds)
        before, largest = resident(gateway), 0
        with running(server, name, seconds) as attackers:
            during = await intervals(honest, seconds)
            largest = resident(gateway)
            while attackers.poll() is None:
                during += await intervals(honest, 0.2)
                largest = max(largest, resident(gateway))
        ended = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            await honest.frame()
        recovery = time.monotonic() - ended
        assert honest.error is None and not honest.interruptions
    assert (server.child("gateway"), server.child("worker")) == (gateway, worker), "a restart"
    growth = (largest - before) / (1 << 20)
    print(
        f"\n{name:24} p99 {p99(quiet):5.0f} -> {p99(during):5.0f} ms, gateway {growth:+4.0f} MB, "
        f"next frame {recovery * 1000:4.0f} ms after the end"
    )
    assert largest - before <= MAX_GROWTH


@contextlib.contextmanager
def running(server: Server, name: str, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run attackers, from their first moment until they end or the test does."""
    command = [sys.executable, "-m", "tests.hostile.attacks", str(server.port), name, f"{seconds}"]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def p99(times: list[float]) -> float:
    return float(np.percentile(times, 99))


@pytest.mark.parametrize("name", SHORT)
async def test_an_honest_player_plays_on(server: Server, name: str) -> None:
    await attacked(server, name, SHORT_S)


# What the machine's share of attackers costs, and of players, is printed before the attacks.
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [BURNERS, PLAYERS, *ATTACKS])
async def test_an_honest_player_plays_on_for_longer(server: Server, name: str) -> None:
    await attacked(server, name, LONG_S)


async def test_the_server_answers_after_all_of_it(server: Server) -> None:
    async with connect(server.url) as late, asyncio.timeout(PATIENCE_S):
        await late.frame()
    assert "Traceback" not in server.output(), server.output()
    assert "\x1b" not in server.output()
