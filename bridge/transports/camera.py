"""Receive one image of a camera by WebRTC."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import simplejpeg
from aiortc import MediaStreamTrack, RTCConfiguration, RTCIceServer, RTCPeerConnection
from av import VideoFrame
from numpy.typing import NDArray

from worldbridge.bridge.protocol import BridgeError
from worldbridge.bridge.transports.aiortc_internals import answer_offer
from worldbridge.bridge.transports.webrtc import RtcSettings

__all__ = ["CameraConnection"]

log = logging.getLogger(__name__)

SETTLE_S: Final = 0.7  # the first frames of an encoder are coarse: take the newest one after this
IMAGE_S: Final = 30.0  # from the offer to the image
MAX_PIXELS: Final = 4096 * 2304
JPEG_QUALITY: Final = 95


class CameraConnection:
    """One camera's video, decoded until `received` was given a JPEG file of it.

    `refused` is called instead if the image cannot be used. Both are called on the event loop.
    """

    def __init__(
        self,
        settings: RtcSettings,
        received: Callable[[bytes], None],
        refused: Callable[[BridgeError], None],
    ) -> None:
        servers = [
            RTCIceServer(list(server.urls), server.username, server.credential)
            for server in settings.ice_servers()
        ]
        self._binding = settings.binding
        self._received = received
        self._refused = refused
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._pc.on("track", self._adopt)
        self._work: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return bool(self._pc.connectionState == "connected")

    async def answer(self, sdp: str) -> str:
        """Return the answer to an offer. Raises BridgeError if it cannot be answered."""
        try:
            answer = await answer_offer(self._pc, sdp, self._binding)
        except Exception as error:  # whatever aiortc makes of a hostile offer
            raise BridgeError(
                "bad_message",
                "the WebRTC offer cannot be answered",
                "an SDP offer with video that is sent",
                f"{type(error).__name__}: {error}"[:200],
                "Offer one sendonly video section.",
            ) from error
        return answer

    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
        await self._pc.close()

    def _adopt(self, track: MediaStreamTrack) -> None:
        if track.kind == "video" and self._work is None:
            self._work = asyncio.create_task(self._receive(track))

    async def _receive(self, track: MediaStreamTrack) -> None:
        try:
            async with asyncio.timeout(IMAGE_S):
                image = await self._image(track)
            # nothing more is decoded; the connection stays as long as the camera wants
            for transceiver in self._pc.getTransceivers():
                await transceiver.receiver.stop()
            self._received(image)
        except BridgeError as error:
            self._refused(error)
        except Exception as error:  # silence, the end of the track, whatever a decoder meets
            log.info("no image came of a camera: %s", type(error).__name__)
            expected, remedy = (
                f"an image within {IMAGE_S:g} s",
                "Send H264 or VP8, then POST again.",
            )
            text = "no image came of the camera"
            self._refused(BridgeError("bad_prompt_frame", text, expected, "none", remedy))

    async def _image(self, track: MediaStreamTrack) -> bytes:
        loop = asyncio.get_running_loop()
        until = None
        while True:
            frame: Any = await track.recv()
            assert isinstance(frame, VideoFrame)
            if frame.width * frame.height > MAX_PIXELS:
                raise BridgeError(
                    "bad_prompt_frame",
                    "the camera's image is too large",
                    f"at most {MAX_PIXELS} pixels",
                    f"{frame.width}x{frame.height}",
                    "Send 1280x720.",
                )
            until = until or loop.time() + SETTLE_S
            if loop.time() >= until:
                return await asyncio.to_thread(_as_jpeg, frame)


def _as_jpeg(frame: VideoFrame) -> bytes:
    pixels: NDArray[np.uint8] = np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
    data: bytes = simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorsubsampling="444")
    return data
