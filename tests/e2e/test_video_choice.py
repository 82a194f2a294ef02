"""The page on networks without UDP, which it remembers, and on slow and lossy ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chromium import Browser, find_chromium
from tests.support.server import serving
from worldbridge.benchmarks.bridge.network import bench_network

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(400)]

NOWHERE = "192.0.2.1"  # an address of documentation: packets to it are lost


async def test_without_udp_it_is_h264_and_the_next_page_knows(
    browser: Browser, tmp_path: Path
) -> None:
    arguments = ("--world", "procedural", "--public-address", NOWHERE)
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
