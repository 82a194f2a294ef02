"""The page on networks without UDP, which it remembers, and on slow and lossy ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridge.test_webrtc_impaired import free_port
from tests.support.chromium import Browser
from tests.support.server import serving
from worldbridge.benchmarks.impairment import LINKS, udp_relay

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


async def test_webrtc_plays_over_a_slow_and_lossy_network_and_after_an_outage(
    browser: Browser, tmp_path: Path
) -> None:
    port = free_port()
    ports = ("--udp-ports", f"{port}-{port}", "--public-address", "127.0.0.2")
    listen = ("127.0.0.2", port)
    with serving(tmp_path / "server.log", "--world", "procedural", *ports) as server:
        async with udp_relay(("127.0.0.1", port), LINKS["600kbit"], listen=listen) as relay:
            page = await browser.new_page()
            await page.call(
                "Page.navigate", url=f"{server.url}/?autoplay=1&theme=city&seed=7&video=webrtc"
            )
            await page.until("window.worldbridge?.state === 'playing'", 120)
            await page.until("worldbridge.stats().page.frames.shown >= 60", 120)
            stats = await page.evaluate("worldbridge.stats()")
            assert stats["transport"] == "webrtc-h264" and relay.down.sent > 100
            print(
                f"600 kbit/s, 3 % loss: {stats['frames_per_second']} frames/s, input to photon "
                f"{stats['input_to_photon_ms']} ms"
            )
            relay.black_out(2.0)
            before = stats["page"]["frames"]["shown"]
            await page.until(f"worldbridge.stats().page.frames.shown >= {before + 60}", 120)
            assert await page.evaluate("worldbridge.stats().transport") == "webrtc-h264"
            await page.call("Page.navigate", url="about:blank")
