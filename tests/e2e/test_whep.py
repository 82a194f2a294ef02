"""WHEP in a real browser: a plain peer connection, and the whip-whep package, unmodified."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.bridge.conftest import SPEC, Rig, RigMaker, eventually, make_rig
from tests.support.chromium import Browser, Page
from tests.support.npm import bundled, npm_package
from worldbridge.bridge.protocol import OpenSession

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(180)]

_SHOW = """
  window.video = document.createElement("video");
  video.muted = true;
  document.body.append(video);
  window.pc = new RTCPeerConnection({ bundlePolicy: POLICY });
  pc.ontrack = ({ track }) => {
    if (track.kind !== "video") return;
    video.srcObject = new MediaStream([track]);
    video.play();
  };
  for (const kind of KINDS) pc.addTransceiver(kind, { direction: "recvonly" });
"""
_PLAIN = """(async () => {
  %s
  await pc.setLocalDescription();
  const headers = { "Content-Type": "application/sdp" };
  const body = pc.localDescription.sdp;
  const response = await fetch(ENDPOINT, { method: "POST", headers, body });
  window.resource = new URL(response.headers.get("Location"), ENDPOINT).href;
  await pc.setRemoteDescription({ type: "answer", sdp: await response.text() });
  return response.status;
})()"""
_PACKAGE = """(async () => {
  %s
  const { WHEPClient } = await import(URL.createObjectURL(new Blob([SOURCE], { type: "text/javascript" })));
  window.client = new WHEPClient();
  await client.view(pc, ENDPOINT);
  return true;
})()"""  # noqa: E501


def script(template: str, **values: str) -> str:
    text = template % _SHOW
    for name, value in values.items():
        text = text.replace(name, value)
    return text


_CAMERA = """(async () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [320, 180];
  const draw = canvas.getContext("2d");
  setInterval(() => {
    draw.fillStyle = "rgb(200, 30, 40)";
    draw.fillRect(0, 0, 320, 180);
  }, 30);
  const { WHIPClient } = await import(
    URL.createObjectURL(new Blob([SOURCE], { type: "text/javascript" })));
  const pc = new RTCPeerConnection();
  pc.addTransceiver(canvas.captureStream(30).getTracks()[0], { direction: "sendonly" });
  window.client = new WHIPClient();
  await client.publish(pc, ENDPOINT);
  return client.resourceURL.href;
})()"""


_PLAYER = """(async () => {
  window.video = document.createElement("video");
  video.muted = video.autoplay = true;
  document.body.append(video);
  window.player = new lib.WebRTCPlayer({ video, type: "whep" });
  await player.load(new URL(ENDPOINT));
  return true;
})()"""
_CLIENT = """(async () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [320, 180];
  const draw = canvas.getContext("2d");
  setInterval(() => draw.fillRect(0, 0, 320, 180), 30);
  window.client = new lib.WHIPClient({ endpoint: ENDPOINT, opts: { noTrickleIce: true } });
  await client.ingest(canvas.captureStream(30));
  return true;
})()"""


async def shows(page: Page) -> None:
    size = await page.until("video.videoWidth && [video.videoWidth, video.videoHeight]")
    assert size == [SPEC.width, SPEC.height]
    before = await page.evaluate("video.getVideoPlaybackQuality().totalVideoFrames")
    await page.until(f"video.getVideoPlaybackQuality().totalVideoFrames > {before} + 15")


@pytest.fixture
async def playing(make_rig: RigMaker) -> AsyncIterator[Rig]:
    rig = await make_rig(allow_origins=("*",))
    await rig.worker()
    reading = asyncio.create_task((await rig.play()).keep_reading())
    yield rig
    reading.cancel()


@pytest.mark.parametrize(
    ("policy", "kinds"),
    [
        ("balanced", '["video"]'),
        ("balanced", '["audio", "video"]'),
        ("max-bundle", '["audio", "video"]'),
        ("max-compat", '["video", "audio"]'),
    ],
)
async def test_a_plain_page_watches(
    playing: Rig, browser: Browser, policy: str, kinds: str
) -> None:
    page = await browser.new_page()
    await page.open(playing.url + "health")
    values = {"ENDPOINT": f'"{playing.url}whep"', "POLICY": f'"{policy}"', "KINDS": kinds}
    assert await page.evaluate(script(_PLAIN, **values)) == 201
    await shows(page)
    gone = "fetch(resource, { method: 'DELETE' }).then((response) => response.status)"
    assert await page.evaluate(gone) == 200


async def test_the_whip_whep_package_watches_from_another_origin(
    playing: Rig, browser: Browser
) -> None:
    source = (npm_package("whip-whep", "1.2.0") / "whep.js").read_text()
    page = await browser.new_page()
    # 127.0.0.1 and localhost are two origins for the browser
    await page.open(f"http://localhost:{playing.port}/health")
    await page.evaluate(f"window.SOURCE = {json.dumps(source)}")
    values = {"ENDPOINT": f'"{playing.url}whep"', "POLICY": '"balanced"'}
    await page.evaluate(script(_PACKAGE, KINDS='["audio", "video"]', **values))
    await shows(page)
    await page.evaluate("client.stop()")
    await page.until("fetch(client.resourceURL ?? '/none').then((r) => r.status === 404)")


async def test_the_whip_whep_package_sends_the_image_of_a_session(
    make_rig: RigMaker, browser: Browser
) -> None:
    source = (npm_package("whip-whep", "1.2.0") / "whip.js").read_text()
    rig = await make_rig(whip="on")
    worker = await rig.worker(spec=SPEC.replace(kind="autoregressive", max_prompt_frames=1))
    page = await browser.new_page()
    await page.open(rig.url + "health")
    await page.evaluate(f"window.SOURCE = {json.dumps(source)}")
    resource = await page.evaluate(_CAMERA.replace("ENDPOINT", f'"{rig.url}whip"'))
    state = f"fetch('{resource}').then((r) => r.json()).then(({{ state }}) => state === 'playing')"
    await page.until(state, 60)
    (opened,) = worker.of(OpenSession)
    frames = opened.prompt_frames  # type: ignore[attr-defined]
    red, green, blue = np.frombuffer(frames.rgb, np.uint8).reshape(-1, 3).mean(0)
    assert red > 150 and green < 70 and blue < 80, "the browser's colours are its own"
    await page.evaluate("client.stop()")
    await page.until(f"fetch('{resource}').then((r) => r.status === 404)")


@pytest.mark.long
async def test_the_eyevinn_player_watches(playing: Rig, browser: Browser, tmp_path: Path) -> None:
    page = await browser.new_page()
    await page.open(playing.url + "health")
    source = bundled("@eyevinn/webrtc-player", "0.13.0", tmp_path / "player.js", "lib")
    await page.evaluate(f"{source};window.lib = lib; true")
    await page.evaluate(_PLAYER.replace("ENDPOINT", f'"{playing.url}whep"'))
    await shows(page)
    await page.evaluate("player.unload(), true")


@pytest.mark.long
async def test_the_eyevinn_client_sends_the_image_of_a_session(
    make_rig: RigMaker, browser: Browser, tmp_path: Path
) -> None:
    rig = await make_rig(whip="on")
    worker = await rig.worker(spec=SPEC.replace(kind="autoregressive", max_prompt_frames=1))
    page = await browser.new_page()
    await page.open(rig.url + "health")
    source = bundled("@eyevinn/whip-web-client", "1.1.7", tmp_path / "client.js", "lib")
    await page.evaluate(f"{source};window.lib = lib; true")
    await page.evaluate(_CLIENT.replace("ENDPOINT", f'"{rig.url}whip"'))
    await eventually(lambda: bool(worker.of(OpenSession)), 60)


__all__ = ["make_rig"]
