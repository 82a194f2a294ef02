"""Send one session's frames to all its viewers: the newest only, encoded once per codec."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from worldbridge.bridge.media import LatestValue
from worldbridge.bridge.media.encoder import (
    JpegEncoder,
    VideoCodec,
    VideoEncoder,
    VideoPacket,
    raw_pixels,
)
from worldbridge.bridge.protocol import Codec, FrameHeader, RawFrame, WorldSpec
from worldbridge.clock import now_ms

log = logging.getLogger(__name__)


class Viewer(Protocol):
    """A client that receives a session's frames."""

    @property
    def wants(self) -> Codec | None:
        """The codec of its frames, None while none can be sent."""
        ...

    def show_image(self, header: FrameHeader, image: bytes, codec: Codec) -> None: ...
    def show_packet(self, header: FrameHeader, packet: VideoPacket) -> None: ...


@dataclass(frozen=True, slots=True)
class Quality:
    jpeg_quality: int
    bitrate: int


@dataclass(frozen=True, slots=True)
class _Encoded:
    header: FrameHeader
    images: dict[Codec, bytes]
    packets: dict[VideoCodec, VideoPacket]


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
        self._video: dict[VideoCodec, VideoEncoder] = {}
        self._task = asyncio.create_task(self._run())

    @property
    def dropped(self) -> int:
        return self._latest.dropped

    def offer(self, frame: RawFrame) -> None:
        replaced = self._latest.put(frame)
        if replaced is not None:
            self._taken(replaced)

    def request_keyframe(self, codec: VideoCodec) -> None:
        encoder = self._video.get(codec)
        if encoder is not None:
            encoder.request_keyframe()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frame = await self._latest.get()
            self._taken(frame)
            wanted = {viewer.wants for viewer in self.viewers}
            wanted.discard(None)
            if not wanted:
                self._video.clear()
                continue
            try:
                encoded = await loop.run_in_executor(self._pool, self._encode, frame, wanted)
            except Exception:  # one frame that cannot be encoded must not end the session
                log.exception("frame %d of %s was not encoded", frame.header.frame, frame.session)
                self._video.clear()
                continue
            self._deliver(encoded)

    def _encode(self, frame: RawFrame, wanted: Collection[Codec | None]) -> _Encoded:
        """Encode a frame in the encoding thread."""
        packets = {codec: self._encode_video(codec, frame) for codec in _VIDEO if codec in wanted}
        for unwanted in [codec for codec in self._video if codec not in wanted]:
            del self._video[unwanted]  # the next viewer begins with a key frame anyway
        images: dict[Codec, bytes] = {
            codec: self._encode_image(codec, frame)
            for codec in wanted
            if codec is not None and codec not in packets
        }
        dropped = frame.header.dropped + self.dropped
        header = frame.header.replace(t_encoded=now_ms(), dropped=dropped)
        return _Encoded(header, images, packets)

    def _encode_image(self, codec: Codec, frame: RawFrame) -> bytes:
        if codec == "jpeg":
            return self._jpeg.encode(frame.payload)
        return raw_pixels(frame.payload, self._spec.width, self._spec.height, codec)

    def _encode_video(self, codec: VideoCodec, frame: RawFrame) -> VideoPacket:
        encoder = self._video.get(codec)
        if encoder is None:
            spec = self._spec
            encoder = VideoEncoder(codec, spec.width, spec.height, spec.fps, self._quality.bitrate)
            self._video[codec] = encoder
        return encoder.encode(frame.payload, round(frame.header.t_frame * 90), now_ms())

    def _deliver(self, encoded: _Encoded) -> None:
        for viewer in list(self.viewers):
            wants = viewer.wants
            if wants in encoded.images:
                viewer.show_image(encoded.header, encoded.images[wants], wants)
            elif wants in encoded.packets:
                viewer.show_packet(encoded.header, encoded.packets[wants])


_VIDEO: tuple[VideoCodec, ...] = ("h264", "vp8")
