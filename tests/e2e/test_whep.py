"""WHEP in a real browser: a plain peer connection, and the whip-whep package, unmodified."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.bridge.conftest import SPEC, Rig, RigMaker, make_rig
from tests.support.chromium import Browser, Page
from tests.support.npm import npm_package

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


__all__ = ["make_rig"]
