"""Clients come and go, half of them without goodbye, while one player plays on."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from worldbridge.benchmarks.bridge.bench import gateway_with_source
from worldbridge.benchmarks.bridge.viewers import (
    GatewayViewer,
    WebRtcViewer,
    WebSocketViewer,
    ZeroMqViewer,
)
from worldbridge.bridge.protocol import Role, i420_bytes

WIDTH, HEIGHT, FPS = 128, 64, 30.0
PATIENCE_S = 60.0
RTC_PATIENCE_S = 20.0  # a busy machine may be too slow for the handshakes of WebRTC
MEMORY_MB = 20.0  # by which the gateway may grow


def _memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def _eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.05)


async def _visit(dice: random.Random, urls: dict[str, str], session: str | None) -> bool:
    """Connect in some way, see a frame, and leave or vanish. Returns whether a frame came."""
    kind: type[GatewayViewer] = dice.choices(
        (WebSocketViewer, ZeroMqViewer, WebRtcViewer), (6, 3, 1)
    )[0]
    role: Role = dice.choice(("player", "spectator"))
    viewer = kind(urls[kind.scheme], role, session if role == "spectator" else None)
    await viewer.open()
    rtc = kind is WebRtcViewer
    try:
        await asyncio.wait_for(viewer.first.wait(), RTC_PATIENCE_S if rtc else PATIENCE_S)
    except TimeoutError:
        if not rtc:
            raise
    if dice.random() < 0.5 and not rtc:
        viewer.kill()
    else:
        await viewer.close()
    return viewer.first.is_set()


@pytest.mark.serial
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("visits", [40, pytest.param(1000, marks=pytest.mark.long)])
async def test_a_gateway_keeps_its_size_while_clients_come_and_go(
    visits: int, tmp_path: Path
) -> None:
    walk = tmp_path / "walk.i420"
    frames = np.random.default_rng(0).integers(16, 235, (8, i420_bytes(WIDTH, HEIGHT)), np.uint8)
    walk.write_bytes(frames.tobytes())
    scene = {"walk": str(walk), "width": WIDTH, "height": HEIGHT, "fps": FPS, "seats": 64}
    log, dice = tmp_path / "gateway.log", random.Random(0)
    with (
        log.open("w") as file,
        gateway_with_source(tmp_path, scene, file, grace_s=0.5, log_level="info") as (urls, pid),
    ):
        steady = WebSocketViewer(urls["http"], "player", None)
        await steady.open()
        session = steady.session
        for _ in range(10):  # what is allocated once is not growth
            await _visit(dice, urls, session)
        await asyncio.sleep(1.5)  # the seats of the vanished are free again
        open_before, memory_before = _descriptors(pid), _memory_mb(pid)
        seen = 0
        for number in range(1, visits + 1):
            seen += await _visit(dice, urls, session)
            if number % 100 == 0:
                grown = _memory_mb(pid) - memory_before
                print(f"{number} visits, {seen} with frames: {grown:+.1f} MB", flush=True)
        await _eventually(lambda: _descriptors(pid) <= open_before)
        growth = _memory_mb(pid) - memory_before
        print(
            f"{visits} visits: {growth:+.1f} MB, {_descriptors(pid) - open_before:+d} descriptors"
        )
        steady.measuring = True
        await _eventually(lambda: len(steady.latencies) > 5)  # it still gets frames
        assert steady.session == session
        await steady.close()
        assert growth <= MEMORY_MB
        assert seen > 0.9 * visits
    assert "Traceback" not in log.read_text()
