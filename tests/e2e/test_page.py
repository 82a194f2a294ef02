"""Open the page in a real browser, play, and look at what is on its screen."""

from __future__ import annotations

import asyncio
import json
import statistics
import time

import numpy as np
import pytest

from tests.support.chromium import Browser, Page
from tests.support.machine import busy
from tests.support.page import grab, likeness, movements, read_latency_table
from tests.support.proxy import proxy_to
from tests.support.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(300)]

PLAYING = "worldbridge.state === 'playing'"


async def _play(browser: Browser, url: str, query: str = "") -> Page:
    """Return a page that plays a fixed world."""
    page = await browser.new_page()
    await page.open(f"{url}/?autoplay=1&theme=city&seed=7{query}")
    await page.until(f"window.worldbridge && {PLAYING}", 60)
    return page


async def _leave(page: Page) -> None:
    """Free the seat; fail if the page has thrown an exception."""
    await page.call("Page.navigate", url="about:blank")
    thrown = [line for line in page.log if line.startswith("exception")]
    assert not thrown, thrown


async def _shown(page: Page) -> int:
    return int(await page.evaluate("worldbridge.stats().page.frames.shown"))


@pytest.mark.parametrize("video", ["webrtc", "h264", "jpeg"])
async def test_opens_and_plays(server: Server, browser: Browser, video: str) -> None:
    page = await _play(browser, server.url, f"&video={video}")
    before, began = await _shown(page), time.monotonic()
    await page.until(f"worldbridge.stats().page.frames.shown >= {before + 30}", 90)
    rate = 30 / (time.monotonic() - began)
    stats = await page.evaluate("worldbridge.stats()")
    assert video in stats["transport"], stats["transport"]
    [frame] = await grab(page)
    assert frame.std() > 8, "the frame is one flat colour"
    await _leave(page)
    print(f"{stats['world']} over {video}: {rate:.1f} frames/s")


async def test_play_button_starts_a_world(server: Server, browser: Browser) -> None:
    page = await browser.new_page()
    await page.open(f"{server.url}/?theme=zoo&seed=3")
    assert await page.evaluate("worldbridge.state") == "idle"
    await page.evaluate("document.querySelector('#play').click()")
    await page.until(PLAYING, 30)
    session = await page.evaluate("worldbridge.session")
    assert (session["theme"], session["seed"]) == ("zoo", 3)
    await page.evaluate("document.querySelector('#menu-button').click()")
    controls = await page.evaluate("document.querySelector('#control-rows').innerText")
    names = [control["name"] for control in session["world"]["action_schema"]]
    assert "forward" in names and "walk" in controls, controls
    assert ("yaw" in names) == ("turn" in controls), controls
    await _leave(page)


async def test_turning_left_moves_the_frame_right(server: Server, browser: Browser) -> None:
    page = await _play(browser, server.url)
    moved = {}
    for code in ("ArrowLeft", "ArrowRight"):
        await page.key(code, down=True)
        await grab(page, apart=4)  # frames that still answer the controls before
        moved[code] = movements(await grab(page, 10))
        await page.key(code, down=False)
    await _leave(page)
    assert len(moved["ArrowLeft"]) >= 4 and len(moved["ArrowRight"]) >= 4, moved
    assert statistics.median(moved["ArrowLeft"]) >= 1, moved
    assert statistics.median(moved["ArrowRight"]) <= -1, moved


async def test_walking_changes_the_frame_and_standing_does_not(
    procedural: Server, browser: Browser
) -> None:
    page = await _play(browser, procedural.url)
    still = await grab(page, 2, apart=10)
    assert likeness(still[0], still[1]) > 0.99
    await page.key("KeyW", down=True)
    walked = await grab(page, 2, apart=20)
    await page.key("KeyW", down=False)
    await _leave(page)
    assert float(np.abs(walked[0] - walked[1]).mean()) > 2


async def test_a_lost_connection_comes_back_to_the_same_world(
    server: Server, browser: Browser
) -> None:
    async with proxy_to(server.port) as network:
        page = await _play(browser, f"http://127.0.0.1:{network.port}")
        session, before = await _turn_and_stand(page)
        network.cut()
        await page.until("worldbridge.state === 'reconnecting'", 8)
        await asyncio.sleep(1.5)
        assert network.refused > 0, "the page did not try to come back"
        network.mend()
        await page.until(PLAYING, 15)
        [after] = await grab(page, apart=3)
        assert await page.evaluate("worldbridge.session.session") == session
        _check_same_view(server, before, after)
        await _leave(page)


