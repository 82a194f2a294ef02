"""`worldbridge bench network`: inputs through loss, play over poor lines and through outages."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from worldbridge.benchmarks.bridge.bench import browser_or_why, check_names, gateway_with_source
from worldbridge.benchmarks.bridge.source import record
from worldbridge.benchmarks.bridge.viewers import InputViewer
from worldbridge.benchmarks.impairment import LINKS, Link, TcpRelay, UdpRelay, tcp_relay, udp_relay
from worldbridge.benchmarks.machine import describe
from worldbridge.engine_plugins.python.timing import percentiles
from worldbridge.errors import StartError
from worldbridge.models.progress import Progress, silent

if TYPE_CHECKING:
    from tests.support.chromium import Page

__all__ = ["LINES", "bench_network"]

INPUT_LINK: Final = Link(delay_ms=20.0, loss=0.02)
INPUT_FPS: Final = 30.0
LINES: Final = {  # name in the result -> link, the same in both directions
    "lan": LINKS["lan"],
    "10_percent_loss": LINKS["very_lossy"],
    "200_ms": LINKS["far"],
    "2_mbit": LINKS["2mbit"],
    "600_kbit": LINKS["600kbit"],
    "300_kbit": LINKS["300kbit"],
}
BLACKOUT_S: Final = 2.0
_PUBLIC: Final = "127.0.0.2"  # where the relay of the media listens
_SETTLE_S: Final = 4.0  # the rate control learns the line
_RECOVER_S: Final = 15.0
_START_S: Final = 60.0

_PLAYING: Final = "window.worldbridge?.state === 'playing' && worldbridge.stats().page.frames.shown"
_COLLECT: Final = """(async () => {
  const { LatencyMeter } = await import("/js/latency.js"), { shown } = LatencyMeter.prototype;
  const video = document.querySelector("video");
  window.shown = [];
  window.frames = [];
  window.answers = [];
  const next = () => video.requestVideoFrameCallback((now) => {
    next();
    window.shown.push(Math.max(now, performance.now()));
  });
  next();
  LatencyMeter.prototype.shown = function (header, received, at, offset) {
    const fresh = shown.call(this, header, received, at, offset);
    if (offset !== null) window.frames.push([header.t_frame + offset, at]);
    window.answers.push(...fresh.map(({ total }) => total));
    return fresh;
  };
})()"""
_TAKE: Final = """(() => {
  const { shown, frames, answers } = window, { transport } = worldbridge.stats();
  const taken = { shown, frames, answers, transport, now: performance.now() };
  window.shown = [];
  window.frames = [];
  window.answers = [];
  return taken;
})()"""


def bench_network(
    lines: Sequence[str] = (),
    fps: float = 30.0,
    seconds: float | None = None,
    video: str = "webrtc",
    quick: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure inputs through loss, and with `quick` off play in a headless Chromium over `lines`.

    Inputs cross 2 % loss and 20 ms each way, once on the unordered channel with the last states in
    each message, as clients send them, and once on an ordered and reliable channel, the usual way.
    Each line is played over for `seconds` and then goes dark for 2 s; the WebSocket crosses the
    same line. `video` is the way of the frames, as the page's address has it.

    Raises:
        ConfigError: a line is unknown.
        StartError: a process did not start, or nothing came.
    """
    check_names(lines, LINES, "line")
    length = seconds or (5.0 if quick else 20.0)
    browser, displayed_in = browser_or_why(quick)
    names = [] if browser is None else list(dict.fromkeys(lines)) or [*LINES]
    result: dict[str, Any] = {
        "environment": describe(),
        "load_average": round(os.getloadavg()[0], 2),
        "displayed_in": displayed_in,
        "video": video,
        "inputs": {},
        "lines": {},
    }
    with tempfile.TemporaryDirectory(prefix="wb-bench-") as name:
        folder = Path(name)
        width, height = record(folder / "walk.i420")
        scene = {"walk": str(folder / "walk.i420"), "width": width, "height": height}
        bench = _Bench(folder, scene, length)
        for number, way in enumerate(("unordered", "ordered")):
            progress(f"inputs, {way}", number / (2 + len(names)))
            result["inputs"][way] = bench.inputs(ordered=way == "ordered")
        for number, line in enumerate(names):
            progress(f"line {line}", (2 + number) / (2 + len(names)))
            assert browser is not None
            result["lines"][line] = bench.line(browser, LINES[line], fps, video)
    return result


