"""The usual way to stream from a model in Python, as the baseline: poll, queue, stock encoder.

A producer thread puts frames into a FIFO of eight; a track looks into it every 10 ms, waits for
its turn at the frame rate and hands the frame to aiortc's own H.264 encoder, through a MediaRelay
when there are several viewers. It serves one JSON line per request over TCP: {"sdp": offer} is
answered with {"sdp": answer}, and {"origin": true} with what to subtract from RTP timestamps to
get the time at which a frame was handed over, in 1/90 ms.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.contrib.media import MediaRelay
from av import VideoFrame
from numpy.typing import NDArray

from worldbridge.benchmarks.bridge.source import forth_and_back, read_walk
from worldbridge.bridge.transports.aiortc_internals import RTP_PER_MS, last_rtp_timestamp
from worldbridge.clock import now_ms

__all__ = ["serve"]

FIFO: Final = 8
POLL_S: Final = 0.01

_Handed = tuple[float, NDArray[np.uint8]]


def _produce(frames: queue.Queue[_Handed], walk: NDArray[np.uint8], fps: float) -> None:
    due = time.monotonic()
    for number in forth_and_back(len(walk)):
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / fps
        try:
            frames.put_nowait((now_ms(), walk[number]))
        except queue.Full:
            pass  # the newest is lost


class _PollingTrack(MediaStreamTrack):
    kind = "video"

    def __init__(self, frames: queue.Queue[_Handed], height: int, width: int, fps: float) -> None:
        super().__init__()
        self._frames = frames
        self._rows, self._width = height * 3 // 2, width
        self._period = 1 / fps
        self._due = 0.0

    async def recv(self) -> VideoFrame:
        while True:
            try:
                handed, data = self._frames.get_nowait()
                break
            except queue.Empty:
                await asyncio.sleep(POLL_S)
        self._due = max(self._due + self._period, time.monotonic() - self._period)
        await asyncio.sleep(max(0.0, self._due - time.monotonic()))
        planes = data.reshape(self._rows, self._width)
        frame = VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.opaque = handed
        return frame


class _Noting(MediaStreamTrack):
    """Passes frames on and learns by how much RTP timestamps differ from their times."""

    kind = "video"

    def __init__(self, track: MediaStreamTrack) -> None:
        super().__init__()
        self._track = track
        self._last: int | None = None
        self.sender: RTCRtpSender | None = None
        self.origin: int | None = None

    async def recv(self) -> Any:
        if self._last is not None and self.sender is not None:
            self.origin = (last_rtp_timestamp(self.sender) - self._last) % 2**32
        shared: Any = await self._track.recv()
        # the stock encoder changes the time base of its frame, which the relay gives to all viewers
        frame = VideoFrame.from_ndarray(shared.to_ndarray(), format="yuv420p")
        frame.pts, frame.time_base = round(shared.opaque * RTP_PER_MS), Fraction(1, 90_000)
        self._last = frame.pts
        return frame


async def _answer(track: _Noting, sdp: str) -> tuple[RTCPeerConnection, str]:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    transceiver = peer.addTransceiver(track, direction="sendonly")
    track.sender = transceiver.sender
    h264 = [
        codec
        for codec in RTCRtpSender.getCapabilities("video").codecs
        if codec.mimeType.lower() in ("video/h264", "video/rtx")
    ]
    transceiver.setCodecPreferences(h264)
    await peer.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
    await peer.setLocalDescription(await peer.createAnswer())
    return peer, peer.localDescription.sdp


async def serve(walk: str, width: int, height: int, fps: float) -> None:
    """Print {"port": N} and serve viewers on 127.0.0.1 until cancelled."""
    frames: queue.Queue[_Handed] = queue.Queue(FIFO)
    source = _PollingTrack(frames, height, width, fps)
    relay = MediaRelay()
    recorded = read_walk(Path(walk), width, height)
    threading.Thread(target=_produce, args=(frames, recorded, fps), daemon=True).start()

    async def viewer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        track = _Noting(relay.subscribe(source))
        peer = None
        while line := await reader.readline():
            request = json.loads(line)
            if "sdp" in request:
                peer, sdp = await _answer(track, request["sdp"])
                writer.write(json.dumps({"sdp": sdp}).encode() + b"\n")
            else:
                writer.write(json.dumps({"origin": track.origin}).encode() + b"\n")
            await writer.drain()
        writer.close()
        if peer is not None:
            await peer.close()

    server = await asyncio.start_server(viewer, "127.0.0.1", 0, limit=2**20)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(**json.loads(sys.argv[1])))
