"""Seats as the page shows them, in a real browser: the queue, a closed tab, watching, hand-over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridge.conftest import Rig, RigMaker, make_rig, rig
from tests.support.chromium import Browser, Page

__all__ = ["make_rig", "rig"]

pytestmark = [pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(300)]

PATIENCE_S = 60.0
STATE = "window.worldbridge && worldbridge.state"
SESSION = "worldbridge.session.session"


async def opened(browser: Browser, rig: Rig, query: str, state: str = "playing") -> Page:
    """Return a page that reached a state."""
    page = await browser.new_page()
    await page.open(f"{rig.url}?video=jpeg&{query}")
    await page.until(f"{STATE} === '{state}'", PATIENCE_S)
    return page


async def test_a_closed_tab_frees_its_seat_and_a_reloaded_one_keeps_its_world(
    rig: Rig, browser: Browser, tmp_path: Path
) -> None:
    await rig.worker(seats=1)
    first = await opened(browser, rig, "autoplay=1")
    session = await first.evaluate(SESSION)
    await first.evaluate("location.reload()")
    await first.until(f"{STATE} === 'playing' && {SESSION} === '{session}'", PATIENCE_S)

    second = await opened(browser, rig, "autoplay=1", "queued")
    await second.until("document.querySelector('#status-detail').innerText.includes('number 1')")
    await second.screenshot(tmp_path / "queued.png")
    await first.call("Page.navigate", url="about:blank")
    await second.until(f"{STATE} === 'playing'", PATIENCE_S)
    assert await second.evaluate(SESSION) != session
    assert not [line for line in (*first.log, *second.log) if line.startswith("exception")]


async def test_the_controls_are_handed_over_in_the_menu(
    rig: Rig, browser: Browser, tmp_path: Path
) -> None:
    await rig.worker(seats=1)
    player = await opened(browser, rig, "autoplay=1")
    watcher = await opened(browser, rig, "watch=1")
    role = "worldbridge.session.role"
    assert await watcher.evaluate(role) == "spectator"
    menu = "document.querySelector('#menu-button').click()"
    control = "document.querySelector('#menu-control').click()"
    await watcher.evaluate(menu)
    assert await watcher.evaluate("document.querySelector('#menu-form').hidden")
    await watcher.evaluate(control)
    await player.until("worldbridge.session.controlRequested", PATIENCE_S)
    await player.evaluate(menu)
    await player.screenshot(tmp_path / "menu.png")
    await player.evaluate(control)
    await watcher.until(f"{role} === 'player' && {STATE} === 'playing'", PATIENCE_S)
    await player.call("Page.bringToFront")  # a page in the background shows no frames
    await player.until(f"{role} === 'spectator' && {STATE} === 'playing'", PATIENCE_S)
    assert not [line for line in (*player.log, *watcher.log) if line.startswith("exception")]


@pytest.mark.long
async def test_an_idle_player_is_warned_and_a_kept_seat_says_until_when(
    make_rig: RigMaker, browser: Browser, tmp_path: Path
) -> None:
    rig = await make_rig(idle_limit=12.0)
    await rig.worker(seats=1)
    vanished = await rig.play()
    await vanished.socket.close(1001)  # without a bye: its seat is kept
    waiting = await opened(browser, rig, "autoplay=1", "queued")
    detail = "document.querySelector('#status-detail').innerText"
    await waiting.until(f"/is kept for a player who vanished, for \\d+ s/.test({detail})")
    await waiting.until(f"/About .* to go/.test({detail})")
    await waiting.until(f"{STATE} === 'playing'", PATIENCE_S)
    text = "document.body.innerText"
    await waiting.until(f"{text}.includes('the seat is free in')", PATIENCE_S)
    await waiting.screenshot(tmp_path / "idle.png")
    await waiting.until(f"{STATE} === 'error' && {text}.includes('seat_lost')", PATIENCE_S)