async def test_a_page_that_stalls_reads_what_it_missed_and_goes_on(
    procedural: Server, browser: Browser
) -> None:
    page = await _play(browser, procedural.url)
    session = await page.evaluate("worldbridge.session.session")
    before = await _shown(page)
    await page.evaluate("(() => { const end = Date.now() + 2600; while (Date.now() < end); })()")
    await page.until("document.getElementById('toasts').textContent.includes('You were away')", 60)
    await page.until(PLAYING, 60)
    await page.until(f"worldbridge.stats().page.frames.shown > {before + 5}", 60)
    assert await page.evaluate("worldbridge.session.session") == session
    await _leave(page)


async def test_a_killed_worker_is_replaced_and_play_goes_on(
    server: Server, browser: Browser
) -> None:
    page = await _play(browser, server.url)
    session, before = await _turn_and_stand(page)
    await asyncio.sleep(2.5)  # the session is saved once a second
    allowed = 60.0 if busy(0) else 10.0
    killed, began = server.kill("worker"), time.monotonic()
    await page.until("worldbridge.state === 'reconnecting'", 5)
    await page.until(PLAYING, allowed + 5)
    took = time.monotonic() - began
    [after] = await grab(page, apart=5)
    assert await page.evaluate("worldbridge.session.session") == session
    assert server.child("worker") != killed
    assert "worker | was killed by SIGKILL; starting it again" in server.output()
    _check_same_view(server, before, after)
    await _leave(page)
    print(f"play went on after {took:.1f} s")
    assert took <= allowed, f"play went on after {took:.1f} s"


async def _turn_and_stand(page: Page) -> tuple[str, np.ndarray]:
    """Turn away from the start; return the session's name and the frame seen there."""
    await page.key("ArrowLeft", down=True)
    await grab(page, apart=12)
    await page.key("ArrowLeft", down=False)
    [view] = await grab(page, apart=8)
    return await page.evaluate("worldbridge.session.session"), view


def _check_same_view(server: Server, before: np.ndarray, after: np.ndarray) -> None:
    """Compare views; a generated world may drift a little while nobody moves."""
    least = 0.95 if "procedural" in str(server.log) else 0.5
    assert likeness(before, after) > least


async def test_a_killed_gateway_is_replaced_on_the_same_port(
    procedural: Server, browser: Browser
) -> None:
    page = await _play(browser, procedural.url)
    procedural.kill("gateway")
    await page.until("worldbridge.state === 'reconnecting'", 8)
    await page.until(PLAYING, 20)
    session = await page.evaluate("worldbridge.session")
    assert (session["theme"], session["seed"]) == ("city", 7)
    await _leave(page)


async def test_everything_but_the_model_is_quick(procedural: Server, browser: Browser) -> None:
    """Measure from the encoder's input to the screen at 30 frames/s."""
    if reason := await asyncio.to_thread(busy):
        pytest.skip(f"latency is not measured on a busy machine: {reason}")
    page = await _play(browser, procedural.url, "&video=webrtc")
    await page.key("ArrowLeft", down=True)
    await asyncio.sleep(10)
    await page.key("ArrowLeft", down=False)
    rows = await read_latency_table(page)
    stats = await page.evaluate("worldbridge.stats()")
    await _leave(page)
    by_frame = {row["frame"]: row for row in rows[len(rows) // 4 :]}  # the last per frame
    assert len(by_frame) >= 100, f"only {len(by_frame)} frames were measured"
    shown = [r["encode_ms"] + r["downlink_ms"] + r["show_ms"] for r in by_frame.values()]
    p50, p95 = np.percentile(shown, [50, 95])
    report = {"p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2)}
    print(f"handed over -> shown, {stats['frames_per_second']} frames/s: {json.dumps(report)}")
    for row in rows:
        spans = sum(v for k, v in row.items() if k.endswith("_ms") and k[:-3] in stats["spans_ms"])
        assert spans == pytest.approx(row["total_ms"], rel=0.05, abs=0.1)
    # The aim is 10 and 20 ms on a quiet machine; tests may share theirs.
    assert p50 <= 30 and p95 <= 80, report


async def test_the_reported_latency_is_that_of_the_pixels(
    procedural: Server, browser: Browser
) -> None:
    page = await _play(browser, procedural.url, "&video=webrtc")
    await page.until("worldbridge.stats().page.frames.shown > 30", 60)
    keep = "result => { window.tested = result }, error => { window.tested = {error: `${error}`} }"
    await page.evaluate(f"void worldbridge.latencyTest(4).then({keep})")
    result = await page.until("window.tested", 120)
    assert "error" not in result, result
    presses = result["presses"]
    assert presses, "no press moved the pixels"
    apart = [press["pixels_ms"] - press["reported_ms"] for press in presses]
    print(presses)
    # both see one frame, each at a time of its own: up to two frames of 33 ms apart
    if not busy():
        assert abs(statistics.median(apart)) < 70
    await _leave(page)
