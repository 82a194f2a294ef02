"""Each fault on each transport: a typed error with a remedy, and the others play on."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

from tests.bridge.conftest import PATIENCE_S, RawClient, Rig, RigMaker, eventually
from tests.bridge.test_whep import _BUNDLED
from tests.bridge.test_zeromq import dealer
from tests.support.fake_worker import SPEC
from worldbridge.bridge.gateway import pixel_streaming
from worldbridge.bridge.protocol import Credit, Error, Frame, Hello, Offer, Ping, Start, Welcome
from worldbridge.bridge.tokens import issue

SECRET = "the secret"
Refused = dict[str, str]  # code, message, expected, got, remedy; of Pixel Streaming one text
NO_CODEC = (
    _BUNDLED.replace("96 97", "98")
    .replace("a=rtpmap:96 VP8/90000", "a=rtpmap:98 AV1/90000")
    .replace("a=rtpmap:97 rtx/90000\r\n", "")
)


def of(error: Error) -> Refused:
    assert error.expected and error.got and error.remedy, error
    return {"code": error.code, "message": error.message, "text": f"{error.expected} {error.got}"}


async def by_websocket(rig: Rig, token: str | None, role: str = "player") -> Refused:
    client = await rig.greet(Hello("x", role, token=token))  # type: ignore[arg-type]
    return of(await client.until(Error))


async def by_zeromq(rig: Rig, token: str | None) -> Refused:
    async with dealer(rig) as client:
        await client.send(Hello("x", transports=("zeromq",), codecs=("i420",), token=token))
        return of(await client.until(Error))


async def by_http(rig: Rig, path: str, offer: str, token: str | None) -> tuple[int, Refused]:
    headers = {"Content-Type": "application/sdp"}
    headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(rig.url + path, offer.encode(), headers)

    def answer() -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    status, body = await asyncio.to_thread(answer)
    found: dict[str, Any] = json.loads(body)
    assert found["expected"] and found["got"] and found["remedy"], found
    return status, found | {"text": f"{found['expected']} {found['got']}"}


async def by_whep(rig: Rig, token: str | None) -> Refused:
    status, found = await by_http(rig, "whep", _BUNDLED, token)
    assert status == 401
    return found


async def by_whip(rig: Rig, token: str | None) -> Refused:
    offer = _BUNDLED.replace("a=sendrecv", "a=sendonly")
    status, found = await by_http(rig, "whip", offer, token)
    assert status == 401
    return found


async def by_pixel_streaming(rig: Rig, token: str | None, *said: str) -> Refused:
    path = "/" if token is None else f"/?token={quote(token)}"
    refused: Refused = {}
    async with open_websocket(f"ws://127.0.0.1:{rig.port}{path}", proxy=None) as socket:
        try:
            while True:
                message = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_S))
                if message["type"] == "config":
                    for text in said:
                        await socket.send(text)
                if message["type"] == "subscribeFailed":
                    code, _, text = message["message"].partition(": ")
                    assert "expected" in text and "got" in text and ";" in text, text
                    refused = refused or {"code": code, "message": text, "text": text}
        except ConnectionClosed as closed:
            assert closed.rcvd is not None and closed.rcvd.code == 1008
    return refused


Way = Callable[[Rig, str | None], Awaitable[Refused]]
WAYS: dict[str, Way] = {
    "websocket": by_websocket,
    "zeromq": by_zeromq,
    "whep": by_whep,
    "whip": by_whip,
    "pixel streaming": by_pixel_streaming,
}


async def ping(*clients: RawClient) -> None:
    """Ping until cancelled: who gets no frames has nothing to read."""
    while True:
        for client in clients:
            await client.send(Ping(time.monotonic()))
        await asyncio.sleep(0.2)


class Bystander:
    """A player who reads and pings all the time, whatever happens beside it."""

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self._frames = 0
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            await self._client.until(Frame)
            self._frames += 1

    async def plays_on(self) -> None:
        enough = self._frames + 3
        await eventually(lambda: self._frames >= enough or self._reading.done())
        if self._reading.done():
            self._reading.result()


async def test_tokens_on_every_transport(make_rig: RigMaker) -> None:
    rig = await make_rig(token=SECRET, zmq_port=0, whip="on", spectators=8)
    await rig.worker()
    player = Bystander(await rig.play(hello=Hello("owner", token=SECRET)))
    await player.plays_on()
    now = time.time()
    once = issue(SECRET, "engine", now + 600, once=True)
    owner = Bystander(await rig.play(hello=Hello("once", "engine", token=once)))
    await owner.plays_on()
    faults: dict[str, tuple[str | None, str, str]] = {
        "none": (None, "requires a token", "none"),
        "expired": (issue(SECRET, "engine", now - 20), "has expired", "expired"),
        "replayed": (once, "used already", "another one"),
        "forged": (issue("another", "engine", now + 600), "not valid", "signature"),
    }
    for way, refused in WAYS.items():
        for fault, (token, said, got) in faults.items():
            found = await refused(rig, token)
            assert found["code"] == "unauthorized", (way, fault, found)
            assert said in found["message"] and got in found["text"], (way, fault, found)
        await player.plays_on()
    watcher = issue(SECRET, "spectator", now + 600)
    for way in ("websocket", "zeromq", "whip", "pixel streaming"):  # those that would play
        found = await WAYS[way](rig, watcher)
        assert found["code"] == "unauthorized" and "another role" in found["message"], (way, found)
    await owner.plays_on()


async def test_no_common_codec_on_every_transport(make_rig: RigMaker) -> None:
    rig = await make_rig(zmq_port=0, whip="on")
    await rig.worker()
    player = Bystander(await rig.play())
    for transports, codecs in ((("websocket",), ("h265",)), (("webrtc",), ("av1",))):
        client = await rig.greet(Hello("x", transports=transports, codecs=codecs))  # type: ignore[arg-type]
        found = of(await client.until(Error))
        assert found["code"] == "unsupported" and codecs[0] in found["text"]
    async with dealer(rig) as zeromq:
        await zeromq.send(Hello("x", transports=("zeromq",), codecs=("h265",)))  # type: ignore[arg-type]
        assert of(await zeromq.until(Error))["code"] == "unsupported"
    for path, offer in (("whep", NO_CODEC), ("whip", NO_CODEC.replace("sendrecv", "sendonly"))):
        status, found = await by_http(rig, path, offer, None)
        assert status == 406 and found["code"] == "unsupported"
        assert "H264" in found["expected"] and "VP8" in found["expected"], found
        assert "av1" in found["got"].lower(), found
    client = await rig.greet(Hello("x", "spectator", transports=("webrtc",), codecs=("h264",)))
    await client.until(Welcome)
    await client.send(Offer(NO_CODEC.replace("a=sendrecv", "a=recvonly")))
    found = of(await client.until(Error))
    assert found["code"] == "bad_message"
    await player.plays_on()


async def test_credit_that_is_never_given_is_asked_for_on_every_transport(
    make_rig: RigMaker,
) -> None:
    rig = await make_rig(zmq_port=0, silence_s=2.5)
    await rig.worker()
    player = Bystander(await rig.play())
    client = await rig.greet(Hello("x", transports=("websocket",), codecs=("h264",)))
    pinging = asyncio.create_task(ping(client))
    await client.until(Welcome)
    await client.send(Start())
    error = await client.until(Error)
    assert (error.code, error.fatal) == ("client_too_slow", False) and "credit" in error.remedy
    await client.send(Credit(1))
    await client.until(Frame)
    async with dealer(rig) as zeromq:
        await zeromq.send(Hello("x", "spectator", transports=("zeromq",), codecs=("i420",)))
        await zeromq.until(Welcome)
        error = await zeromq.until(Error)
        assert (error.code, error.fatal) == ("client_too_slow", False) and "credit" in error.remedy
    await player.plays_on()
    pinging.cancel()


async def test_pixel_streaming_players_of_another_version(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.worker()
    player = Bystander(await rig.play())
    found = await by_pixel_streaming(rig, None, '{"type": "offer", "sdp": "v=0"}')  # Unreal 4.27
    assert found["code"] == "bad_message" and "Unreal 5" in found["message"]
    monkeypatch.setattr(pixel_streaming, "CONNECT_S", 1.0)
    found = await by_pixel_streaming(rig, None, '{"type": "subscribe", "streamerId": "Default"}')
    assert "no such streamer" in found["message"] and SPEC.name in found["message"]
    await player.plays_on()
    found = await by_pixel_streaming(rig, None)  # Unreal 5.0 waits for an offer
    assert "did not subscribe" in found["message"] and "Unreal 5" in found["message"]
    await player.plays_on()


async def test_a_pixel_streaming_player_without_our_codecs(rig: Rig) -> None:
    await rig.worker()
    player = Bystander(await rig.play())
    url = f"ws://127.0.0.1:{rig.port}/"
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    async with open_websocket(url, proxy=None) as socket:
        reason = ""
        try:
            while True:
                message = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_S))
                if message["type"] == "config":
                    await socket.send('{"type": "subscribe"}')
                elif message["type"] == "offer":
                    offer = RTCSessionDescription(message["sdp"], "offer")
                    await pc.setRemoteDescription(offer)
                    await pc.setLocalDescription(await pc.createAnswer())
                    sdp = pc.localDescription.sdp.replace("H264/90000", "AV1/90000")
                    sdp = sdp.replace("VP8/90000", "AV1/90000")
                    await socket.send(json.dumps({"type": "answer", "sdp": sdp}))
                elif message["type"] == "subscribeFailed":
                    reason = message["message"]
        except ConnectionClosed:
            pass
    await pc.close()
    assert "H264 or VP8" in reason and "av1" in reason, reason
    await player.plays_on()
