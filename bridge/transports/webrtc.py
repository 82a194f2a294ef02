"""WebRTC: the only module that touches aiortc's insides (pinned; tests/bridge/test_webrtc.py).

Three things that stock aiortc does not do: packets encoded once are passed through to every
viewer, a viewer's request for a key frame reaches our encoder, and the playout-delay header
extension tells Chromium to show each frame at once (about 30 ms less than without it).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.codecs import HEADER_EXTENSIONS
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtp import HeaderExtensions, HeaderExtensionsMap
from aiortc.sdp import SessionDescription

from worldbridge.bridge.media.encoder import VideoCodec, VideoPacket
from worldbridge.bridge.protocol import BridgeError, Frame, FrameHeader, encode
from worldbridge.clock import now_ms

PLAYOUT_DELAY_URI: Final = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
PLAYOUT_DELAY_ID: Final = 12  # free in aiortc 1.16; ids 1 to 14 fit the one-byte header
PLAYOUT_DELAY_NONE: Final = bytes(3)  # 12 bits of minimum, 12 bits of maximum, both zero

MAX_WAITING_PACKETS: Final = 8
MAX_BUFFERED: Final = 64 * 1024  # of headers that wait in the control channel
MAX_REASSEMBLY: Final = 1024  # SCTP chunks of half-received messages, about 1.2 MB
MAX_CANDIDATES: Final = 16
MAX_LOCAL_NAMES: Final = 2  # among them: each is a multicast query in the server's network
CHANNELS: Final = ("input", "control")


class _PlayoutDelayMap(HeaderExtensionsMap):
    """aiortc's header extensions, with "no playout delay" on every packet of a video sender."""

    def __init__(self) -> None:
        super().__init__()
        self._id: int | None = None

    def configure(self, parameters: RTCRtpParameters) -> None:
        super().configure(parameters)
        for extension in parameters.headerExtensions:
            if extension.uri == PLAYOUT_DELAY_URI:
                self._id = extension.id

    def set(self, values: HeaderExtensions) -> tuple[int, bytes]:
        profile, packed = super().set(values)
        if self._id is None:
            return profile, packed
        return _with_extension(packed, self._id, PLAYOUT_DELAY_NONE)


def _with_extension(packed: bytes, number: int, value: bytes) -> tuple[int, bytes]:
    """Append one element to RFC 8285 one-byte extensions, and pad to 32 bits again."""
    body = packed + bytes([number << 4 | len(value) - 1]) + value
    return 0xBEDE, body + bytes(-len(body) % 4)


def offer_playout_delay() -> None:
    """Let aiortc negotiate the extension; it reads a module-level list, so once is enough."""
    video = HEADER_EXTENSIONS["video"]
    if all(extension.uri != PLAYOUT_DELAY_URI for extension in video):
        video.append(RTCRtpHeaderExtensionParameters(id=PLAYOUT_DELAY_ID, uri=PLAYOUT_DELAY_URI))


def without_surplus(sdp: str) -> str:
    """Return an offer with its first candidates alone: each costs the server checks or queries."""
    kept, left, names = [], MAX_CANDIDATES, MAX_LOCAL_NAMES
    for line in sdp.splitlines(keepends=True):
        if line.startswith("a=candidate:"):
            fields = line.split()
            local = len(fields) > 4 and fields[4].lower().endswith(".local")
            if left == 0 or (local and names == 0):
                continue
            left, names = left - 1, names - local
        kept.append(line)
    return "".join(kept)


def choose_codec(sdp: str, allowed: Collection[str] = ("h264", "vp8")) -> VideoCodec:
    """Return the codec to answer an offer with: H.264 if the client has it, otherwise VP8.

    Raises:
        BridgeError: the offer is not one recvonly video and at most one application section.
    """
    try:
        media = SessionDescription.parse(sdp).media
    except Exception as error:  # aiortc's parser raises whatever it stumbles over
        raise _bad_offer("an SDP offer", f"{type(error).__name__}: {error}"[:200]) from error
    kinds = sorted(section.kind for section in media)
    if kinds not in (["video"], ["application", "video"]):
        raise _bad_offer("one video and at most one application section", ", ".join(kinds)[:200])
    video = next(section for section in media if section.kind == "video")
    if video.direction != "recvonly":
        raise _bad_offer("video that is recvonly", str(video.direction))
    names = {codec.mimeType.lower() for codec in video.rtp.codecs}
    if "h264" in allowed and "video/h264" in names and _packetized(video.rtp.codecs):
        return "h264"
    if "vp8" in allowed and "video/vp8" in names:
        return "vp8"
    raise _bad_offer("H264 or VP8 among the codecs, as in hello", ", ".join(sorted(names))[:200])


def _packetized(codecs: list[Any]) -> bool:
    """Return whether aiortc can answer an H.264 of the offer (baseline, mode 1)."""
    return any(
        codec.mimeType.lower() == "video/h264"
        and str(codec.parameters.get("packetization-mode")) == "1"
        and str(codec.parameters.get("profile-level-id", "")).lower()[:2] == "42"
        for codec in codecs
    )


def _bad_offer(expected: str, got: str) -> BridgeError:
    return BridgeError(
        "bad_message",
        "the WebRTC offer cannot be answered",
        expected,
        got,
        "Offer one recvonly video transceiver and two data channels, or use `websocket`.",
    )


