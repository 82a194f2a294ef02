"""WebRTC connections that we offer: what clients expect that wait for the streamer's offer."""

from __future__ import annotations

from collections.abc import Callable

from aiortc import RTCRtpSender, RTCSessionDescription
from aiortc.sdp import SessionDescription

from worldbridge.bridge.protocol import BridgeError
from worldbridge.bridge.transports.aiortc_internals import bind_ice
from worldbridge.bridge.transports.webrtc import RtcCallbacks, RtcConnection, RtcSettings

__all__ = ["OfferingConnection"]

MAX_BUFFERED = 64 * 1024


class OfferingConnection(RtcConnection):
    """One viewer, with one ordered data channel in both directions beside the video."""

    def __init__(
        self,
        label: str,
        callbacks: RtcCallbacks,
        settings: RtcSettings,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__("h264", callbacks, settings)
        for transceiver in self._pc.getTransceivers():
            capabilities = RTCRtpSender.getCapabilities("video").codecs
            names = ("video/h264", "video/vp8", "video/rtx")  # the best first
            known = [c for c in capabilities if c.mimeType.lower() in names]
            transceiver.setCodecPreferences(
                sorted(known, key=lambda c: names.index(c.mimeType.lower()))
            )
        self._channel = self._pc.createDataChannel(label)
        self._channel.on("message", self._receive)
        self._channel.on("open", opened)

    async def offer(self) -> str:
        """Return our offer, with every candidate of the server."""
        bind_ice(self._pc, self._binding)
        await self._pc.setLocalDescription(await self._pc.createOffer())
        return str(self._pc.localDescription.sdp)

    async def accept(self, sdp: str) -> None:
        """Take the answer to our offer. Raises BridgeError."""
        try:
            video = next(m for m in SessionDescription.parse(sdp).media if m.kind == "video")
            names = [codec.name.lower() for codec in video.rtp.codecs]
            codec = next((name for name in names if name in ("h264", "vp8")), None)
            if codec is None:
                raise ValueError(", ".join(names) or "no codec")
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        except Exception as error:  # whatever aiortc makes of a hostile answer
            raise BridgeError(
                "bad_message",
                "the WebRTC answer cannot be taken",
                "an answer with H264 or VP8 for the video",
                f"{type(error).__name__}: {error}"[:200],
                "Answer the newest offer, once, with one of its codecs.",
            ) from error
        self.codec = "h264" if codec == "h264" else "vp8"

    def send(self, data: bytes) -> None:
        """Send through the data channel, unless it is closed or its client reads nothing."""
        channel = self._channel
        if channel.readyState == "open" and channel.bufferedAmount <= MAX_BUFFERED:
            channel.send(data)
