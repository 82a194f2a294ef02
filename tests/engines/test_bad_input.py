"""What a server must not send: each client reports a code and a remedy, and its program goes on."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engines.godot.test_godot import godot, project, report  # noqa: F401
from tests.engines.test_replay import play_node
from tests.support.client_server import LAST, SMALL, ClientServer, bad_session, client_server
from worldbridge.engine_plugins.python import ConnectError, connect
from worldbridge.errors import StructuredError

# what the server does, and the code that says so
CASES = {
    "cut": "bad_message",
    "larger": "bad_message",
    "codec": "bad_message",
    "version": "version_mismatch",
}


@contextmanager
def bad_server(kind: str) -> Iterator[ClientServer]:
    options: dict[str, Any] = {"version": 3} if kind == "version" else {}
    session = None if kind == "version" else bad_session(kind)
    with client_server("whole", session=session, **options) as server:
        yield server


def play_python(url: str) -> StructuredError:
    """Return the error that ends the session."""

    async def play() -> StructuredError:
        async with connect(url) as client:
            while True:
                try:
                    frame = await asyncio.wait_for(client.frame(), 60)
                except StructuredError as error:
                    return error
                client.steer()
                client.report(frame, frame.received_ms)

    return asyncio.run(play())


@pytest.mark.parametrize("kind", CASES)
def test_the_python_client_says_what_came(kind: str) -> None:
    with bad_server(kind) as server:
        error = play_python(server.url)
    print(f"{kind}: {error}")
    assert getattr(error, "code", None) == CASES[kind]
    assert error.expected and error.got and error.remedy


@pytest.mark.parametrize("kind", CASES)
def test_the_javascript_client_says_what_came(kind: str) -> None:
    with bad_server(kind) as server:
        error = play_node(server.url)["error"]
    print(f"{kind}: {error}")
    assert error["code"] == CASES[kind]
    assert error["expected"] and error["got"] and error["remedy"]


def test_the_python_client_takes_frames_of_another_size() -> None:
    async def sizes(url: str) -> list[tuple[int, ...]]:
        found, number = [], 0
        async with connect(url) as client:
            while number != LAST:
                frame = await asyncio.wait_for(client.frame(), 60)
                client.steer()
                found.append(frame.rgb().shape)
                number = frame.header.frame
                client.report(frame, frame.received_ms)
        return found

    with bad_server("size") as server:
        shapes = asyncio.run(sizes(server.url))
    assert shapes[0] == (192, 320, 3) and shapes[-1] == (SMALL[1], SMALL[0], 3)


def test_a_web_page_instead_of_a_session_is_an_error() -> None:
    with client_server("html") as server, connect(server.url) as player:
        with pytest.raises(ConnectError) as raised:
            player.frame(60)
    assert raised.value.remedy


@pytest.mark.e2e
@pytest.mark.serial
def test_the_godot_client_says_what_came(godot: str, project: Path) -> None:  # noqa: F811
    kinds = [*CASES, "size"]
    with ExitStack() as stack:
        servers = [stack.enter_context(bad_server(kind)) for kind in kinds]
        script = ["--script", str(Path(__file__).parent / "godot" / "replay_test.gd")]
        command = [godot, "--headless", "--path", str(project), *script, "--", str(LAST)]
        result = subprocess.run(
            [*command, *(server.url for server in servers)],
            capture_output=True,
            text=True,
            timeout=150,
        )
        played = dict(zip(kinds, report(result.stdout + result.stderr), strict=True))
    print(json.dumps({kind: played[kind]["faults"] for kind in kinds}))
    for kind, code in CASES.items():
        assert played[kind]["faults"] == [code], kind
        assert all(played[kind]["remedies"]), kind
    assert played["size"]["faults"] == []
    assert len(base64.b64decode(played["size"]["card"])) == 3 * SMALL[0] * SMALL[1]
