"""WebRTC with a real aiortc peer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamTrack, VideoStreamTrack
from aiortc.rtp import RtpPacket, unpack_header_extensions
from av import VideoFrame

from tests.bridge.conftest import RawClient, Rig, RigMaker, eventually
from tests.support.fake_worker import SPEC
from worldbridge.bridge.protocol import (
    Answer,
    BridgeError,
    ControllerState,
    Error,
    Frame,
    Hello,
    Input,
    Offer,
    Status,
    decode_server,
    encode,
)
from worldbridge.bridge.transports.aiortc_internals import (
    CAPTURE_TIME_URI,
    EXTENSION_IDS,
    PLAYOUT_DELAY_URI,
    configure_aiortc,
)
from worldbridge.bridge.transports.webrtc import RtcConnection, choose_codec, filter_offer


class BrowserLike:
    """What a page does: one recvonly video, two data channels, one offer."""

    def __init__(self, codec: str | None = None) -> None:
        configure_aiortc()  # Chromium's offers have the same extensions
        self.pc = self._connection()
        transceiver = self.pc.addTransceiver("video", direction="recvonly")
        if codec is not None:
            capabilities = RTCRtpReceiver.getCapabilities("video")
            assert capabilities is not None
            transceiver.setCodecPreferences(
                [c for c in capabilities.codecs if c.mimeType in (f"video/{codec}", "video/rtx")]
            )
        self.receiver: Any = transceiver.receiver
        self.input = self.pc.createDataChannel("input", ordered=False, maxRetransmits=0)
        self.control = self.pc.createDataChannel("control")
        self.headers: list[Frame] = []
        self.packets: list[bytes] = []
        self.track: MediaStreamTrack | None = None
        self.control.on("message", self._header)
        self.pc.on("track", self._adopt)

    def _connection(self) -> RTCPeerConnection:
        return RTCPeerConnection(RTCConfiguration(iceServers=[]))

    def _header(self, data: bytes) -> None:
        message = decode_server(data)
        assert isinstance(message, Frame) and message.image is None
        self.headers.append(message)

    def _adopt(self, track: MediaStreamTrack) -> None:
        self.track = track

    async def connect(self, client: RawClient) -> str:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        await client.send(Offer(self.pc.localDescription.sdp))
        answer = await client.until(Answer)
        transport: Any = self.receiver.transport
        handle = transport._handle_rtp_data

        async def spy(data: bytes, arrival_time_ms: int) -> None:
            self.packets.append(data)
            await handle(data, arrival_time_ms)

        transport._handle_rtp_data = spy
        await self.pc.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
        return answer.sdp

    async def frame(self) -> VideoFrame:
        assert self.track is not None
        frame = await asyncio.wait_for(self.track.recv(), 5)
        assert isinstance(frame, VideoFrame)
        return frame


@pytest.fixture
async def page() -> AsyncIterator[BrowserLike]:
    browser = BrowserLike()
    yield browser
    await browser.pc.close()


async def playing(rig: Rig) -> RawClient:
    client = await rig.play(hello=Hello("page", transports=("webrtc",), codecs=("h264", "vp8")))
    await client.until(Status, lambda status: status.state == "playing")
    return client


async def keep_talking(client: RawClient) -> None:
    """Pings, and reads what comes, as a page does all the time."""
    while True:
        try:
            await client.until(Answer)
        except AssertionError:
            continue


async def test_video_input_and_headers(rig: Rig, page: BrowserLike) -> None:
    await rig.worker()
    client = await playing(rig)
    sdp = await page.connect(client)
    assert PLAYOUT_DELAY_URI in sdp
    assert "H264/90000" in sdp and "VP8" not in sdp
    assert "a=sendonly" in sdp
    talk = asyncio.create_task(keep_talking(client))
    frame = await page.frame()
    planes = frame.to_ndarray(format="yuv420p")
    assert (frame.width, frame.height) == (SPEC.width, SPEC.height)
    # the test card is a ramp of 2 per column, wherever it has moved to
    steps = np.diff(planes[SPEC.height // 2, : SPEC.width].astype(int))
    assert np.median(steps) == 2
    page.input.send(encode(Input((ControllerState(11, 77.0),))))
    await eventually(lambda: any(f.header.input_sequence == 11 for f in page.headers))
    answer = next(f.header for f in page.headers if f.header.input_sequence == 11)
    assert answer.input_time == 77.0
    assert answer.t_encoded <= answer.t_sent
    stamps = {RtpPacket.parse(packet).timestamp for packet in page.packets}
    assert {f.header.rtp for f in page.headers[:-1]} <= stamps
    talk.cancel()


async def test_every_packet_asks_for_no_playout_delay(rig: Rig, page: BrowserLike) -> None:
    await rig.worker()
    client = await playing(rig)
    await page.connect(client)
    await page.frame()
    assert page.packets
    for data in page.packets:
        assert extensions(data)[EXTENSION_IDS[PLAYOUT_DELAY_URI]] == b"\0\0\0"


async def test_the_first_packet_of_a_frame_says_when_it_was_made(
    rig: Rig, page: BrowserLike
) -> None:
    await rig.worker()
    client = await playing(rig)
    await page.connect(client)
    await page.frame()
    await eventually(lambda: len(page.packets) > 20)
    seen: dict[int, list[bytes | None]] = {}
    for data in page.packets:
        stamp = RtpPacket.parse(data).timestamp
        value = extensions(data).get(EXTENSION_IDS[CAPTURE_TIME_URI])
        seen.setdefault(stamp, []).append(value)
    for values in list(seen.values())[1:-1]:
        assert values[0] is not None and values[1:] == [None] * (len(values) - 1)
        made = int.from_bytes(values[0]) / 2**32 - 2_208_988_800  # NTP counts from 1900
        assert abs(made - time.time()) < 60


def extensions(packet: bytes) -> dict[int, bytes]:
    """The header extensions of a serialized RTP packet without CSRCs."""
    assert packet[0] == 0x90, "version 2, extension, no padding, no CSRC"
    profile, words = int.from_bytes(packet[12:14]), int.from_bytes(packet[14:16])
    return dict(unpack_header_extensions(profile, packet[16 : 16 + words * 4]))


async def test_a_lost_frame_brings_a_key_frame(rig: Rig, page: BrowserLike) -> None:
    await rig.worker()
    client = await playing(rig)
    await page.connect(client)
    talk = asyncio.create_task(keep_talking(client))
    await page.frame()
    for _ in range(3):
        assert not (await page.frame()).key_frame
    source = next(iter({RtpPacket.parse(packet).ssrc for packet in page.packets}))
    await page.receiver._send_rtcp_pli(source)
    for _ in range(60):
        if (await page.frame()).key_frame:
            break
    else:
        raise AssertionError("no key frame came after PLI")
    talk.cancel()


async def test_two_viewers_share_one_encoder(rig: Rig) -> None:
    """The late one gets a key frame; both go on."""
    await rig.worker()
    pages = [BrowserLike(), BrowserLike()]
    player = await playing(rig)
    await pages[0].connect(player)
    await pages[0].frame()
    watcher = await rig.greet(Hello("watcher", "spectator", ("webrtc",), ("h264",)))
    await watcher.until(Status, lambda status: status.state == "playing")
    await pages[1].connect(watcher)
    assert (await pages[1].frame()).key_frame
    await pages[0].frame()
    talk = asyncio.create_task(keep_talking(watcher))
    await eventually(lambda: len(pages[1].headers) >= 3)
    times = [frame.header.t_sent for frame in pages[1].headers]
    assert min(np.diff(times)) >= 99, "a spectator gets ten headers a second"
    talk.cancel()
    for page in pages:
        await page.pc.close()


async def test_without_h264_it_is_vp8(rig: Rig) -> None:
    await rig.worker()
    page = BrowserLike("VP8")
    client = await playing(rig)
    sdp = await page.connect(client)
    assert "VP8/90000" in sdp and "H264" not in sdp
    frame = await page.frame()
    assert (frame.width, frame.height) == (SPEC.width, SPEC.height)
    await page.pc.close()


async def test_garbage_on_a_data_channel_ends_that_client(rig: Rig, page: BrowserLike) -> None:
    await rig.worker()
    client, other = await playing(rig), await rig.play()
    await page.connect(client)
    await page.frame()
    await eventually(lambda: page.input.readyState == "open")
    page.input.send(b"\xc1")
    assert (await client.until(Error)).code == "bad_message"
    await other.until(Frame)


async def test_a_page_that_leaves_takes_its_connection_with_it(
    make_rig: RigMaker, page: BrowserLike
) -> None:
    rig = await make_rig()
    await rig.worker()
    client = await playing(rig)
    await page.connect(client)
    await page.frame()
    await client.socket.close()
    await eventually(lambda: page.pc.connectionState == "closed")


def candidates(sdp: str) -> list[str]:
    return [line for line in sdp.splitlines() if line.startswith("a=candidate:")]


class TestOffers:
    async def offer(self, *media: MediaStreamTrack | str) -> str:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        for item in media:
            direction = "recvonly" if isinstance(item, str) else "sendrecv"
            pc.addTransceiver(item, direction=direction)
        await pc.setLocalDescription(await pc.createOffer())
        sdp = str(pc.localDescription.sdp)
        await pc.close()
        return sdp

    async def test_incoming_media_is_refused(self) -> None:
        for media in (
            (VideoStreamTrack(),),
            ("video", AudioStreamTrack()),
            ("video", "video"),
            ("audio",),
        ):
            with pytest.raises(BridgeError) as caught:
                choose_codec(await self.offer(*media))
            assert caught.value.code == "bad_message"

    async def test_an_offer_costs_a_few_candidates_and_fewer_names(self) -> None:
        sdp = await self.offer("video")
        head = "a=candidate:1 1 udp 2130706431 "
        flood = "".join(f"{head}a{n}.local 5000 typ host\r\n" for n in range(1_000))
        flood += "".join(f"{head}10.0.0.{n % 250} 5000 typ host\r\n" for n in range(1_000))
        kept = filter_offer(sdp + flood, "10.0.0.7")
        lines = candidates(kept)
        assert len(lines) == 16 + 2
        assert sum(".local" in line for line in lines) == 2
        assert choose_codec(kept) == "h264"

    @pytest.mark.parametrize(
        ("client", "candidate", "kept"),
        [
            ("10.0.0.7", "udp 1 10.0.0.9 5000 typ host", True),
            ("10.0.0.7", "udp 1 10.0.1.9 5000 typ host", False),  # another network of ours
            ("10.0.0.7", "udp 1 169.254.169.254 80 typ host", False),
            ("10.0.0.7", "udp 1 224.0.0.251 5353 typ host", False),
            ("10.0.0.7", "tcp 1 10.0.0.9 9 typ host tcptype active", False),
            ("10.0.0.7", "udp 1 printer.example 5000 typ host", False),
            ("10.0.0.7", "udp 1 abc.local 5000 typ host", True),
            ("127.0.0.1", "udp 1 abc.local 5000 typ host", False),  # its packets come anyway
            ("127.0.0.1", "udp 1 127.0.0.1 5000 typ host", True),
            ("1.1.1.5", "udp 1 1.1.1.5 5000 typ srflx raddr 0.0.0.0 rport 9", True),
            ("1.1.1.5", "udp 1 1.1.1.6 5000 typ srflx raddr 0.0.0.0 rport 9", False),
            ("1.1.1.5", "udp 1 10.0.0.9 5000 typ host", False),
            ("1.1.1.5", "udp 1 abc.local 5000 typ host", False),
            ("1.1.1.5", "udp 1 8.8.8.8 5000 typ relay raddr 0.0.0.0 rport 9", False),
            ("fe80::1%eth0", "udp 1 fe80::2 5000 typ host", True),
            ("::ffff:10.0.0.7", "udp 1 10.0.0.9 5000 typ host", True),  # IPv4 on an IPv6 socket
            ("2001:db8::1", "udp 1 2001:db8::1 5000 typ host", True),
            (None, "udp 1 10.0.0.9 5000 typ host", False),
        ],
    )
    def test_we_send_to_the_client_alone(self, client: str, candidate: str, kept: bool) -> None:
        line = f"a=candidate:1 1 {candidate}\r\n"
        assert bool(candidates(filter_offer(f"v=0\r\n{line}", client))) is kept

    def test_relays_count_where_there_are_some_and_are_not_ours(self) -> None:
        line = "a=candidate:1 1 udp 1 {} 5000 typ relay raddr 0.0.0.0 rport 9\r\n"
        for address, kept in (("8.8.8.8", 1), ("10.0.0.9", 0), ("127.0.0.1", 0)):
            sdp = filter_offer(line.format(address), "1.1.1.5", relays=True)
            assert len(candidates(sdp)) == kept

    async def test_sockets_are_bound_where_the_server_listens(
        self, rig: Rig, page: BrowserLike
    ) -> None:
        await rig.worker()
        client = await playing(rig)
        sdp = await page.connect(client)
        assert {line.split()[4] for line in candidates(sdp)} == {"127.0.0.1"}

    async def test_the_ports_and_the_public_address_are_those_of_the_settings(
        self, make_rig: RigMaker, page: BrowserLike
    ) -> None:
        rig = await make_rig(udp_ports="42000-42009", public_address="203.0.113.9")
        await rig.worker()
        client = await playing(rig)
        (line,) = set(candidates(await page.connect(client)))
        assert line.split()[4] == "203.0.113.9" and 42000 <= int(line.split()[5]) <= 42009

    async def test_of_many_offers_at_once_the_newest_is_answered_and_the_others_are_closed(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[RtcConnection] = []
        closed: list[RtcConnection] = []

        class Counted(RtcConnection):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                made.append(self)

            async def close(self) -> None:
                closed.append(self)
                await super().close()

        monkeypatch.setattr("worldbridge.bridge.gateway.hub.RtcConnection", Counted)
        await rig.worker()
        client = await playing(rig)
        sdp = await self.offer("video")
        for _ in range(5):
            await client.send(Offer(sdp))
        await client.until(Answer)
        await client.socket.close()
        await eventually(lambda: bool(made) and set(made) == set(closed))

    async def test_the_codec_is_the_best_that_both_have(self) -> None:
        sdp = await self.offer("video")
        assert choose_codec(sdp) == "h264"
        assert choose_codec(sdp.replace("H264/90000", "H265/90000")) == "vp8"
        assert choose_codec(sdp.replace("packetization-mode=1", "packetization-mode=0")) == "vp8"
        assert choose_codec(sdp, ("vp8", "jpeg")) == "vp8"
        with pytest.raises(BridgeError):
            neither = sdp.replace("H264/90000", "H265/90000").replace("VP8/90000", "VP9/90000")
            choose_codec(neither)

    @pytest.mark.parametrize("sdp", ["", "v=0", "m=video", "\0" * 100, "m=video 9 X 96\r\n" * 50])
    async def test_garbage_is_an_error_that_the_client_survives(self, rig: Rig, sdp: str) -> None:
        await rig.worker()
        client = await playing(rig)
        await client.send(Offer(sdp))
        error = await client.until(Error)
        assert (error.code, error.fatal) == ("bad_message", False)

    async def test_offers_are_limited(self, rig: Rig) -> None:
        await rig.worker()
        client = await playing(rig)
        for _ in range(17):
            await client.send(Offer("x"))
        error = await client.until(Error, lambda error: error.fatal)
        assert error.message == "too many offers"
