"""The WebRTC half of the Python client: a video track in, controls out. Alone imports aiortc."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Final

from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import VideoFrame

from worldbridge.bridge.protocol import FrameHeader

__all__ = ["Picture", "VideoLink"]

Picture = VideoFrame
_MAX_HEADERS: Final = 64
_MAX_BUFFERED: Final = 16 * 1024  # more means the network is behind, and old input is worthless


class VideoLink:
    """Joins pictures and headers on the RTP timestamp.

    aiortc hands a picture over when the first packet of the next one arrives, so what is measured
    here is up to one frame's time later than in a browser.
    """

    def __init__(
        self,
        message: Callable[[bytes], None],
        shown: Callable[[FrameHeader, float, Picture], None],
    ) -> None:
        self._shown = shown
        self._headers: dict[int, FrameHeader] = {}
        self._pictures: dict[int, tuple[float, Picture]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pc = RTCPeerConnection()
        self._pc.addTransceiver("video", direction="recvonly")
        self._input: RTCDataChannel = self._pc.createDataChannel(
            "input", ordered=False, maxRetransmits=0
        )
        control = self._pc.createDataChannel("control")
        control.on("message", message)
        self._pc.on("track", self._take)

    async def offer(self) -> str:
        await self._pc.setLocalDescription(await self._pc.createOffer())
        return self._pc.localDescription.sdp

    def answer(self, sdp: str) -> None:
        self._spawn(self._pc.setRemoteDescription(RTCSessionDescription(sdp, "answer")))

    def send_input(self, data: bytes) -> bool:
        """False when the channel is not open: send it another way."""
        if self._input.readyState != "open":
            return False
        if self._input.bufferedAmount < _MAX_BUFFERED:
            self._input.send(data)
        return True

    def announced(self, header: FrameHeader) -> None:
        if header.rtp is None:
            return
        self._headers[header.rtp] = header
        self._match(header.rtp)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._pc.close()

    def _take(self, track: MediaStreamTrack) -> None:
        self._spawn(self._pull(track))

    async def _pull(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                picture = await track.recv()
                if isinstance(picture, VideoFrame) and picture.pts is not None:
                    rtp = picture.pts & 0xFFFFFFFF
                    self._pictures[rtp] = (time.monotonic() * 1000.0, picture)
                    self._match(rtp)

    def _match(self, rtp: int) -> None:
        if rtp in self._headers and rtp in self._pictures:
            received, picture = self._pictures.pop(rtp)
            self._shown(self._headers.pop(rtp), received, picture)
        for waiting in (self._headers, self._pictures):
            while len(waiting) > _MAX_HEADERS:
                del waiting[next(iter(waiting))]

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
