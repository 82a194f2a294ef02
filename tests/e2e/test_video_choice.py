"""The page where WebRTC does not get through: what it takes instead, and that it remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chromium import Browser
from tests.support.server import serving

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(400)]

NOWHERE = "192.0.2.1"  # an address of documentation: packets to it are lost


async def test_without_udp_it_is_h264_and_the_next_page_knows(
    browser: Browser, tmp_path: Path
) -> None:
    arguments = ("--world", "procedural", "--public-address", NOWHERE)
    with serving(tmp_path / "server.log", *arguments) as server:
        page = await browser.new_page()
        await page.open(f"{server.url}/?autoplay=1&theme=city&seed=7")
        await page.until("window.worldbridge?.stats().transport === 'websocket-h264'", 120)
        await page.until("worldbridge.stats().page.frames.shown >= 10", 120)
        fallback = await page.evaluate("worldbridge.session.fallback")
        assert "4 s" in fallback or "connection" in fallback
        await page.open(f"{server.url}/?autoplay=1&theme=city&seed=8")
        await page.until("window.worldbridge?.state === 'playing'", 120)
        stats = await page.evaluate("worldbridge.stats()")
        assert stats["transport"] == "websocket-h264" and stats["page"]["fallback"] is None
        known = await page.evaluate("JSON.parse(localStorage['worldbridge.video']).webrtc.failed")
        assert known > 0
        print(f"fell back because: {fallback}")
        await page.call("Page.navigate", url="about:blank")
