"""`worldbridge profile`: plays a scripted track without a screen and measures every leg."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import simplejpeg
from rich.table import Table

from worldbridge.bridge.protocol import Video
from worldbridge.client import Client, ShownFrame, connect, now_ms
from worldbridge.errors import StartError
from worldbridge.latency import LEG_TEXT, LEGS, LatencyMeter, percentiles

__all__ = ["as_table", "measure"]

# Walking, turning and standing, so that every part of the step is used. (keys held, seconds)
TRACK: Final[tuple[tuple[tuple[str, ...], float], ...]] = (
    (("KeyW",), 2.0),
    (("KeyW", "ArrowLeft"), 1.5),
    (("ArrowLeft",), 1.0),
    ((), 0.5),
    (("KeyW", "ArrowRight"), 1.5),
    (("KeyD",), 1.0),
    (("KeyS",), 1.0),
)
_SAMPLE_SECONDS: Final = 1 / 60
_FIRST_FRAME_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Run:
    """What was seen; times are client milliseconds."""

    meter: LatencyMeter = field(default_factory=LatencyMeter)
    shown: list[float] = field(default_factory=list)
    first_dropped: int | None = None
    last_dropped: int = 0


def measure(
    url: str, *, seconds: float, video: str = "jpeg", token: str | None = None
) -> dict[str, Any]:
    """One object: frames_per_second, input_to_photon_ms, legs_ms, dropped_frames and more.

    Raises StartError when there is no server, or no frame.
    """
    chosen: Video = "webrtc" if video == "webrtc" else "jpeg"
    return asyncio.run(_measure(url, seconds, chosen, token))


async def _measure(url: str, seconds: float, video: Video, token: str | None) -> dict[str, Any]:
    async with connect(url, video=video, token=token, name="worldbridge profile") as client:
        run = _Run()
        playing = asyncio.create_task(_play(client, run))
        try:
            await _watch(client, run, seconds)
        finally:
            playing.cancel()
        return _result(client, run, seconds, video)


async def _play(client: Client, run: _Run) -> None:
    began = asyncio.get_running_loop().time()
    for count in itertools.count():
        elapsed = count * _SAMPLE_SECONDS
        await asyncio.sleep(began + elapsed - asyncio.get_running_loop().time())
        snapshot = await client.play(_keys_at(elapsed))
        run.meter.sent(snapshot.seq, snapshot.time)


def _keys_at(elapsed: float) -> tuple[str, ...]:
    rest = elapsed % sum(duration for _, duration in TRACK)
    for keys, duration in TRACK:
        if rest < duration:
            return keys
        rest -= duration
    return ()


async def _watch(client: Client, run: _Run, seconds: float) -> None:
    """Takes frames for `seconds` after the first one."""
    frames = client.__aiter__()
    try:
        _note(client, run, await asyncio.wait_for(anext(frames), _FIRST_FRAME_SECONDS))
        async with asyncio.timeout(seconds):
            async for frame in frames:
                _note(client, run, frame)
    except TimeoutError as error:
        if not run.shown:
            raise StartError(
                "the server sent no frame",
                expected=f"one within {_FIRST_FRAME_SECONDS:g} s",
                got=f"none; it said: {client.state}",
                remedy="look at the server's log",
            ) from error


def _note(client: Client, run: _Run, frame: ShownFrame) -> None:
    if frame.jpeg is not None:
        simplejpeg.decode_jpeg(frame.jpeg)
    shown = now_ms()
    run.shown.append(shown)
    run.meter.shown(frame.header, frame.received, shown, client.clock.offset)
    if run.first_dropped is None:
        run.first_dropped = frame.header.dropped
    run.last_dropped = frame.header.dropped


def _result(client: Client, run: _Run, seconds: float, video: Video) -> dict[str, Any]:
    span = (run.shown[-1] - run.shown[0]) / 1000.0
    samples = run.meter.samples
    assert client.welcome is not None, "a frame came, so there was a welcome"
    return {
        "schema": "worldbridge.profile/1",
        "client": "python",
        "world": asdict(client.welcome.spec),
        "transport": {"video": video},
        "seconds": seconds,
        "frames": len(run.shown),
        "frames_per_second": round((len(run.shown) - 1) / span, 3) if span > 0 else 0.0,
        "inputs_answered": len(samples),
        "input_to_photon_ms": _rounded([sample.total for sample in samples]),
        "legs_ms": {leg: _rounded([sample.legs[leg] for sample in samples]) for leg in LEGS},
        "dropped_frames": run.last_dropped - (run.first_dropped or 0) + client.overtaken,
        "clock": {
            "offset_ms": _round(client.clock.offset),
            "shortest_round_trip_ms": _round(client.clock.shortest_round_trip),
        },
    }


def _rounded(values: list[float]) -> dict[str, float | None]:
    mean = sum(values) / len(values) if values else None
    return {name: _round(value) for name, value in (percentiles(values) | {"mean": mean}).items()}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def as_table(result: dict[str, Any]) -> Table:
    world = result["world"]
    table = Table(
        title=f"{world['name']}, {world['width']} x {world['height']}: "
        f"{result['frames_per_second']:.1f} frames/s, {result['dropped_frames']} dropped",
    )
    table.add_column("leg")
    table.add_column("from -> to")
    for name in ("p50", "p95", "p99", "mean"):
        table.add_column(f"{name} ms", justify="right")
    for leg in LEGS:
        table.add_row(leg, LEG_TEXT[leg], *_cells(result["legs_ms"][leg]))
    table.add_section()
    total = _cells(result["input_to_photon_ms"])
    table.add_row("total", "control sampled -> decoded picture", *total)
    return table


def _cells(summary: dict[str, float | None]) -> list[str]:
    values = (summary[name] for name in ("p50", "p95", "p99", "mean"))
    return ["-" if value is None else f"{value:.1f}" for value in values]
