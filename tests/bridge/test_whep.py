"""WHEP: standard viewers by aiortc, by the whip-whep package and by a plain page in Chromium."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription

from tests.bridge.conftest import SPEC, RawClient, Rig, RigMaker
from worldbridge.bridge.gateway import whep
from worldbridge.bridge.protocol import BridgeError, Status
from worldbridge.bridge.transports.sdp import OneVideo, video_codecs

HEADERS = {"Content-Type": "application/sdp"}


class Viewer:
    """A plain aiortc peer that watches; `kinds` are its sections in order."""

    def __init__(self, kinds: tuple[str, ...] = ("video",), codecs: tuple[str, ...] = ()) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.tracks: dict[str, Any] = {}
        self.pc.on("track", lambda track: self.tracks.update({track.kind: track}))
        for kind in kinds:
            transceiver = self.pc.addTransceiver(kind, direction="recvonly")
            if kind == "video" and codecs:
                capabilities = RTCRtpReceiver.getCapabilities("video")
                assert capabilities is not None
                names = [f"video/{name}" for name in codecs]
                transceiver.setCodecPreferences(
                    [c for c in capabilities.codecs if c.mimeType in names]
                )

    async def offer(self) -> str:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return str(self.pc.localDescription.sdp)

    async def accept(self, sdp: str) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def frame(self) -> Any:
        return await asyncio.wait_for(self.tracks["video"].recv(), 20)


@pytest.fixture
async def viewer() -> AsyncIterator[Viewer]:
    made = Viewer()
    yield made
    await made.pc.close()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        yield client


async def playing(rig: Rig, **options: Any) -> RawClient:
    await rig.worker()
    client = await rig.play(**options)
    await client.until(Status, lambda status: status.state == "playing")
    return client


async def test_watches_and_leaves(rig: Rig, viewer: Viewer, http: httpx.AsyncClient) -> None:
    player = await playing(rig)
    talking = asyncio.create_task(player.keep_reading())
    response = await http.post(rig.url + "whep", content=await viewer.offer(), headers=HEADERS)
    assert response.status_code == 201, response.text
    assert response.headers["content-type"].startswith("application/sdp")
    location = response.headers["location"]
    assert location.startswith("whep/")
    await viewer.accept(response.text)
    frame = await viewer.frame()
    assert (frame.width, frame.height) == (SPEC.width, SPEC.height)
    resource = rig.url + location
    assert (await http.get(resource)).status_code == 200
    assert (await http.get(rig.url + "health")).json()["clients"] == 2
    assert (await http.patch(resource, content="a=x")).status_code == 405
    assert (await http.delete(resource)).status_code == 200
    assert (await http.delete(resource)).status_code == 404
    assert (await http.get(rig.url + "health")).json()["clients"] == 1
    talking.cancel()


async def test_audio_is_rejected_in_its_place(rig: Rig, http: httpx.AsyncClient) -> None:
    player = await playing(rig)
    talking = asyncio.create_task(player.keep_reading())
    viewer = Viewer(("audio", "video", "audio"))
    offer = await viewer.offer()
    response = await http.post(rig.url + "whep", content=offer, headers=HEADERS)
    assert response.status_code == 201, response.text
    sections = [line for line in response.text.splitlines() if line.startswith("m=")]
    assert [line.split()[0] for line in sections] == ["m=audio", "m=video", "m=audio"]
    # the first one carries the bundle: inactive; the other one is rejected
    assert [line.split()[1] == "0" for line in sections] == [False, False, True]
    assert response.text.count("a=inactive") == 2 and response.text.count("a=sendonly") == 1
    await viewer.pc.close()
    talking.cancel()


async def test_one_that_never_connects_expires(
    rig: Rig, viewer: Viewer, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whep, "CONNECT_S", 0.5)
    await playing(rig)
    response = await http.post(rig.url + "whep", content=await viewer.offer(), headers=HEADERS)
    resource = rig.url + response.headers["location"]
    for _ in range(200):
        if (await http.get(resource)).status_code == 404:
            break
        await asyncio.sleep(0.1)
    gone = await http.get(resource)
    assert gone.status_code == 404 and gone.json()["code"] == "session_expired"


async def test_limits_those_of_one_address_that_wait(rig: Rig, http: httpx.AsyncClient) -> None:
    await playing(rig)
    viewer = Viewer()
    offer = await viewer.offer()
    for _ in range(whep.MAX_PENDING):
        made = await http.post(rig.url + "whep", content=offer, headers=HEADERS)
        assert made.status_code == 201
    refused = await http.post(rig.url + "whep", content=offer, headers=HEADERS)
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
    await http.delete(rig.url + made.headers["location"])
    again = await http.post(rig.url + "whep", content=offer, headers=HEADERS)
    assert again.status_code == 201
    await viewer.pc.close()


async def test_limits_count_clients_of_a_trusted_proxy_apart(
    make_rig: RigMaker, http: httpx.AsyncClient
) -> None:
    rig = await make_rig(trusted_proxies=("127.0.0.1",))
    await playing(rig)
    viewer = Viewer()
    offer = await viewer.offer()
    for number in range(whep.MAX_PENDING + 2):
        headers = {**HEADERS, "X-Forwarded-For": f"198.51.100.{number}"}
        made = await http.post(rig.url + "whep", content=offer, headers=headers)
        assert made.status_code == 201
    await viewer.pc.close()


async def test_no_common_codec(rig: Rig, viewer: Viewer, http: httpx.AsyncClient) -> None:
    await playing(rig)
    offer = (await viewer.offer()).replace("VP8/90000", "AV1/90000").replace("H264/", "H265/")
    response = await http.post(rig.url + "whep", content=offer, headers=HEADERS)
    assert response.status_code == 406
    error = response.json()
    assert "H264" in error["expected"] and "VP8" in error["expected"]
    assert "av1" in error["got"] and "h265" in error["got"]


async def test_bearer_token(make_rig: RigMaker, viewer: Viewer, http: httpx.AsyncClient) -> None:
    rig = await make_rig(token="secret")
    await rig.worker()
    offer = await viewer.offer()
    for given in ({}, {"Authorization": "Bearer wrong"}):
        refused = await http.post(rig.url + "whep", content=offer, headers={**HEADERS, **given})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
    headers = {**HEADERS, "Authorization": "Bearer secret"}
    assert (await http.post(rig.url + "whep", content=offer, headers=headers)).status_code == 201


async def test_pages_of_allowed_origins_see_the_location(
    make_rig: RigMaker, viewer: Viewer, http: httpx.AsyncClient
) -> None:
    origin = "https://show.example"
    rig = await make_rig(allow_origins=(origin,))
    await rig.worker()
    asked = await http.options(rig.url + "whep", headers={"Origin": origin})
    assert asked.status_code == 204
    assert asked.headers["accept-post"] == "application/sdp"
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "Authorization" in asked.headers["access-control-allow-headers"]
    headers = {**HEADERS, "Origin": origin}
    made = await http.post(rig.url + "whep", content=await viewer.offer(), headers=headers)
    assert made.status_code == 201
    assert made.headers["access-control-allow-origin"] == origin
    assert "Location" in made.headers["access-control-expose-headers"]
    headers["Origin"] = "https://evil.example"
    assert (await http.post(rig.url + "whep", content="", headers=headers)).status_code == 403


async def test_what_is_no_offer(rig: Rig, http: httpx.AsyncClient) -> None:
    await playing(rig)
    url = rig.url + "whep"
    assert (await http.get(url)).status_code == 405
    assert (await http.post(url, content="v=0")).status_code == 400  # no content type
    for body in ("", "hello", "v=0\r\nm=\r\n", "v=0\r\nm=audio 9 RTP 0\r\n", "v=0\r\n" * 12_000):
        refused = await http.post(url, content=body, headers=HEADERS)
        assert refused.status_code == 400, body[:40]
        assert refused.json()["remedy"]
    huge = await http.post(url, content="v=0\r\n" + "a" * whep.MAX_SDP, headers=HEADERS)
    assert huge.status_code == 413
    unknown = await http.post(
        url + "?session=none", content=await Viewer().offer(), headers=HEADERS
    )
    assert unknown.status_code == 404


async def test_a_server_without_spectators_takes_no_viewers(
    make_rig: RigMaker, viewer: Viewer, http: httpx.AsyncClient
) -> None:
    rig = await make_rig(spectators=0)
    await playing(rig)
    refused = await http.post(rig.url + "whep", content=await viewer.offer(), headers=HEADERS)
    assert refused.status_code == 503 and "spectator" in refused.text


async def test_before_the_world_is_ready(
    rig: Rig, viewer: Viewer, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whep, "READY_S", 0.2)
    response = await http.post(rig.url + "whep", content=await viewer.offer(), headers=HEADERS)
    assert response.status_code == 503 and "retry-after" in response.headers
    health = (await http.get(rig.url + "health")).json()
    assert health["clients"] == 0


# What Chromium sends with `bundlePolicy: "max-bundle"` and audio first, without its codecs.
_BUNDLED = """v=0
o=- 1 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1
m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=ice-ufrag:abcd
a=ice-pwd:0123456789012345678901
a=fingerprint:sha-256 AA:BB
a=setup:actpass
a=mid:0
a=recvonly
a=rtpmap:111 opus/48000/2
m=video 0 UDP/TLS/RTP/SAVPF 96 97
c=IN IP4 0.0.0.0
a=bundle-only
a=mid:1
a=sendrecv
a=rtpmap:96 VP8/90000
a=rtpmap:97 rtx/90000
""".replace("\n", "\r\n")


def test_reduces_an_offer_to_its_video() -> None:
    video = OneVideo.of(_BUNDLED, "recvonly")
    lines = video.offer.splitlines()
    assert [line for line in lines if line.startswith("m=")] == [
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97"
    ]
    assert "a=group:BUNDLE 1" in lines and "a=bundle-only" not in lines
    assert "a=recvonly" in lines and "a=sendrecv" not in lines
    assert "a=ice-ufrag:abcd" in lines and "a=fingerprint:sha-256 AA:BB" in lines
    assert video_codecs(_BUNDLED) == ("vp8", "rtx")
    answer = video.answer("v=0\r\na=group:BUNDLE 1\r\nm=video 9 X 96\r\na=mid:1\r\n").splitlines()
    assert answer[1] == "a=group:BUNDLE 0 1", "it carries the bundle, so it is inactive instead"
    assert answer[2] == "m=audio 9 UDP/TLS/RTP/SAVPF 111" and "a=inactive" in answer
    assert answer.index("a=mid:0") < answer.index("m=video 9 X 96")


def test_any_text_is_an_offer_or_an_error() -> None:
    chance = random.Random(3)
    taken = 0
    for _ in range(5_000):
        lines = _BUNDLED.split("\r\n")
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(lines))
            match chance.randrange(4):
                case 0:
                    del lines[at]
                case 1:
                    lines.insert(at, lines[chance.randrange(len(lines))])
                case 2:
                    lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
                case _:
                    lines[at] += chr(chance.randrange(0x2FFF))
        try:
            video = OneVideo.of("\r\n".join(lines), "recvonly")
            video_codecs(video.offer)
        except BridgeError as error:
            assert error.expected
            continue
        taken += 1
        answer = video.answer("v=0\r\na=group:BUNDLE 1\r\nm=video 9 X 96\r\na=mid:1\r\n")
        sections = [line for line in answer.split("\r\n") if line.startswith("m=")]
        assert len(sections) == len(video.rejected)
    assert taken > 500


def test_wants_video_of_the_direction() -> None:
    with pytest.raises(BridgeError, match="sendonly"):
        OneVideo.of(_BUNDLED.replace("a=sendrecv", "a=recvonly"), "sendonly")
