"""Send one session's frames to all its viewers: the newest only, encoded once per codec.

The players' networks decide the bit rate of a codec's full layer. Spectators whose networks carry
clearly less share a second encoder, the reduced layer: they never slow a player.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from worldbridge.bridge.media import LatestValue
from worldbridge.bridge.media.encoder import (
    JpegEncoder,
    VideoCodec,
    VideoEncoder,
    VideoPacket,
    raw_pixels,
)
from worldbridge.bridge.media.rate import BitrateLimits, RateController, frame_divisor
from worldbridge.bridge.protocol import Codec, FrameHeader, RawFrame, WorldSpec, i420_bytes
from worldbridge.clock import now_ms

log = logging.getLogger(__name__)

MOVE_DOWN: Final = 0.8  # of the full layer's bit rate: a spectator with less gets the reduced one
MOVE_UP: Final = 1.1

Depth: TypeAlias = tuple[bytes, float]  # uint16 [height, width], and metres per step
Layer: TypeAlias = tuple[VideoCodec, Literal["full", "reduced"]]


class Viewer(Protocol):
    """A client that receives a session's frames."""

    @property
    def wants(self) -> Codec | None:
        """The codec of its frames, None while none can be sent."""
        ...

    @property
    def plays(self) -> bool: ...

    @property
    def rate(self) -> RateController | None:
        """What its network carries, None if that is not known."""
        ...

    def congested(self, now_ms: float) -> bool:
        """Return whether it would get a frame late that is made now."""
        ...

    @property
    def wants_depth(self) -> bool: ...

    def show_image(
        self, header: FrameHeader, image: bytes, codec: Codec, depth: Depth | None
    ) -> None: ...
    def show_packet(self, header: FrameHeader, packet: VideoPacket, layer: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Quality:
    jpeg_quality: int
    bitrate: BitrateLimits


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to make of one frame: the bit rate of each layer, and the codecs of single images."""

    layers: dict[Layer, int]
    kept: frozenset[Layer]  # have viewers, but skip this frame
    images: frozenset[Codec]


@dataclass(frozen=True, slots=True)
class _Encoded:
    header: FrameHeader
    images: dict[Codec, bytes]
    packets: dict[Layer, VideoPacket]
    depth: Depth | None


class Broadcaster:
    """Encodes the newest frame. `taken` is called for every frame, encoded or not: its credit."""

    def __init__(
        self,
        spec: WorldSpec,
        quality: Quality,
        pool: ThreadPoolExecutor,
        taken: Callable[[RawFrame], None],
    ) -> None:
        self.viewers: set[Viewer] = set()
        self._spec = spec
        self._quality = quality
        self._pool = pool
        self._taken = taken
        self._latest: LatestValue[RawFrame] = LatestValue()
        self._jpeg = JpegEncoder(spec.width, spec.height, quality.jpeg_quality)
        self._video: dict[Layer, VideoEncoder] = {}
        self._reduced: set[Viewer] = set()  # who gets the reduced layer
        self._skipped: dict[Layer, int] = {}  # frames since the last one of a layer
        self._task = asyncio.create_task(self._run())

    @property
    def dropped(self) -> int:
        return self._latest.dropped

    @property
    def wants_depth(self) -> bool:
        return any(viewer.wants_depth for viewer in self.viewers)

    def offer(self, frame: RawFrame) -> None:
        replaced = self._latest.put(frame)
        if replaced is not None:
            self._taken(replaced)

    def request_keyframe(self, viewer: Viewer) -> None:
        """Let the layer that a viewer receives begin with a key frame."""
        codec = viewer.wants
        encoder = self._video.get(self._layer(codec, viewer)) if codec in _VIDEO else None
        if encoder is not None:
            encoder.request_keyframe()

    def _layer(self, codec: Codec | None, viewer: Viewer) -> Layer:
        assert codec == "h264" or codec == "vp8"
        return codec, "reduced" if viewer in self._reduced else "full"

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frame = await self._latest.get()
            self._taken(frame)
            plan = self._plan(now_ms())
            if not plan.images and not plan.layers:
                if not plan.kept:
                    self._video.clear()
                continue
            try:
                encoded = await loop.run_in_executor(self._pool, self._encode, frame, plan)
            except Exception:  # one frame that cannot be encoded must not end the session
                log.exception("frame %d of %s was not encoded", frame.header.frame, frame.session)
                self._video.clear()
                continue
            self._deliver(encoded)

    def _plan(self, now: float) -> _Plan:
        viewers = list(self.viewers)
        wants = {viewer: viewer.wants for viewer in viewers}
        self._reduced &= set(viewers)
        layers: dict[Layer, int] = {}
        kept: set[Layer] = set()
        for codec in _VIDEO:
            watching = [viewer for viewer in viewers if wants[viewer] == codec]
            players = [viewer for viewer in watching if viewer.plays]
            rates = [self._rate(viewer) for viewer in players or watching]
            full = min(rates) if players else max(rates, default=0)
            for viewer in watching:
                self._assign(viewer, full)
            for name in ("full", "reduced"):
                layer: Layer = (codec, name)
                members = [v for v in watching if self._layer(codec, v) == layer]
                if not members:
                    continue
                kept.add(layer)
                rate = full if name == "full" else min(map(self._rate, members))
                if self._takes(layer, rate, members, now):
                    layers[layer] = rate
        images = frozenset(codec for codec in wants.values() if codec and codec not in _VIDEO)
        return _Plan(layers, frozenset(kept), images)

    def _rate(self, viewer: Viewer) -> int:
        ceiling = self._quality.bitrate.ceiling
        return ceiling if viewer.rate is None else viewer.rate.bitrate

    def _assign(self, viewer: Viewer, full: int) -> None:
        """Give a spectator the layer that its network carries."""
        if viewer.plays or self._rate(viewer) > MOVE_UP * full:
            self._reduced.discard(viewer)
        elif self._rate(viewer) < MOVE_DOWN * full:
            self._reduced.add(viewer)
        elif full >= self._quality.bitrate.ceiling / MOVE_UP:
            if self._rate(viewer) >= full:  # there is no more to prove
                self._reduced.discard(viewer)

    def _takes(self, layer: Layer, rate: int, members: Sequence[Viewer], now: float) -> bool:
        """Return whether the layer takes this frame: what its viewers' networks hold is less."""
        players = [viewer for viewer in members if viewer.plays]
        congested = [viewer.congested(now) for viewer in players or members]
        spec, skipped = self._spec, self._skipped.get(layer, 0) + 1
        divisor = frame_divisor(rate, spec.width * spec.height, spec.fps)
        takes = skipped >= divisor and not (any(congested) if players else all(congested))
        self._skipped[layer] = 0 if takes else skipped
        rates = [viewer.rate for viewer in players or members]
        if takes and layer in self._video and all(r is not None and r.silent(now) for r in rates):
            # what probes a network that is down can be shown as soon as it is up again
            self._video[layer].request_keyframe()
        return takes

    def _encode(self, frame: RawFrame, plan: _Plan) -> _Encoded:
        """Encode a frame in the encoding thread."""
        frame, depth = self._split(frame)
        packets = {
            layer: self._encode_video(layer, rate, frame) for layer, rate in plan.layers.items()
        }
        for unwanted in [layer for layer in self._video if layer not in plan.kept]:
            del self._video[unwanted]  # the next viewer begins with a key frame anyway
        images = {codec: self._encode_image(codec, frame) for codec in plan.images}
        dropped = frame.header.dropped + self.dropped
        header = frame.header.replace(t_encoded=now_ms(), dropped=dropped)
        return _Encoded(header, images, packets, depth)

    def _split(self, frame: RawFrame) -> tuple[RawFrame, Depth | None]:
        """Return the frame without its depth, and that."""
        if frame.depth_scale is None:
            return frame, None
        size = i420_bytes(self._spec.width, self._spec.height)
        depth = bytes(frame.payload[size:]), frame.depth_scale
        return frame.replace(payload=frame.payload[:size]), depth

    def _encode_image(self, codec: Codec, frame: RawFrame) -> bytes:
        if codec == "jpeg":
            return self._jpeg.encode(frame.payload)
        return raw_pixels(frame.payload, self._spec.width, self._spec.height, codec)

    def _encode_video(self, layer: Layer, rate: int, frame: RawFrame) -> VideoPacket:
        encoder = self._video.get(layer)
        if encoder is None:
            spec = self._spec
            encoder = VideoEncoder(layer[0], spec.width, spec.height, spec.fps, rate)
            self._video[layer] = encoder
        now = now_ms()
        encoder.set_bitrate(rate, now)
        return encoder.encode(frame.payload, round(frame.header.t_frame * 90), now)

    def _deliver(self, encoded: _Encoded) -> None:
        for viewer in list(self.viewers):
            wants = viewer.wants
            if wants in encoded.images:
                viewer.show_image(encoded.header, encoded.images[wants], wants, encoded.depth)
            elif wants in _VIDEO:
                layer = self._layer(wants, viewer)
                if layer in encoded.packets:
                    viewer.show_packet(encoded.header, encoded.packets[layer], layer[1])


_VIDEO: tuple[VideoCodec, ...] = ("h264", "vp8")