@dataclass(frozen=True, slots=True)
class _Outgoing:
    packet: VideoPacket
    header: FrameHeader


class _PacketTrack(MediaStreamTrack):
    """Hands encoded packets to one sender. A packet lost on the way needs a new key frame."""

    kind = "video"

    def __init__(self, request_keyframe: Callable[[], None]) -> None:
        super().__init__()
        self._request_keyframe = request_keyframe
        self._packets: deque[_Outgoing] = deque()
        self._arrived = asyncio.Event()
        self._needs_key = True
        self._sending: _Outgoing | None = None
        self.on_sent: Callable[[FrameHeader], None] = lambda header: None
        self.dropped = 0

    def push(self, packet: VideoPacket, header: FrameHeader) -> None:
        if len(self._packets) >= MAX_WAITING_PACKETS:
            self.dropped += len(self._packets)
            self._packets.clear()
            self._needs_key = True
        if self._needs_key and not packet.is_keyframe:
            self.dropped += 1
            self._request_keyframe()
            return
        self._needs_key = False
        self._packets.append(_Outgoing(packet, header))
        self._arrived.set()

    async def recv(self) -> VideoPacket:
        # the sender asks for the next packet once it has sent every part of the last one
        if self._sending is not None:
            self.on_sent(self._sending.header)
        while not self._packets:
            self._arrived.clear()
            await self._arrived.wait()
        self._sending = self._packets.popleft()
        return self._sending.packet


@dataclass(frozen=True, slots=True)
class RtcCallbacks:
    """What a connection reports to its owner, on the event loop."""

    message: Callable[[bytes], None]
    keyframe: Callable[[], None]
    connected: Callable[[], None]
    closed: Callable[[], None]
    sent: Callable[[FrameHeader], None] = lambda header: None


class RtcConnection:
    """One viewer: a video track out, the data channels `input` and `control`."""

    def __init__(self, codec: VideoCodec, callbacks: RtcCallbacks) -> None:
        offer_playout_delay()
        self.codec = codec
        self._callbacks = callbacks
        self._track = _PacketTrack(callbacks.keyframe)
        self._track.on_sent = self._sent
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        transceiver = self._pc.addTransceiver(self._track, direction="sendonly")
        transceiver.setCodecPreferences(
            [
                capability
                for capability in RTCRtpSender.getCapabilities("video").codecs
                if capability.mimeType.lower() in (f"video/{codec}", "video/rtx")
            ]
        )
        self._sender = transceiver.sender
        patch_sender(self._sender, callbacks.keyframe)
        self._channels: dict[str, RTCDataChannel] = {}
        self._pc.on("datachannel", self._adopt)
        self._pc.on("connectionstatechange", self._changed)
        self._ended = False

    async def answer(self, sdp: str) -> str:
        """Return the answer to an offer. Raises BridgeError if aiortc cannot answer it."""
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            await self._pc.setLocalDescription(await self._pc.createAnswer())
        except Exception as error:  # whatever aiortc makes of a hostile offer
            raise _bad_offer("an SDP offer", f"{type(error).__name__}: {error}"[:200]) from error
        return str(self._pc.localDescription.sdp)

    def push(self, packet: VideoPacket, header: FrameHeader) -> None:
        self._track.push(packet, header)

    def overgrown(self) -> bool:
        """Return whether the peer makes us hold more half-received data than any client needs."""
        sctp = self._pc.sctp
        if sctp is None:
            return False
        chunks = sum(len(stream.reassembly) for stream in sctp._inbound_streams.values())
        return chunks > MAX_REASSEMBLY

    async def close(self) -> None:
        self._ended = True
        await self._pc.close()

    def _sent(self, header: FrameHeader) -> None:
        dropped = header.dropped + self._track.dropped
        rtp = last_rtp_timestamp(self._sender)
        header = header.replace(t_sent=now_ms(), rtp=rtp, dropped=dropped)
        self._callbacks.sent(header)
        channel = self._channels.get("control")
        if channel is None or channel.readyState != "open":
            return
        if channel.bufferedAmount <= MAX_BUFFERED:
            channel.send(encode(Frame(header)))

    def _adopt(self, channel: RTCDataChannel) -> None:
        if channel.label not in CHANNELS or channel.label in self._channels:
            channel.close()
            return
        self._channels[channel.label] = channel
        channel.on("message", self._receive)

    def _receive(self, data: object) -> None:
        if self._ended:
            return
        # text is no message of ours; as bytes it is refused like any other garbage
        self._callbacks.message(data if isinstance(data, bytes) else str(data).encode()[:64])

    def _changed(self) -> None:
        if self._ended:
            return
        state = self._pc.connectionState
        if state == "connected":
            self._callbacks.connected()
        elif state in ("failed", "closed"):
            self._ended = True
            self._callbacks.closed()


def patch_sender(sender: RTCRtpSender, keyframe: Callable[[], None]) -> None:
    """Give one sender our header extensions and our answer to PLI and FIR."""
    private: Any = sender
    private._RTCRtpSender__rtp_header_extensions_map = _PlayoutDelayMap()
    private._send_keyframe = keyframe


def last_rtp_timestamp(sender: RTCRtpSender) -> int:
    """Return the RTP time stamp of the frame that was sent last, as the viewer sees it."""
    private: Any = sender
    return int(private._RTCRtpSender__rtp_timestamp)
