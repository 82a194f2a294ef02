"""Epic's front-end library for Pixel Streaming, unmodified, in a real browser."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.bridge.conftest import SPEC, Rig, RigMaker, eventually, make_rig
from tests.support.chromium import Browser, Page
from tests.support.npm import bundled
from worldbridge.bridge.protocol import SessionInput

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(240)]

# of each version of Unreal that has one; a library of another version is one parameter more
VERSIONS = {"5.2": "0.5.9", "5.3": "1.0.9", "5.4": "1.1.6", "5.5": "1.3.0", "5.7": "0.3.1"}
DEFAULT = "5.6", "0.3.1"
_PLAY = """(() => {
  // the library makes the player as large as what is around it
  document.body.innerHTML =
    "<div style='width: 640px; height: 320px'><div id='player'></div></div>";
  const config = new ps.Config({
    useUrlParams: false,
    initialSettings: { ss: SIGNALLING, AutoConnect: true, AutoPlayVideo: true,
                       StartVideoMuted: true, KeyboardInput: true, HoveringMouse: true },
  });
  window.streaming = new ps.PixelStreaming(
    config, { videoElementParent: document.getElementById("player") });
  window.heard = {};
  for (const name of ["initialSettings", "dataChannelOpen", "webRtcDisconnected",
                      "subscribeFailed"]) {
    streaming.addEventListener(name, (event) => { heard[name] = event.data ?? true; });
  }
  streaming.addResponseEventListener("test", (text) => { heard.response = text; });
})()"""

_MOVE = """
  document.getElementById("player").dispatchEvent(
    new MouseEvent("mousemove", { movementX: 40, clientX: 300, clientY: 100 }))
"""  # 40 of the 640 pixels that the player is wide


@pytest.fixture(scope="module")
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The package as a front end bundles it: no file of it is changed."""
    unreal, version = getattr(request, "param", DEFAULT)
    name = f"@epicgames-ps/lib-pixelstreamingfrontend-ue{unreal}"
    return bundled(name, version, tmp_path_factory.mktemp("bundle") / "library.js", "ps")


@pytest.fixture
async def rig(make_rig: RigMaker) -> AsyncIterator[Rig]:
    yield await make_rig()


async def open_player(browser: Browser, rig: Rig, library: str, query: str = "") -> Page:
    page = await browser.new_page()
    await page.open(rig.url + "health")
    await page.evaluate(library + ";window.ps = ps; true")
    signalling = json.dumps(f"ws://127.0.0.1:{rig.port}/{query}")
    await page.evaluate(_PLAY.replace("SIGNALLING", signalling) + ", true")
    return page


@pytest.mark.parametrize(
    "library",
    [DEFAULT, *(pytest.param(each, marks=pytest.mark.long) for each in VERSIONS.items())],
    indirect=True,
    ids=lambda each: each[0],
)
async def test_the_library_shows_the_stream_and_steers_it(
    rig: Rig, browser: Browser, library: str
) -> None:
    worker = await rig.worker()
    page = await open_player(browser, rig, library)
    await page.until("heard.dataChannelOpen", 40)
    video = "document.querySelector('video')"
    await page.until(f"{video}?.videoWidth", 40)
    size = await page.evaluate(f"[{video}.videoWidth, {video}.videoHeight]")
    assert size == [SPEC.width, SPEC.height]
    shown = "document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames"
    before = await page.evaluate(shown)
    await page.until(f"{shown} > {before} + 15", 40)
    settings = await page.until("heard.initialSettings")
    assert settings["settings"]["WebRTCSettings"]["FPS"] == SPEC.fps

    def newest() -> Any:
        inputs = worker.of(SessionInput)
        return inputs[-1].state if inputs else None  # type: ignore[attr-defined]

    await key(page, "KeyW", 87, "rawKeyDown")
    await eventually(lambda: newest() is not None and newest().keys == ("KeyW",))
    await key(page, "KeyW", 87, "keyUp")
    await eventually(lambda: newest().keys == ())
    await page.evaluate(_MOVE)
    await eventually(lambda: newest().pointer[0] == pytest.approx(80, abs=1))  # of 1280
    await page.evaluate("streaming.emitUIInteraction({ theme: 'nowhere' }), true")
    assert "unknown_theme" in await page.until("heard.response")
    await page.evaluate("streaming.disconnect(), true")
    await eventually(lambda: not worker.worlds)


async def key(page: Page, code: str, number: int, kind: str) -> None:
    await page.call(
        "Input.dispatchKeyEvent", type=kind, code=code, windowsVirtualKeyCode=number, key="w"
    )


async def test_the_library_shows_why_it_is_refused(
    make_rig: RigMaker, browser: Browser, library: str
) -> None:
    rig = await make_rig(token="secret")
    await rig.worker()
    page = await open_player(browser, rig, library)
    failed = await page.until("heard.subscribeFailed", 40)
    assert "token" in json.dumps(failed)


__all__ = ["make_rig"]
