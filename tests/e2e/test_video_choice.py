"""The page on networks without UDP, which it remembers, and on slow and lossy ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridge.test_webrtc_impaired import free_port
from tests.support.chromium import Browser, find_chromium
from tests.support.server import serving
from worldbridge.benchmarks.bridge.network import bench_network
from worldbridge.benchmarks.impairment import udp_relay

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(400)]

PUBLIC = "127.0.0.2"  # where nobody listens, until a relay does
ONE_HOUR_AGO = """(() => {
  const known = JSON.parse(localStorage["worldbridge.video"]);
  known.webrtc.failed -= 60 * 60 * 1000;
  localStorage["worldbridge.video"] = JSON.stringify(known);
})()"""


async def test_without_udp_it_is_h264_until_webrtc_is_tried_again(
    browser: Browser, tmp_path: Path
) -> None:
    port = free_port()
    ports = ("--public-address", PUBLIC, "--udp-ports", f"{port}-{port}")
    arguments = ("--world", "procedural", *ports)
    with serving(tmp_path / "server.log", *arguments) as server:
        page = await browser.new_page()
        await page.call("Page.navigate", url=f"{server.url}/?autoplay=1&theme=city&seed=7")
        await page.until("window.worldbridge?.stats().transport === 'websocket-h264'", 120)
        await page.until("worldbridge.stats().page.frames.shown >= 10", 120)
        fallback = await page.evaluate("worldbridge.session.fallback")
        assert "4 s" in fallback or "connection" in fallback
        await page.call("Page.navigate", url=f"{server.url}/?autoplay=1&theme=city&seed=8")
        entered = "window.worldbridge?.session.seed === 8 && worldbridge.state === 'playing'"
        await page.until(entered, 120)
        stats = await page.evaluate("worldbridge.stats()")
        assert stats["transport"] == "websocket-h264" and stats["page"]["fallback"] is None
        known = await page.evaluate("JSON.parse(localStorage['worldbridge.video']).webrtc.failed")
        assert known > 0
        print(f"fell back because: {fallback}")
        await page.evaluate(ONE_HOUR_AGO)
        async with udp_relay(("127.0.0.1", port), listen=(PUBLIC, port)):
            await page.call("Page.navigate", url=f"{server.url}/?autoplay=1&theme=city&seed=9")
            await page.until("window.worldbridge?.stats().transport === 'webrtc-h264'", 120)
            await page.until("worldbridge.stats().page.frames.shown >= 10", 120)
        await page.call("Page.navigate", url="about:blank")


def test_webrtc_plays_over_a_slow_and_lossy_network_and_after_an_outage() -> None:
    if find_chromium() is None:
        pytest.skip("no Chromium or Chrome found; name one with CHROMIUM=/path/to/chrome")
    result = bench_network(("600_kbit",), seconds=4)
    case = result["lines"]["600_kbit"]
    assert case["transport"] == case["transport_after_outage"] == "webrtc-h264"
    assert case["frames_per_second"] > 0 and case["input_to_photon_ms"] is not None
    assert case["frame_after_outage_ms"] is not None, "play goes on"
    print(case)
