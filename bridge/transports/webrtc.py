"""WebRTC: one viewer's connection, and which offers are answered.

Packets encoded once are passed through to every viewer. What that takes of aiortc's insides is in
`aiortc_internals`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
)
from aiortc.sdp import SessionDescription

from worldbridge.bridge.media import KeyframeGate
from worldbridge.bridge.media.encoder import VideoCodec, VideoPacket
from worldbridge.bridge.media.rate import BitrateLimits, RateController
from worldbridge.bridge.protocol import BridgeError, Frame, FrameHeader, IceServer, encode
from worldbridge.bridge.transports.aiortc_internals import (
    IceBinding,
    SenderExtensions,
    SenderHooks,
    answer_offer,
    configure_aiortc,
    last_rtp_timestamp,
    patch_sender,
    waiting_chunks,
)
from worldbridge.clock import now_ms

MAX_WAITING_PACKETS: Final = 8
MAX_BUFFERED: Final = 64 * 1024  # of headers that wait in the control channel
SPECTATOR_HEADER_MS: Final = 100.0  # a header costs as much as a frame's packets
HEADER_BITS: Final = 3_800  # of a header and what carries it
MIN_HEADER_PAUSE_MS: Final = 20.0  # less is for every frame
HEADER_SHARE: Final = 0.125  # of a player's bit rate that headers may take
MAX_REASSEMBLY: Final = 1024  # SCTP chunks of half-received messages, about 1.2 MB
MAX_CANDIDATES: Final = 16
MAX_LOCAL_NAMES: Final = 2  # among them: each is a multicast query in the server's network
MAX_RELAYS: Final = 2
CONNECT_S: Final = 20.0  # from the answer to a connection
CHANNELS: Final = ("input", "control")


def filter_offer(sdp: str, client: str | None = None, relays: bool = False) -> str:
    """Return an offer with those candidates alone that we may send to.

    Each candidate makes the server send packets to an address of the client's choice. So only UDP
    addresses count that are the client's own, as its TCP connection shows it, or in the same
    private network; names of the local network for clients in it; and relays only if there are
    some. The others lose nothing: their own packets show where they are.

    Args:
        client: the address that the client connected from; None: not known.
        relays: whether clients are given TURN servers.
    """
    kept, left = [], {"host": MAX_CANDIDATES, "name": MAX_LOCAL_NAMES, "relay": MAX_RELAYS}
    for line in sdp.splitlines(keepends=True):
        if line.startswith("a=candidate:"):
            kind = _candidate_kind(line.split(), client, relays)
            if kind is None or left[kind] == 0:
                continue
            left[kind] -= 1
        elif line.startswith("a=end-of-candidates"):
            continue  # those that we left out may still be heard from
        kept.append(line)
    return "".join(kept)


def _candidate_kind(fields: list[str], client: str | None, relays: bool) -> str | None:
    """Return `host`, `name` or `relay` for a candidate that may be used, otherwise None."""
    if len(fields) < 8 or fields[2].lower() != "udp" or client is None:
        return None
    try:
        own = ipaddress.ip_address(client.partition("%")[0].removeprefix("::ffff:"))
        if fields[4].lower().endswith(".local"):
            return "name" if own.is_private and not own.is_loopback else None
        address = ipaddress.ip_address(fields[4])
    except ValueError:
        return None
    if fields[7] == "relay":
        return "relay" if relays and address.is_global else None
    return "host" if address == own or _same_network(address, own) else None


def _same_network(
    a: ipaddress.IPv4Address | ipaddress.IPv6Address,
    b: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> bool:
    """Return whether two private addresses share their first 24 bits (IPv6: 64 bits)."""
    if a.version != b.version or not (a.is_private and b.is_private):
        return False
    return int(a) >> (a.max_prefixlen // 2 if a.version == 6 else 8) == int(b) >> (
        b.max_prefixlen // 2 if b.version == 6 else 8
    )


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
        self._gate = KeyframeGate()
        self._sending: _Outgoing | None = None
        self.on_sending: Callable[[FrameHeader], None] = lambda header: None
        self.on_sent: Callable[[FrameHeader, bool], None] = lambda header, is_keyframe: None
        self.dropped = 0

    def push(self, packet: VideoPacket, header: FrameHeader, layer: str) -> None:
        if len(self._packets) >= MAX_WAITING_PACKETS:
            self.dropped += len(self._packets)
            self._packets.clear()
            self._gate.lose()
        if not self._gate.admits(packet.is_keyframe, layer):
            self.dropped += 1
            self._request_keyframe()
            return
        self._packets.append(_Outgoing(packet, header))
        self._arrived.set()

    async def recv(self) -> VideoPacket:
        # the sender asks for the next packet once it has sent every part of the last one
        if self._sending is not None:
            self.on_sent(self._sending.header, self._sending.packet.is_keyframe)
        while not self._packets:
            self._arrived.clear()
            await self._arrived.wait()
        self._sending = self._packets.popleft()
        self.on_sending(self._sending.header)
        return self._sending.packet


@dataclass(frozen=True, slots=True)
class RtcCallbacks:
    """What a connection reports to its owner, on the event loop."""

    message: Callable[[bytes], None]
    keyframe: Callable[[], None]
    connected: Callable[[], None]
    closed: Callable[[], None]
    sent: Callable[[FrameHeader], None] = lambda header: None
    plays: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True)
class RtcSettings:
    """What all connections of a server have in common.

    Attributes:
        ice_servers: returns the STUN and TURN servers with credentials that are valid now.
        relays: whether clients have TURN servers.
    """

    bitrate: BitrateLimits = BitrateLimits()
    binding: IceBinding = IceBinding()
    ice_servers: Callable[[], Collection[IceServer]] = tuple
    relays: bool = False


class RtcConnection:
    """One viewer: a video track out, the data channels `input` and `control`."""

    def __init__(
        self, codec: VideoCodec, callbacks: RtcCallbacks, settings: RtcSettings | None = None
    ) -> None:
        configure_aiortc()
        settings = settings or RtcSettings()
        self.codec = codec
        self.rate = RateController(settings.bitrate, now_ms())
        self._binding = settings.binding
        self._callbacks = callbacks
        self._track = _PacketTrack(callbacks.keyframe)
        self._track.on_sent, self._track.on_sending = self._sent, self._sending
        servers = [
            RTCIceServer(list(server.urls), server.username, server.credential)
            for server in settings.ice_servers()
        ]
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        transceiver = self._pc.addTransceiver(self._track, direction="sendonly")
        transceiver.setCodecPreferences(
            [
                capability
                for capability in RTCRtpSender.getCapabilities("video").codecs
                if capability.mimeType.lower() in (f"video/{codec}", "video/rtx")
            ]
        )
        self._sender = transceiver.sender
        self._extensions: SenderExtensions = patch_sender(self._sender, self._hooks())
        self._channels: dict[str, RTCDataChannel] = {}
        self._pc.on("datachannel", self._adopt)
        self._pc.on("connectionstatechange", self._changed)
        self._ended = False
        self._header_ms = -math.inf
        self._deadline: asyncio.TimerHandle | None = None

    def _hooks(self) -> SenderHooks:
        rate = self.rate

        def sent(number: int, size: int) -> None:
            if number >= 0:
                rate.sent(number, size, now_ms())

        return SenderHooks(
            keyframe=self._callbacks.keyframe,
            sent=sent,
            reported=lambda packets: rate.reported(packets, now_ms()),
            receiver_report=lambda loss, rtt: rate.receiver_report(loss, rtt, now_ms()),
            remb=lambda bitrate: rate.remb(bitrate, now_ms()),
        )

    async def answer(self, sdp: str) -> str:
        """Return the answer to an offer. Raises BridgeError if aiortc cannot answer it."""
        try:
            answer = await answer_offer(self._pc, sdp, self._binding)
        except Exception as error:  # whatever aiortc makes of a hostile offer
            raise _bad_offer("an SDP offer", f"{type(error).__name__}: {error}"[:200]) from error
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(CONNECT_S, self._give_up)
        return answer

    def push(self, packet: VideoPacket, header: FrameHeader, layer: str) -> None:
        self._track.push(packet, header, layer)

    def overgrown(self) -> bool:
        """Return whether the peer makes us hold more half-received data than any client needs."""
        return waiting_chunks(self._pc) > MAX_REASSEMBLY

    async def close(self) -> None:
        self._ended = True
        self._stop_waiting()
        await self._pc.close()

    def _give_up(self) -> None:
        """Stop waiting for a client that never connects: ICE itself has no end."""
        self._deadline = None
        if not self._ended:
            self._ended = True
            self._callbacks.closed()

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _sending(self, header: FrameHeader) -> None:
        self._extensions.capture_ms = header.t_frame

    def _sent(self, header: FrameHeader, is_keyframe: bool) -> None:
        dropped = header.dropped + self._track.dropped
        rtp = last_rtp_timestamp(self._sender)
        if is_keyframe:
            self._extensions.keyframe_rtp = rtp
        header = header.replace(t_sent=now_ms(), rtp=rtp, dropped=dropped)
        self._callbacks.sent(header)
        channel = self._channels.get("control")
        if channel is None or channel.readyState != "open":
            return
        if now_ms() - self._header_ms < self._header_pause_ms():
            return
        self._header_ms = now_ms()
        if channel.bufferedAmount <= MAX_BUFFERED:
            channel.send(encode(Frame(header)))

    def _header_pause_ms(self) -> float:
        """Return how long there is no header after one: a slow network is for the frames."""
        if not self._callbacks.plays():
            return SPECTATOR_HEADER_MS
        pause = 1000 * HEADER_BITS / (HEADER_SHARE * self.rate.bitrate)
        return 0.0 if pause < MIN_HEADER_PAUSE_MS else min(pause, SPECTATOR_HEADER_MS)

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
            self._stop_waiting()
            self._callbacks.connected()
        elif state in ("failed", "closed"):
            self._ended = True
            self._stop_waiting()
            self._callbacks.closed()
