"""WHIP: a camera's image starts a session, which another client takes over."""

from __future__ import annotations

import asyncio
import fractions
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import VideoStreamTrack
from av import VideoFrame

from tests.bridge.conftest import PATIENCE_S, SPEC, Rig, RigMaker, eventually
from worldbridge.bridge.protocol import Hello, OpenSession, Welcome
from worldbridge.bridge.transports import camera as camera_module

HEADERS = {"Content-Type": "application/sdp"}
GENERATED = SPEC.replace(kind="autoregressive", max_prompt_frames=4)
RED, BLUE = (200, 30, 40), (20, 30, 200)


class HalfAndHalf(VideoStreamTrack):
    """A camera that sees red on the left and blue on the right."""

    async def recv(self) -> VideoFrame:
        pixels = np.zeros((180, 320, 3), np.uint8)
        pixels[:, :160], pixels[:, 160:] = RED, BLUE
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = await self.next_timestamp()
        assert isinstance(frame.time_base, fractions.Fraction)
        return frame


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
async def camera() -> AsyncIterator[RTCPeerConnection]:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver(HalfAndHalf(), direction="sendonly")
    await pc.setLocalDescription(await pc.createOffer())
    yield pc
    await pc.close()


async def publish(rig: Rig, http: httpx.AsyncClient, camera: RTCPeerConnection) -> str:
    """The URL of the camera's resource, once its media flows."""
    sdp = camera.localDescription.sdp
    made = await http.post(rig.url + "whip", content=sdp, headers=HEADERS)
    assert made.status_code == 201, made.text
    assert made.headers["location"].startswith("whip/")
    await camera.setRemoteDescription(RTCSessionDescription(made.text, "answer"))
    return rig.url + str(made.headers["location"])


async def reaches(http: httpx.AsyncClient, resource: str, state: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S * 2):
        while (found := (await http.get(resource)).json())["state"] != state:
            await asyncio.sleep(0.05)
    return dict(found)


async def test_the_image_starts_a_session_that_a_client_takes_over(
    make_rig: RigMaker, http: httpx.AsyncClient, camera: RTCPeerConnection
) -> None:
    rig = await make_rig(whip="on")
    worker = await rig.worker(spec=GENERATED)
    resource = await publish(rig, http, camera)
    found = await reaches(http, resource, "playing")
    (opened,) = worker.of(OpenSession)
    frames = opened.prompt_frames  # type: ignore[attr-defined]
    assert (frames.count, frames.height, frames.width) == (1, SPEC.height, SPEC.width)
    pixels = np.frombuffer(frames.rgb, np.uint8).reshape(SPEC.height, SPEC.width, 3).astype(int)
    for half, colour in ((pixels[:, : SPEC.width // 3], RED), (pixels[:, -40:], BLUE)):
        assert np.abs(half.mean((0, 1)) - colour).max() < 25
    client = await rig.greet(Hello("engine", role="engine", resume=found["resume"]))
    welcome = await client.until(Welcome)
    assert welcome.session == found["session"] and welcome.started
    async with asyncio.timeout(PATIENCE_S):
        while (await http.get(resource)).status_code != 404:
            await asyncio.sleep(0.05)


async def test_ffmpeg_sends_the_image_of_a_session(make_rig: RigMaker, tmp_path: Path) -> None:
    rig = await make_rig(whip="on")
    worker = await rig.worker(spec=GENERATED)
    command = ["-m", "tests.support.ffmpeg_camera", rig.url + "whip", str(tmp_path)]
    camera = await asyncio.create_subprocess_exec(sys.executable, *command)
    try:
        await eventually(lambda: bool(worker.of(OpenSession)) or camera.returncode is not None, 60)
    finally:
        with suppress(ProcessLookupError):
            camera.kill()
        await camera.wait()
    (opened,) = worker.of(OpenSession)
    frames = opened.prompt_frames  # type: ignore[attr-defined]
    colour = np.frombuffer(frames.rgb, np.uint8).reshape(-1, 3).mean(0)
    assert np.abs(colour - RED).max() < 25


async def test_a_camera_without_an_image_frees_its_seat(
    make_rig: RigMaker,
    http: httpx.AsyncClient,
    camera: RTCPeerConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(camera_module, "MAX_PIXELS", 100)
    rig = await make_rig(whip="on", seats=1)
    await rig.worker(spec=GENERATED)
    resource = await publish(rig, http, camera)
    found = await reaches(http, resource, "refused")
    assert found["error"]["code"] == "bad_prompt_frame" and "320x180" in found["error"]["got"]
    await rig.play()


async def test_off_unless_it_is_switched_on(rig: Rig, http: httpx.AsyncClient) -> None:
    await rig.worker(spec=GENERATED)
    assert (await http.post(rig.url + "whip", content="v=0", headers=HEADERS)).status_code == 405


async def test_a_rendered_world_takes_no_camera(
    make_rig: RigMaker, http: httpx.AsyncClient, camera: RTCPeerConnection
) -> None:
    rig = await make_rig(whip="on")
    await rig.worker()
    sdp = camera.localDescription.sdp
    refused = await http.post(rig.url + "whip", content=sdp, headers=HEADERS)
    assert refused.status_code == 406 and "rendered" in refused.json()["got"]
    health = (await http.get(rig.url + "health")).json()
    assert health["clients"] == 0


async def test_what_is_no_camera(
    make_rig: RigMaker, http: httpx.AsyncClient, camera: RTCPeerConnection
) -> None:
    rig = await make_rig(whip="on", token="secret")
    await rig.worker(spec=GENERATED)
    url, sdp = rig.url + "whip", camera.localDescription.sdp
    assert (await http.post(url, content=sdp, headers=HEADERS)).status_code == 401
    headers = {**HEADERS, "Authorization": "Bearer secret"}
    watching = sdp.replace("a=sendonly", "a=recvonly")
    assert (await http.post(url, content=watching, headers=headers)).status_code == 400
    other = sdp.replace("VP8/", "AV1/").replace("H264/", "H265/")
    refused = await http.post(url, content=other, headers=headers)
    assert refused.status_code == 406 and "VP8" in refused.json()["expected"]


async def test_delete_ends_the_camera_and_keeps_the_session(
    make_rig: RigMaker, http: httpx.AsyncClient, camera: RTCPeerConnection
) -> None:
    rig = await make_rig(whip="on")
    await rig.worker(spec=GENERATED)
    resource = await publish(rig, http, camera)
    found = await reaches(http, resource, "playing")
    assert (await http.delete(resource)).status_code == 200
    client = await rig.greet(Hello("engine", role="engine", resume=found["resume"]))
    assert (await client.until(Welcome)).session == found["session"]
    assert (await http.get(resource)).status_code == 404
