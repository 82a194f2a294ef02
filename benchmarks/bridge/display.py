"""How long frames take until a headless Chromium shows them: our page, and a page for `naive`.

Needs a checkout: the driver of the browser is test support, and no part of an installed package.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from worldbridge.bridge.transports.aiortc_internals import RTP_PER_MS
from worldbridge.clock import now_ms
from worldbridge.errors import ConfigError

if TYPE_CHECKING:
    from tests.support.chromium import Page

__all__ = ["SPANS", "VIDEO", "display", "find_browser"]

SPANS: Final = ("encode", "downlink", "show")  # hand-over to encoded, to received, to displayed

VIDEO: Final = {
    "webrtc": "webrtc",
    "websocket_h264": "h264",
    "websocket_jpeg": "jpeg",
}  # `video` of our page
_READY_S: Final = 60.0
_LEAVE_S: Final = 1.0  # until the gateway has forgotten the page
_CLOCK_TRIES: Final = 30

_PLAYING: Final = "window.worldbridge && worldbridge.state === 'playing'"
_COLLECT: Final = """(async () => {
  const { LatencyMeter } = await import("/js/latency.js"), { shown } = LatencyMeter.prototype;
  window.latencies = [];
  LatencyMeter.prototype.shown = function (header, received, at, offset) {
    if (offset !== null)
      window.latencies.push([
        at - (header.t_frame + offset),
        header.t_encoded - header.t_frame,
        received - (header.t_encoded + offset),
        at - received,
      ]);
    return shown.call(this, header, received, at, offset);
  };
})()"""
# The stock way: no header extension, no target of the jitter buffer.
_OFFER: Final = """(async () => {
  document.body.innerHTML = "<video muted autoplay playsinline width=1024></video>";
  const video = document.querySelector("video"), pc = new RTCPeerConnection();
  window.pc = pc;
  window.frames = [];
  pc.addTransceiver("video", { direction: "recvonly" });
  pc.ontrack = ({ track }) => { video.srcObject = new MediaStream([track]); video.play(); };
  const next = () => video.requestVideoFrameCallback((now, frame) => {
    next();
    window.frames.push([frame.rtpTimestamp, Math.max(now, performance.now())]);
  });
  next();
  await pc.setLocalDescription(await pc.createOffer());
  while (pc.iceGatheringState !== "complete") await new Promise((done) => setTimeout(done, 10));
  return pc.localDescription.sdp;
})()"""


def find_browser() -> str:
    """Return the path of a Chromium that can be driven.

    Raises:
        ConfigError: this is no checkout, or there is no browser.
    """
    checkout = Path(__file__).resolve().parents[2]
    driver = checkout / "tests/support/chromium.py"
    if not driver.exists():
        raise ConfigError(
            "the driver of the browser is missing",
            expected="a checkout of worldbridge, which has tests/support/chromium.py",
            got=str(checkout),
            remedy="run the benchmark from a checkout installed by ./build.sh",
        )
    if str(checkout) not in sys.path:  # the `worldbridge` command runs without its folder
        sys.path.append(str(checkout))
    from tests.support.chromium import find_chromium

    binary = find_chromium()
    if binary is None:
        raise ConfigError(
            "there is no Chromium",
            expected="chromium or google-chrome in PATH",
            got="none",
            remedy="install one, or name it: CHROMIUM=/path/to/chrome",
        )
    return binary


async def display(
    binary: str, transport: str, url: str, seconds: float, warm_up_s: float
) -> list[tuple[float, ...]]:
    """Return the ms from hand-over to display of the frames of `seconds`, and its `SPANS`.

    The spans of `naive` are not known.

    Raises AssertionError if the page does not play.
    """
    from tests.support.chromium import chromium

    async with chromium(binary) as browser:
        page = await browser.new_page()
        if transport == "naive":
            return await _naive(page, url, seconds, warm_up_s)
        await page.open(f"{url}?theme=city&autoplay=1&video={VIDEO[transport]}")
        await page.until(_PLAYING, _READY_S)
        await page.evaluate(_COLLECT)
        await asyncio.sleep(warm_up_s)
        await page.evaluate("window.latencies.length = 0")
        await asyncio.sleep(seconds)
        latencies = [tuple(row) for row in await page.evaluate("window.latencies")]
        await page.open("about:blank")
        await asyncio.sleep(_LEAVE_S)
        return latencies


async def _naive(page: Page, url: str, seconds: float, warm_up_s: float) -> list[tuple[float, ...]]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)

    async def ask(request: dict[str, Any]) -> dict[str, Any]:
        writer.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await reader.readline())
        return answer

    try:
        await page.open("about:blank")
        answer = await ask({"sdp": await page.evaluate(_OFFER)})
        description = json.dumps({"type": "answer", "sdp": answer["sdp"]})
        await page.evaluate(f"pc.setRemoteDescription({description})")
        await page.until("window.frames.length > 0", _READY_S)
        await asyncio.sleep(warm_up_s)
        await page.evaluate("window.frames.length = 0")
        await asyncio.sleep(seconds)
        frames = await page.evaluate("window.frames")
        offset, origin = await _clock_offset(page), (await ask({"origin": True}))["origin"]
    finally:
        writer.close()
    shown = ((rtp, round((at - offset) * RTP_PER_MS)) for rtp, at in frames if rtp is not None)
    return [((at - rtp + origin) % 2**32 / RTP_PER_MS,) for rtp, at in shown]


async def _clock_offset(page: Page) -> float:
    """Return the page's clock minus ours in ms, from the quickest of some questions."""
    best = (float("inf"), 0.0)
    for _ in range(_CLOCK_TRIES):
        asked = now_ms()
        theirs = await page.evaluate("performance.now()")
        answered = now_ms()
        best = min(best, (answered - asked, theirs - (asked + answered) / 2))
    return best[1]
