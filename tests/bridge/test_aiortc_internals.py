"""The private parts of aiortc and aioice. If one is gone, the pinned version changed."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import aiortc.codecs.h264
import aiortc.rtcrtpsender
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.codecs import CODECS, HEADER_EXTENSIONS
from aiortc.rtp import HeaderExtensionsMap, RtpPacket

from worldbridge.bridge.transports.aiortc_internals import (
    EXTENSION_IDS,
    MAX_PAYLOAD,
    RETRANSMISSION_HISTORY,
    RTP_PER_MS,
    STALE_MS,
    SenderHooks,
    configure_aiortc,
    last_rtp_timestamp,
    patch_sender,
    replace_jitter_buffer,
    transport_feedback,
    waiting_chunks,
)


def connection() -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


def hooks(asked: list[int]) -> SenderHooks:
    return SenderHooks(
        keyframe=lambda: asked.append(1),
        sent=lambda number, size: None,
        reported=lambda packets: None,
        receiver_report=lambda loss, rtt: None,
        remb=lambda bitrate: None,
    )


def test_the_versions_are_those_that_were_read() -> None:
    assert version("aiortc") == "1.16.0"
    assert version("aioice").startswith("0.13")


async def test_senders() -> None:
    pc = connection()
    sender: Any = pc.addTransceiver("video").sender
    assert type(sender._RTCRtpSender__rtp_header_extensions_map) is HeaderExtensionsMap
    assert sender._RTCRtpSender__rtt is None
    for name in ("_send_keyframe", "_handle_rtcp_packet", "_retransmit"):
        assert callable(getattr(sender, name))
    for name in ("_send_rtp", "_handle_rtcp_data"):
        assert callable(getattr(sender.transport, name))
    assert last_rtp_timestamp(sender) == 0
    asked: list[int] = []
    extensions = patch_sender(sender, hooks(asked))
    assert sender._RTCRtpSender__rtp_header_extensions_map is extensions
    sender._send_keyframe()
    assert asked == [1]
    await pc.close()


async def test_only_packets_that_are_still_needed_are_sent_again() -> None:
    pc = connection()
    sender: Any = pc.addTransceiver("video").sender
    again: list[int] = []

    async def retransmit(number: int) -> None:
        again.append(number)

    sender._retransmit = retransmit
    asked: list[int] = []
    extensions = patch_sender(sender, hooks(asked))
    assert sender._RTCRtpSender__rtp_history == {}
    newest = 50  # the time stamps wrapped a moment ago
    sender._RTCRtpSender__rtp_timestamp = newest
    for number, age_ms in ((7, 100), (8, STALE_MS - 1), (9, STALE_MS + 1)):
        stamp = (newest - round(age_ms * RTP_PER_MS)) % 2**32
        packet = RtpPacket(sequence_number=number, timestamp=stamp)
        sender._RTCRtpSender__rtp_history[number] = packet
    for number in (7, 8):
        await sender._retransmit(number)
    assert (again, asked) == ([7, 8], [])
    await sender._retransmit(9)
    assert (again, asked) == ([7, 8], [1])
    await sender._retransmit(10)
    assert (again, asked) == ([7, 8], [1, 1]), "not kept any more"
    extensions.keyframe_rtp = (newest - round(500 * RTP_PER_MS)) % 2**32
    for number in (7, 8, 9):
        await sender._retransmit(number)
    assert (again, asked) == ([7, 8, 7], [1, 1]), "nothing from before the key frame"
    await pc.close()


async def test_ice_connections() -> None:
    pc = connection()
    pc.addTransceiver("video")
    private: Any = pc
    (transport,) = private._RTCPeerConnection__iceTransports
    assert callable(transport._connection.get_component_candidates)
    assert transport._connection._protocols == []
    assert transport._connection.stun_server is None
    await pc.close()


async def test_receivers() -> None:
    pc = connection()
    receiver: Any = pc.addTransceiver("video").receiver
    assert callable(receiver._RTCRtpReceiver__jitter_buffer.add)
    replace_jitter_buffer(receiver, lambda packet: packet == "lost")
    assert receiver._RTCRtpReceiver__jitter_buffer.add("lost") == (True, None)
    await pc.close()


async def test_half_received_messages_can_be_counted() -> None:
    pc = connection()
    assert waiting_chunks(pc) == 0
    pc.createDataChannel("x")
    sctp: Any = pc.sctp
    assert sctp._inbound_streams == {}
    assert sctp._get_inbound_stream(0).reassembly == []
    assert waiting_chunks(pc) == 0
    await pc.close()


def test_what_is_set_in_its_modules_is_read_there() -> None:
    configure_aiortc()
    configure_aiortc()
    sender: Any = aiortc.rtcrtpsender
    assert sender.RTP_HISTORY_SIZE == RETRANSMISSION_HISTORY
    payloads, _ = aiortc.codecs.h264.H264Encoder._packetize([b"\x65" + bytes(5_000)]), None
    assert max(map(len, payloads)) <= MAX_PAYLOAD
    feedback = [f.type for codec in CODECS["video"] for f in codec.rtcpFeedback]
    assert feedback.count("transport-cc") == 3  # VP8 and two profiles of H.264


def test_our_extensions_have_numbers_of_their_own() -> None:
    configure_aiortc()
    everything = [e for kind in HEADER_EXTENSIONS.values() for e in kind]
    for uri, number in EXTENSION_IDS.items():
        assert [e.uri for e in everything if e.id == number] == [uri]


def packet(fci: bytes, kind: int = 205, fmt: int = 15) -> bytes:
    body = bytes(8) + fci + bytes(-len(fci) % 4)
    return bytes([0x80 | fmt, kind]) + (len(body) // 4).to_bytes(2) + body


class TestTransportFeedback:
    def head(self, base: int, count: int, reference: int = 2) -> bytes:
        return base.to_bytes(2) + count.to_bytes(2) + reference.to_bytes(3, signed=True) + b"\0"

    def test_runs_and_vectors(self) -> None:
        run = (1 << 13 | 2).to_bytes(2)  # two packets, small deltas
        bits = (1 << 15 | 0b10_0000_0000_0000).to_bytes(2)  # 14 packets, the first arrived
        pairs = (3 << 14 | 0b10_00_01 << 8).to_bytes(2)  # large delta, lost, small delta
        deltas = bytes([4, 8, 12]) + (-40).to_bytes(2, signed=True) + bytes([16])
        data = packet(self.head(65_534, 19) + run + bits + pairs + deltas)
        (packets,) = transport_feedback(packet(b"", 201, 1) + data)
        arrived = {number: at for number, at in packets if at is not None}
        assert [number for number, _ in packets] == [65_534, 65_535, *range(17)]
        assert arrived == {65_534: 129.0, 65_535: 131.0, 0: 134.0, 14: 124.0, 16: 128.0}

    def test_a_reference_time_may_be_negative(self) -> None:
        run = (1 << 13 | 1).to_bytes(2)
        (packets,) = transport_feedback(packet(self.head(0, 1, -1) + run + b"\4"))
        assert packets == [(0, -63.0)]

    @pytest.mark.parametrize(
        "fci",
        [b"", b"\0" * 7, bytes(8), bytes.fromhex("0000ffff00000000"), bytes(4) + b"\xff" * 12],
    )
    def test_garbage_is_skipped(self, fci: bytes) -> None:
        for cut in range(len(packet(fci)) + 1):
            list(transport_feedback(packet(fci)[:cut]))
        assert list(transport_feedback(packet(fci, fmt=1))) == []
