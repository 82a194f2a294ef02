"""The private parts of aiortc 1.16 and aioice 0.13 that we rely on, all of them in one module.

`tests/bridge/test_aiortc_internals.py` fails if one of them is gone; the versions are pinned. What
stock aiortc does not do: hand a viewer's request for a key frame to our encoder, ask Chromium to
show each frame at once (playout-delay), say when a frame was made (abs-capture-time), number its
packets for transport-wide congestion control and read the reports, keep enough packets for
retransmissions on a fast stream, and bind its sockets where it is asked to.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from struct import unpack_from
from typing import Any, Final

import aiortc.codecs.h264
import aiortc.codecs.vpx
import aiortc.rtcrtpsender
from aioice import Candidate
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, get_host_addresses, server_reflexive_candidate
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, RTCSessionDescription, clock
from aiortc.codecs import CODECS, HEADER_EXTENSIONS
from aiortc.rtcrtpparameters import (
    RTCRtcpFeedback,
    RTCRtpHeaderExtensionParameters,
    RTCRtpParameters,
)
from aiortc.rtp import (
    RTCP_PSFB_APP,
    HeaderExtensions,
    HeaderExtensionsMap,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpSrPacket,
    is_rtcp,
    unpack_remb_fci,
)

from worldbridge.clock import now_ms

PLAYOUT_DELAY_URI: Final = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
CAPTURE_TIME_URI: Final = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"
TRANSPORT_CC_URI: Final = (
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
)
# free in aiortc 1.16; ids 1 to 14 fit the one-byte header
EXTENSION_IDS: Final = {PLAYOUT_DELAY_URI: 12, CAPTURE_TIME_URI: 11, TRANSPORT_CC_URI: 10}
PLAYOUT_DELAY_NONE: Final = bytes(3)  # 12 bits of minimum, 12 bits of maximum, both zero

RTP_PER_MS: Final = 90
STALE_MS: Final = 2000.0  # a frame this much older than the newest is not worth a retransmission
RETRANSMISSION_HISTORY: Final = 1024  # packets: 1.7 s of 6 Mbit/s; aiortc keeps 128
MAX_PAYLOAD: Final = 1200  # bytes of a packet: fits through VPNs and TURN; aiortc sends 1,300
SERVER_TIMEOUT_S: Final = 2  # that a STUN or TURN server may take; the answer waits for it
_RTPFB_TRANSPORT_CC: Final = 15


def configure_aiortc() -> None:
    """Set what aiortc reads from its modules. Once is enough; again changes nothing."""
    video = HEADER_EXTENSIONS["video"]
    for uri, number in EXTENSION_IDS.items():
        if all(extension.uri != uri for extension in video):
            video.append(RTCRtpHeaderExtensionParameters(id=number, uri=uri))
    feedback = RTCRtcpFeedback(type="transport-cc")
    for codec in CODECS["video"]:
        if codec.rtcpFeedback and feedback not in codec.rtcpFeedback:
            codec.rtcpFeedback.append(feedback)
    modules: Any = aiortc  # mypy: these names are not exported
    modules.rtcrtpsender.RTP_HISTORY_SIZE = RETRANSMISSION_HISTORY
    modules.codecs.h264.PACKET_MAX = modules.codecs.vpx.PACKET_MAX = MAX_PAYLOAD


# --- sending --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SenderHooks:
    """What a sender reports, on the event loop.

    Attributes:
        keyframe: the viewer asks for a key frame (PLI or FIR).
        sent: a packet was sent: its transport-wide number, -1 without one, and its bytes.
        reported: which packets arrived when (ms of the viewer's clock), None for lost ones.
        receiver_report: the share of lost packets, and the round trip in ms if it is known.
        remb: the bit rate that the viewer believes its network to carry.
    """

    keyframe: Callable[[], None]
    sent: Callable[[int, int], None]
    reported: Callable[[list[tuple[int, float | None]]], None]
    receiver_report: Callable[[float, float | None], None]
    remb: Callable[[int], None]


class SenderExtensions(HeaderExtensionsMap):
    """aiortc's header extensions, and ours, on every packet of a video sender."""

    def __init__(self) -> None:
        super().__init__()
        self._ids: dict[str, int] = {}
        self.sequence = -1  # of the newest packet, transport-wide
        self.capture_ms: float | None = None  # of the next frame; taken by its first packet
        self.keyframe_rtp: int | None = None  # time stamp of the newest key frame that was sent

    @property
    def numbers_packets(self) -> bool:
        return TRANSPORT_CC_URI in self._ids

    def configure(self, parameters: RTCRtpParameters) -> None:
        super().configure(parameters)
        ours = EXTENSION_IDS.keys()
        self._ids = {e.uri: e.id for e in parameters.headerExtensions if e.uri in ours}

    def set(self, values: HeaderExtensions) -> tuple[int, bytes]:
        if self.numbers_packets:
            self.sequence += 1
            values.transport_sequence_number = self.sequence & 0xFFFF
        profile, packed = super().set(values)
        captured, self.capture_ms = self.capture_ms, None
        if CAPTURE_TIME_URI in self._ids and captured is not None:
            value = _ntp_time(captured).to_bytes(8)
            profile, packed = _with_extension(packed, self._ids[CAPTURE_TIME_URI], value)
        if PLAYOUT_DELAY_URI in self._ids:
            number = self._ids[PLAYOUT_DELAY_URI]
            profile, packed = _with_extension(packed, number, PLAYOUT_DELAY_NONE)
        return profile, packed


def _ntp_time(at_ms: float) -> int:
    """Return a time of our clock as NTP has it: 32.32 fixed-point seconds since 1900."""
    return int(clock.current_ntp_time() - (now_ms() - at_ms) / 1000 * 2**32)


def _with_extension(packed: bytes, number: int, value: bytes) -> tuple[int, bytes]:
    """Append one element to RFC 8285 one-byte extensions, and pad to 32 bits again."""
    body = packed + bytes([number << 4 | len(value) - 1]) + value
    return 0xBEDE, body + bytes(-len(body) % 4)


def patch_sender(sender: RTCRtpSender, hooks: SenderHooks) -> SenderExtensions:
    """Give one sender our header extensions, and our ears for what its viewer reports."""
    private: Any = sender
    extensions = SenderExtensions()
    private._RTCRtpSender__rtp_header_extensions_map = extensions
    private._send_keyframe = hooks.keyframe
    handle = private._handle_rtcp_packet

    async def handle_rtcp(packet: Any) -> None:
        await handle(packet)
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            round_trip = private._RTCRtpSender__rtt
            for report in packet.reports:
                if report.ssrc == private._ssrc:
                    milliseconds = None if round_trip is None else round_trip * 1000
                    hooks.receiver_report(report.fraction_lost / 256, milliseconds)
        elif isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP:
            try:
                hooks.remb(unpack_remb_fci(packet.fci)[0])
            except ValueError:
                pass  # an application's own feedback

    private._handle_rtcp_packet = handle_rtcp
    _patch_retransmission(sender, extensions, hooks)
    _patch_transport(private.transport, extensions, hooks)
    return extensions


def _patch_retransmission(
    sender: RTCRtpSender, extensions: SenderExtensions, hooks: SenderHooks
) -> None:
    """Send again only what a viewer still needs: the packets since the newest key frame.

    After an outage a viewer misses hundreds of packets. All of them together would keep a slow
    network busy for seconds, for frames that nobody wants to see any more.
    """
    private: Any = sender
    retransmit = private._retransmit

    async def retransmit_needed(sequence_number: int) -> None:
        history = private._RTCRtpSender__rtp_history
        packet = history.get(sequence_number % RETRANSMISSION_HISTORY)
        kept = packet is not None and packet.sequence_number == sequence_number
        age = (last_rtp_timestamp(sender) - packet.timestamp) % 2**32 if kept else math.inf
        key = extensions.keyframe_rtp
        since_key = math.inf if key is None else (last_rtp_timestamp(sender) - key) % 2**32
        if kept and age > since_key:
            return  # the key frame is on its way, and nothing before it is needed
        if age > STALE_MS * RTP_PER_MS:
            hooks.keyframe()
        else:
            await retransmit(sequence_number)

    private._retransmit = retransmit_needed


def _patch_transport(transport: Any, extensions: SenderExtensions, hooks: SenderHooks) -> None:
    send, handle = transport._send_rtp, transport._handle_rtcp_data
    unwrapped = _Unwrapper()

    async def send_rtp(data: bytes) -> None:
        if not is_rtcp(data):
            number = extensions.sequence if extensions.numbers_packets else -1
            hooks.sent(number, len(data))
        await send(data)

    async def handle_rtcp_data(data: bytes) -> None:
        for feedback in transport_feedback(data):
            newest = extensions.sequence
            hooks.reported([(unwrapped(n, newest), at) for n, at in feedback])
        await handle(data)

    transport._send_rtp, transport._handle_rtcp_data = send_rtp, handle_rtcp_data


class _Unwrapper:
    """Extends a 16-bit number to the full one closest below the newest."""

    def __call__(self, number: int, newest: int) -> int:
        return newest - ((newest - number) & 0xFFFF)


def transport_feedback(rtcp: bytes) -> Iterator[list[tuple[int, float | None]]]:
    """Yield the transport-wide feedback of a compound packet: (16-bit number, arrival ms or None).

    Malformed packets are skipped: aiortc, which parses the same bytes, says what is wrong.
    """
    position = 0
    while position + 4 <= len(rtcp):
        first, kind, words = unpack_from("!BBH", rtcp, position)
        end = position + 4 + words * 4
        if end > len(rtcp):
            return
        if kind == 205 and first & 31 == _RTPFB_TRANSPORT_CC:
            packets = _parse_feedback(rtcp[position + 12 : end])
            if packets:
                yield packets
        position = end


def _parse_feedback(fci: bytes) -> list[tuple[int, float | None]]:
    """Parse section 3.1 of draft-holmer-rmcat-transport-wide-cc-extensions-01."""
    if len(fci) < 8:
        return []
    base, count = unpack_from("!HH", fci)
    at_ms = int.from_bytes(fci[4:7], signed=True) * 64.0
    statuses: list[int] = []
    position = 8
    while len(statuses) < count:
        if position + 2 > len(fci):
            return []
        statuses += _statuses(unpack_from("!H", fci, position)[0], count - len(statuses))
        position += 2
    packets: list[tuple[int, float | None]] = []
    for index, status in enumerate(statuses):
        number = (base + index) & 0xFFFF
        if status not in (1, 2):
            packets.append((number, None))
            continue
        if position + status > len(fci):
            return []
        delta = int.from_bytes(fci[position : position + status], signed=status == 2)
        position += status
        at_ms += delta * 0.25
        packets.append((number, at_ms))
    return packets


def _statuses(chunk: int, left: int) -> list[int]:
    """Return the packet statuses of one chunk: 0 lost, 1 small delta, 2 large or negative delta."""
    if chunk >> 15 == 0:  # run length
        return [chunk >> 13 & 3] * min(chunk & 0x1FFF, left)
    if chunk >> 14 & 1 == 0:  # 14 statuses of one bit
        return [chunk >> bit & 1 for bit in range(13, -1, -1)][:left]
    return [chunk >> bit & 3 for bit in range(12, -1, -2)][:left]


def last_rtp_timestamp(sender: RTCRtpSender) -> int:
    """Return the RTP time stamp of the frame that was sent last, as the viewer sees it."""
    private: Any = sender
    return int(private._RTCRtpSender__rtp_timestamp)


def waiting_chunks(pc: RTCPeerConnection) -> int:
    """Return how many SCTP chunks of half-received messages a connection holds."""
    if pc.sctp is None:
        return 0
    return sum(len(stream.reassembly) for stream in pc.sctp._inbound_streams.values())


# --- ICE ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IceBinding:
    """Where the sockets of a connection are.

    Attributes:
        addresses: local addresses to bind, one socket each; none: all of this machine's but
            loopback, or one socket for all of them if a public address is announced.
        ports: the first and the last UDP port; (0, 0): any.
        public_address: is announced instead of the local ones, for a server behind a NAT that
            forwards the same ports.
    """

    addresses: Sequence[str] = ()
    ports: tuple[int, int] = (0, 0)
    public_address: str | None = None


def bind_ice(pc: RTCPeerConnection, binding: IceBinding) -> None:
    """Let a connection that has not gathered candidates yet bind its sockets here."""
    private: Any = pc
    for transport in private._RTCPeerConnection__iceTransports:
        _bind_connection(transport._connection, binding)


async def answer_offer(pc: RTCPeerConnection, sdp: str, binding: IceBinding) -> str:
    """Return the answer to an offer, for sockets of these addresses and ports."""
    await pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
    bind_ice(pc, binding)
    await pc.setLocalDescription(await pc.createAnswer())
    return str(pc.localDescription.sdp)


def replace_jitter_buffer(receiver: RTCRtpReceiver, add: Callable[[Any], bool]) -> None:
    """Give a receiver's packets, repaired and without RTP, to `add` instead of the decoder.

    `add` returns whether a key frame is needed.
    """

    class Buffer:
        def add(self, packet: Any) -> tuple[bool, None]:
            return add(packet), None

    private: Any = receiver
    private._RTCRtpReceiver__jitter_buffer = Buffer()


def _bind_connection(connection: Any, binding: IceBinding) -> None:
    relayed = connection.get_component_candidates

    async def candidates(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:
        local = binding.addresses or _all_addresses(binding.public_address)
        protocols = [
            protocol
            for address in local
            if (protocol := await _bind(connection, address, binding.ports)) is not None
        ]
        connection._protocols += protocols
        for protocol in protocols:
            protocol.local_candidate = _host_candidate(component, protocol, binding)
        found = [protocol.local_candidate for protocol in protocols]
        timeout = min(timeout, SERVER_TIMEOUT_S)
        reflexive, relay = await asyncio.gather(
            _reflexive(connection, protocols, timeout), relayed(component, [], timeout)
        )
        return [*found, *reflexive, *relay]

    connection.get_component_candidates = candidates


def _all_addresses(public: str | None) -> list[str]:
    if public is None:
        return get_host_addresses(use_ipv4=True, use_ipv6=True)
    return ["::" if ":" in public else "0.0.0.0"]


async def _bind(connection: Any, address: str, ports: tuple[int, int]) -> Any:
    """Return the protocol of a new socket, None if the address has no free port."""
    loop = asyncio.get_running_loop()
    first, last = ports
    numbers = list(range(first, last + 1))
    random.shuffle(numbers)
    for number in numbers:
        try:
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: StunProtocol(connection), local_addr=(address, number)
            )
        except OSError:
            continue
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        return protocol
    return None


def _host_candidate(component: int, protocol: Any, binding: IceBinding) -> Candidate:
    host, port = protocol.transport.get_extra_info("sockname")[:2]
    host = binding.public_address or host
    return Candidate(
        foundation=candidate_foundation("host", "udp", host),
        component=component,
        transport="udp",
        priority=candidate_priority(component, "host"),
        host=host,
        port=port,
        type="host",
    )


async def _reflexive(connection: Any, protocols: list[Any], timeout: float) -> list[Candidate]:
    """Ask the STUN server, if there is one, how our IPv4 sockets look from outside."""
    if connection.stun_server is None:
        return []
    asked = [
        asyncio.create_task(server_reflexive_candidate(protocol, connection.stun_server))
        for protocol in protocols
        if ":" not in protocol.local_candidate.host
    ]
    if not asked:
        return []
    done, late = await asyncio.wait(asked, timeout=timeout)
    for task in late:
        task.cancel()
    return [task.result()[0] for task in done if task.exception() is None]
