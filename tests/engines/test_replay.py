"""The Python and the JavaScript client show what the clients' server replays, frame for frame."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import test_card
from tests.support.client_server import (
    LAST,
    MODES,
    Played,
    card,
    check_session,
    client_server,
    fnv1a,
    play_all,
)
from worldbridge.engine_plugins.python import ConnectError, connect
from worldbridge.engine_plugins.python.client import now_ms

REPLAY = Path(__file__).parents[1] / "web" / "replay.mjs"


def play_python(url: str) -> dict[str, Any]:
    """Play until the last frame; return the image hash of every frame."""

    async def play() -> list[int]:
        shown, number = [], -1
        async with connect(url) as client:
            while number != LAST:
                frame = await asyncio.wait_for(client.frame(), 60)
                client.steer(axes=(0, -1, 0, 0))
                number = frame.header.frame
                shown.append(fnv1a(frame.image))
                client.report(frame, now_ms())
            assert test_card.faults(frame.rgb()) == []
        return shown

    return {"shown": asyncio.run(play())}


def play_node(url: str) -> dict[str, Any]:
    """The same in Node.js."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    command = [node, "--experimental-websocket", str(REPLAY), f"{url}/session", str(LAST)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "bad option" in done.stderr:
        pytest.skip("this version of node has no WebSocket")
    assert done.returncode == 0, done.stderr + done.stdout
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def python() -> dict[str, Played]:
    return play_all(play_python)


@pytest.fixture(scope="module")
def javascript() -> dict[str, Played]:
    return play_all(play_node, in_step=False)  # it keeps no newest frame: it shows them all


@pytest.mark.parametrize("mode", MODES)
def test_the_python_client_shows_every_frame(python: dict[str, Played], mode: str) -> None:
    report, server = python[mode]
    check_session(server, report["shown"])


@pytest.mark.parametrize("mode", MODES)
def test_the_javascript_client_shows_every_frame(javascript: dict[str, Played], mode: str) -> None:
    report, server = javascript[mode]
    check_session(server, report["shown"])


def test_a_web_page_instead_of_a_session_is_an_error() -> None:
    with (
        client_server("html") as server,
        connect(server.url) as player,
        pytest.raises(ConnectError),
    ):
        player.frame(60)


def test_the_fixture_is_the_test_card() -> None:
    assert test_card.FILE.read_bytes() == card(0)
    image = test_card.decode(card(0x1234))
    assert test_card.faults(image) == [] and test_card.read_number(image) == 0x1234


@pytest.mark.parametrize("damage", ["flipped", "mirrored", "channels", "range"])
def test_a_damaged_test_card_is_noticed(damage: str) -> None:
    image = test_card.draw()
    changed = {
        "flipped": image[::-1],
        "mirrored": image[:, ::-1],
        "channels": image[:, :, ::-1],
        "range": (16 + image * (219 / 255)).astype("uint8"),
    }[damage]
    assert test_card.faults(changed)
