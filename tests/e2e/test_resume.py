"""A real server: its processes are killed, its temporary folder is cleaned, it is started again."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.server import Server, serving
from worldbridge.engine_plugins.python import connect
from worldbridge.engine_plugins.python.client import Client

PATIENCE_S = 90.0  # a few seconds on a quiet machine
pytestmark = pytest.mark.timeout(600)


async def play_until(client: Client, wanted: Callable[[int], bool]) -> int:
    """Play until a frame's number is `wanted`, and return it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            client.steer(keys=("KeyW",))
            frame = await client.frame()
            if wanted(frame.header.frame):
                return frame.header.frame


async def survive(client: Client, what: str, harm: Callable[[], object]) -> None:
    """Do harm, and play on in the same session of the same world."""
    before = await play_until(client, lambda n: True)
    assert client.welcome is not None
    session = client.welcome.session
    before = await play_until(client, lambda n: n > before + 45)  # it was saved meanwhile
    known, begun = len(client.interruptions), time.monotonic()
    harm()
    async with asyncio.timeout(PATIENCE_S):
        while len(client.interruptions) == known:
            await client.frame()
    print(f"{what}: frames again after {time.monotonic() - begun:.1f} s")
    assert client.welcome.session == session
    interruption = client.interruptions[-1]
    assert interruption.same_world, interruption
    after = await play_until(client, lambda n: True)
    assert after > before - 150, "it went back by a few saved sessions at most"
    assert not [event for event in client.events if event.name == "world_reset"]


def scratch_of(server: Server) -> Path:
    """Return the temporary folder of a server."""
    words = Path(f"/proc/{server.child('gateway')}/cmdline").read_bytes().split(b"\0")
    settings = next(json.loads(word) for word in words if word.startswith(b"{"))
    return Path(settings["state_dir"]).parent


async def test_the_world_outlives_every_process_and_a_cleaned_folder(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--world", "procedural", "--seats", "1") as server:
        async with connect(server.url, seed=5) as client:
            await survive(client, "worker killed", lambda: server.kill("worker"))
            await survive(client, "gateway killed", lambda: server.kill("gateway"))
            scratch = scratch_of(server)
            shutil.rmtree(scratch)
            await play_until(client, lambda n: (scratch / "worker").exists())
            await survive(client, "cleaned, gateway killed", lambda: server.kill("gateway"))
            await survive(client, "cleaned, worker killed", lambda: server.kill("worker"))


async def test_the_world_outlives_the_server_with_a_state_folder(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    options = ("--world", "procedural", "--seats", "1", "--state-dir", str(tmp_path / "state"))
    port = ("--port", str(unused_tcp_port))
    with serving(tmp_path / "first", *options, *port) as server:
        client = connect(server.url, seed=5)
        playing = await client.__aenter__()
        before = await play_until(playing, lambda n: n > 45)
        assert playing.welcome is not None
        session = playing.welcome.session
    with serving(tmp_path / "second", *options, *port):
        after = await play_until(playing, lambda n: True)
        assert playing.welcome.session == session
        assert after > before - 150
        await client.__aexit__()


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
