"""Measure input-to-photon latency with a scripted player that has no screen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from worldbridge.engine_plugins.python.client import Client, connect, now_ms
from worldbridge.engine_plugins.python.prompt_frames import PromptFrames
from worldbridge.engine_plugins.python.timing import SPANS, InputToPhoton, percentiles

if TYPE_CHECKING:
    from worldbridge.engine_plugins.python.webrtc import MediaRelay

TRANSPORTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(  # arguments of `connect`
    {
        "websocket_jpeg": {"codec": "jpeg"},
        "websocket_h264": {"codec": "h264"},
        "webrtc": {"transport": "webrtc"},
        "zmq_raw": {"codec": "i420"},
        "zmq_h264": {"codec": "h264"},
    }
)
STATES_PER_SECOND: Final = 60
FIRST_FRAME_S: Final = 120.0
_KEYS: Final = ("KeyW", "KeyS", "KeyA", "KeyD", "ArrowLeft", "ArrowRight")

Axes = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ProfileResult:
    """Milliseconds by percentile (p50, p95, p99).

    `samples` are the spans of every control, `sampled_ms` when it was read (client clock).
    """

    frames_per_second: float
    input_to_photon_ms: dict[str, float]
    spans_ms: dict[str, dict[str, float]]
    dropped_frames: int
    world: str
    seconds: float
    transport: str = "websocket_jpeg"
    samples: list[dict[str, float]] = field(default_factory=list, repr=False)
    sampled_ms: list[float] = field(default_factory=list, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the samples, for `json.dumps`."""
        left_out = ("samples", "sampled_ms")
        return {name: getattr(self, name) for name in self.__slots__ if name not in left_out}


def scripted_track(seed: int = 0) -> Iterator[tuple[Axes, int, tuple[str, ...]]]:
    """Yield (axes, buttons, keys), changing at random times that are the same on every run."""
    rng = random.Random(seed)
    while True:
        axes = (0.0, 0.0, rng.uniform(-1, 1), rng.uniform(-1, 1))
        buttons = rng.getrandbits(17)
        keys = tuple(rng.sample(_KEYS, rng.randrange(3)))
        for _ in range(rng.randint(3, 40)):
            yield axes, buttons, keys


async def profile(
    url: str,
    seconds: float,
    *,
    theme: str | None = None,
    token: str | None = None,
    prompt_frames: PromptFrames | None = None,
    transport: str | None = None,
    media_relay: MediaRelay | None = None,
) -> ProfileResult:
    """Play for `seconds` from the first frame on.

    `transport` is one of `TRANSPORTS`; those by ZeroMQ need a tcp:// address, the others an
    http:// one. Without it `websocket_jpeg` or `zmq_raw` is taken, as the address has it.
    `media_relay`: as in `connect`.

    Raises:
        TimeoutError: no frame came within two minutes.
        RuntimeError: frames came, but none of them answered an input.
        BridgeError: the server refused us.
    """
    transport = transport or ("zmq_raw" if url.startswith("tcp:") else "websocket_jpeg")
    playing = connect(
        url,
        theme=theme,
        token=token,
        name="profile",
        prompt_frames=prompt_frames,
        media_relay=media_relay,
        **TRANSPORTS[transport],
    )
    async with playing as client:
        async with asyncio.timeout(FIRST_FRAME_S):
            first = await client.frame()
        meter = InputToPhoton()
        player = asyncio.create_task(_play(client, meter))
        began, skipped = now_ms(), client.frames_skipped
        frames, last = 0, first
        try:
            async with asyncio.timeout(seconds):
                while True:
                    last = await client.frame()
                    last.rgb()  # what a screen would need: counted as the span "show"
                    arrival = client.report(last, now_ms())
                    frames += 1
                    if arrival is not None:
                        meter.shown(arrival)
        except TimeoutError:
            pass
        finally:
            player.cancel()
            await asyncio.gather(player, return_exceptions=True)
        elapsed = (now_ms() - began) / 1000
        dropped = last.header.dropped - first.header.dropped + client.frames_skipped - skipped
        assert client.welcome is not None
        world = client.welcome.world.name
        return _summary(meter, frames / elapsed, dropped, world, elapsed, transport)


async def _play(client: Client, meter: InputToPhoton) -> None:
    due = now_ms()
    for axes, buttons, keys in scripted_track():
        state = client.steer(axes=axes, buttons=buttons, keys=keys)
        meter.sent(state.sequence, state.time)
        due = max(due + 1000 / STATES_PER_SECOND, now_ms())
        await asyncio.sleep((due - now_ms()) / 1000)


def _summary(
    meter: InputToPhoton, rate: float, dropped: int, world: str, seconds: float, transport: str
) -> ProfileResult:
    samples = meter.samples
    if not samples:
        raise RuntimeError(
            "expected frames that answer inputs, got none; look at the server's /health"
        )
    return ProfileResult(
        frames_per_second=rate,
        input_to_photon_ms=percentiles([sum(sample.values()) for sample in samples]),
        spans_ms={span: percentiles([sample[span] for sample in samples]) for span in SPANS},
        dropped_frames=dropped,
        world=world,
        seconds=seconds,
        transport=transport,
        samples=samples,
        sampled_ms=meter.sampled_ms,
    )