@dataclass(frozen=True, slots=True)
class _Bench:
    folder: Path
    scene: dict[str, Any]
    seconds: float

    def inputs(self, ordered: bool) -> dict[str, Any]:
        """Return how many states arrived at the gateway, and how long they took."""
        log, port = self.folder / f"inputs-{ordered}.txt", _free_udp_port()
        scene = {**self.scene, "fps": INPUT_FPS, "inputs": str(log)}
        with gateway_with_source(self.folder, scene, **_public(port)) as (urls, _):
            sent = asyncio.run(_send_inputs(urls["http"], port, self.seconds, ordered))
        return _delivery(sent, [json.loads(line) for line in log.read_text().splitlines()])

    def line(self, browser: str, link: Link, fps: float, video: str) -> dict[str, Any]:
        """Return how play went over one line, and through an outage at its end."""
        port = _free_udp_port()
        scene = {**self.scene, "fps": fps, "seats": 2}
        with gateway_with_source(self.folder, scene, **_public(port)) as (urls, _):
            return asyncio.run(_play(browser, urls["http"], port, link, self.seconds, video))


def _public(port: int) -> dict[str, Any]:
    return {"public_address": _PUBLIC, "udp_ports": f"{port}-{port}"}


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((_PUBLIC, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _over(link: Link, url: str, port: int) -> AsyncIterator[tuple[UdpRelay, TcpRelay]]:
    """Put a line in front of a gateway: its media port and its web server."""
    parts = urlsplit(url)
    server = parts.hostname or "", parts.port or 80
    media = udp_relay(("127.0.0.1", port), link, listen=(_PUBLIC, port))
    async with media as udp, tcp_relay(server, link) as tcp:
        yield udp, tcp


# --- inputs ------------------------------------------------------------------------------------


async def _send_inputs(url: str, port: int, seconds: float, ordered: bool) -> dict[int, float]:
    """Send controller states over the impaired line; return when each was sent, ms by sequence."""
    async with _over(INPUT_LINK, url, port) as (media, _):
        viewer = InputViewer(url, ordered)
        await viewer.open()
        try:
            await asyncio.wait_for(viewer.ready.wait(), _START_S)
            sent = await viewer.steer_for(seconds)
            await asyncio.sleep(2.0)  # the last retransmission
        finally:
            await viewer.close()
        if media.up.sent < len(sent):
            raise StartError("the inputs did not cross the relay", got=f"{media.up.sent} packets")
        return sent


def _delivery(sent: dict[int, float], arrived: list[tuple[int, float]]) -> dict[str, Any]:
    """Return how the states arrived: one counts as there once it or a newer one is.

    States are complete, so a newer one contains the change; `arrived`: sequence and ms.
    """
    latencies, first = [], 0
    for sequence, at in sorted(sent.items()):
        while first < len(arrived) and arrived[first][0] < sequence:
            first += 1
        if first < len(arrived):
            latencies.append(arrived[first][1] - at)
    return {
        "sent": len(sent),
        "delivered_percent": round(100 * len(latencies) / len(sent), 2),
        "sent_to_gateway_ms": _rounded(latencies),
    }


# --- play --------------------------------------------------------------------------------------


async def _play(
    browser: str, url: str, port: int, link: Link, seconds: float, video: str
) -> dict[str, Any]:
    from tests.support.chromium import PageError, chromium

    async with _over(link, url, port) as (media, web), chromium(browser) as running:
        page = await running.new_page()
        address = f"http://127.0.0.1:{web.port}/?theme=city&autoplay=1&video={video}"
        try:
            await page.call("Page.navigate", url=address)
            await page.until(_PLAYING, _START_S)
            await page.evaluate(_COLLECT)
            await asyncio.sleep(_SETTLE_S)
            await page.evaluate(_TAKE)
            await asyncio.sleep(seconds)
            played = await page.evaluate(_TAKE)
            media.black_out(BLACKOUT_S)
            web.black_out(BLACKOUT_S)
            await asyncio.sleep(BLACKOUT_S)
            back = await _recover(page)
            after = await page.evaluate("worldbridge.stats().transport")
        except PageError as error:
            raise StartError("the page did not play", got=str(error)[:500]) from error
        await page.call("Page.navigate", url="about:blank")
    outage = {"frame_after_outage_ms": back, "transport_after_outage": after}
    return {**_summary(played, seconds), **outage}


async def _recover(page: Page) -> float | None:
    """Return the ms until a frame is shown that was made from now on, None if none is."""
    back: float = await page.evaluate("performance.now()")
    find = f"window.frames.find(([made]) => made >= {back})"
    for _ in range(round(_RECOVER_S / 0.1)):
        found: list[float] | None = await page.evaluate(find)
        if found:
            return round(found[1] - back, 1)
        await asyncio.sleep(0.1)
    return None


def _summary(played: dict[str, Any], seconds: float) -> dict[str, Any]:
    frames: list[list[float]] = played["frames"]
    # a canvas shows no frame without its header
    shown: list[float] = played["shown"] or [at for _, at in frames]
    times = [played["now"] - seconds * 1000, *shown, played["now"]]
    pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    return {
        "transport": played["transport"],
        "frames_per_second": round(len(shown) / seconds, 1),
        "longest_pause_ms": round(max(pauses), 1),
        "input_to_photon_ms": _rounded(played["answers"]),
        "handed_to_displayed_ms": _rounded([at - made for made, at in frames]),
    }


def _rounded(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {name: round(value, 2) for name, value in percentiles(values).items()}
