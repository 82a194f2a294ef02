"""Pixel Streaming's signalling and data channel, by a client that only knows Epic's protocol."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.bridge.conftest import SPEC, Rig, RigMaker, eventually
from worldbridge.bridge.protocol import RestartSession, SessionInput

PATIENCE_S = 30.0


class FrontEnd:
    """What Epic's library does: it waits for an offer, answers it, and sends input."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel: Any = None
        self.track: Any = None
        self.received: list[bytes] = []
        self.pc.on("track", lambda track: setattr(self, "track", track))
        self.pc.on("datachannel", self._adopt)

    def _adopt(self, channel: Any) -> None:
        self.channel = channel
        channel.on("message", self.received.append)

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def hear(self, kind: str) -> dict[str, Any]:
        while True:
            message = json.loads(await asyncio.wait_for(self.socket.recv(), PATIENCE_S))
            if message["type"] == kind:
                return dict(message)

    async def subscribe(self) -> None:
        await self.hear("config")
        await self.say("listStreamers")
        (name,) = (await self.hear("streamerList"))["ids"]
        await self.say("subscribe", streamerId=name)
        offer = await self.hear("offer")
        await self.pc.setRemoteDescription(RTCSessionDescription(offer["sdp"], "offer"))
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        await self.say("answer", sdp=self.pc.localDescription.sdp)
        await eventually(lambda: self.channel is not None and self.channel.readyState == "open")

    async def text(self, kind: int) -> Any:
        """The first message of a type, decoded."""
        await eventually(lambda: any(data[0] == kind for data in self.received))
        data = next(data for data in self.received if data[0] == kind)
        return json.loads(data[1:].decode("utf-16-le"))

    async def closed(self) -> ConnectionClosed:
        try:
            while True:
                await asyncio.wait_for(self.socket.recv(), PATIENCE_S)
        except ConnectionClosed as closed:
            return closed


class Lobby:
    """Connects front ends, and closes them at the end."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def join(self, rig: Rig, path: str = "/") -> FrontEnd:
        url = f"ws://127.0.0.1:{rig.port}{path}"
        socket = await self._stack.enter_async_context(connect(url, proxy=None, close_timeout=0.5))
        end = FrontEnd(socket)
        self._stack.push_async_callback(end.pc.close)
        return end


@pytest.fixture
async def lobby() -> AsyncIterator[Lobby]:
    async with AsyncExitStack() as stack:
        yield Lobby(stack)


def text(kind: int, value: object) -> bytes:
    body = json.dumps(value)
    return bytes([kind]) + struct.pack("<H", len(body)) + body.encode("utf-16-le")


async def test_plays_and_steers(rig: Rig, lobby: Lobby) -> None:
    worker = await rig.worker()
    end = await lobby.join(rig)
    await end.subscribe()
    frame = await asyncio.wait_for(end.track.recv(), PATIENCE_S)
    assert (frame.width, frame.height) == (SPEC.width, SPEC.height)
    end.channel.send(struct.pack("<BBB", 60, ord("W"), 0))
    end.channel.send(struct.pack("<BHHhh", 74, 0, 0, 3277, 0))
    end.channel.send(struct.pack("<BBBd", 92, 0, 2, 1.0))

    def newest() -> Any:
        inputs = worker.of(SessionInput)
        return inputs[-1].state if inputs else None  # type: ignore[attr-defined]

    await eventually(lambda: newest() is not None and newest().axes[1] == -1.0)
    assert newest().keys == ("KeyW",) and newest().pointer[0] == pytest.approx(64, abs=0.1)
    end.channel.send(b"\x07")
    assert (await end.text(7))["WebRTC"]["FPS"] == SPEC.fps
    end.channel.send(b"\x5d")
    assert (await end.text(13)) == {"controllerId": 1}
    end.channel.send(text(9, {"Seq": 4, "FillResponseSize": 10}))
    assert (await end.text(14))["Filler"] == "A" * 10
    assert bytes([12, 1]) in end.received, "whose input counts"
    end.channel.send(text(50, {"theme": "night", "seed": 5}))
    await eventually(lambda: bool(worker.of(RestartSession)))
    restart = worker.of(RestartSession)[0]
    assert (restart.theme, restart.seed) == ("night", 5)  # type: ignore[attr-defined]
    end.channel.send(text(50, {"theme": "none"}))
    assert (await end.text(1))["code"] == "unknown_theme"
    await end.say("ping", time=12)
    assert (await end.hear("pong"))["time"] == 12


async def test_leaving_frees_the_seat(make_rig: RigMaker, lobby: Lobby) -> None:
    rig = await make_rig(seats=1)
    await rig.worker()
    first = await lobby.join(rig)
    await first.subscribe()
    second = await lobby.join(rig, "/pixel-streaming?role=spectator")
    await second.subscribe()
    await eventually(lambda: bytes([12, 0]) in second.received)  # its input does not count
    await first.socket.close()
    third = await lobby.join(rig)
    await third.subscribe()


async def test_a_wrong_token_is_refused_with_the_reason(make_rig: RigMaker, lobby: Lobby) -> None:
    rig = await make_rig(token="secret")
    await rig.worker()
    end = await lobby.join(rig)
    assert "token" in (await end.hear("subscribeFailed"))["message"]
    assert (await end.closed()).rcvd.code == 1008  # type: ignore[union-attr]
    await (await lobby.join(rig, "/?token=secret")).subscribe()


async def test_subscribing_again_gets_another_connection(rig: Rig, lobby: Lobby) -> None:
    await rig.worker()
    end = await lobby.join(rig)
    await end.subscribe()
    await end.say("unsubscribe")
    await end.say("subscribe", streamerId="other")
    assert "other" in (await end.hear("subscribeFailed"))["message"]
    await end.say("subscribe", streamerId=SPEC.name)
    again = FrontEnd(end.socket)
    offer = await again.hear("offer")
    await again.pc.setRemoteDescription(RTCSessionDescription(offer["sdp"], "offer"))
    await again.pc.setLocalDescription(await again.pc.createAnswer())
    await again.say("answer", sdp=again.pc.localDescription.sdp)
    await eventually(lambda: again.channel is not None and again.channel.readyState == "open")
    await again.pc.close()


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "[]",
        '{"type": "endpointId", "id": "UE"}',
        '{"type": "offer", "sdp": "v=0"}',
        '{"type": "x", "y": "' + "a" * 70_000 + '"}',
    ],
)
async def test_what_ends_the_connection(rig: Rig, lobby: Lobby, said: str) -> None:
    await rig.worker()
    end = await lobby.join(rig)
    await end.hear("config")
    await end.socket.send(said)
    failed = await end.hear("subscribeFailed")
    assert "expected" in failed["message"] and "got" in failed["message"]
    assert (await end.closed()).rcvd.code == 1008  # type: ignore[union-attr]


async def test_a_hostile_answer_or_message_ends_its_player_only(rig: Rig, lobby: Lobby) -> None:
    await rig.worker()
    other = await lobby.join(rig)
    await other.subscribe()
    end = await lobby.join(rig)
    await end.hear("config")
    await end.say("subscribe", streamerId=SPEC.name)
    await end.hear("offer")
    await end.say("answer", sdp="v=0\r\nm=video nonsense")
    assert (await end.closed()).rcvd.code == 1008  # type: ignore[union-attr]
    end = await lobby.join(rig)
    await end.subscribe()
    end.channel.send(b"\x4a\x00")
    assert (await end.closed()).rcvd.code == 1008  # type: ignore[union-attr]
    assert await asyncio.wait_for(other.track.recv(), PATIENCE_S) is not None
