"""Video by WebRTC for the Python client: the messages of a WebSocket, and frames beside them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.rtp import RtpPacket
from websockets.asyncio.client import ClientConnection

from worldbridge.bridge.protocol import (
    Answer,
    Frame,
    IceServer,
    Offer,
    ServerMessage,
    Welcome,
    decode_server,
    encode,
)
from worldbridge.bridge.transports.aiortc_internals import configure_aiortc, replace_jitter_buffer
from worldbridge.engine_plugins.python.images import H264Decoder

__all__ = ["FrameAssembler", "MediaRelay", "WebRtcLink"]

MediaRelay = Callable[[tuple[str, int]], tuple[str, int]]

CONNECT_S: Final = 10.0
_MAX_PACKETS: Final = 512  # beyond a gap: what is missing comes no more
_REMEMBERED: Final = 64  # headers and frames that wait for each other
_INPUT: Final = b"\xa4type\xa5input"
_PARAMETER_SET: Final = b"\x00\x00\x00\x01\x67"  # what each key frame begins with


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One frame of H.264, and the RTP timestamp of its packets."""

    data: bytes
    timestamp: int


class FrameAssembler:
    """Puts the packets of a stream together, each frame as soon as its last packet is there.

    aiortc's own waits for the first packet of the next frame. Pure: no clock is read.
    """

    def __init__(self) -> None:
        self._packets: dict[int, Any] = {}
        self._next: int | None = None
        self._lost = True  # frames up to the next key frame cannot be decoded

    def add(self, packet: Any) -> tuple[list[EncodedFrame], bool]:
        """Return the frames that a packet completes, and whether a key frame is needed."""
        number = packet.sequence_number
        if self._next is None:
            self._next = number
        if (number - self._next) % 65536 >= 32768:
            return [], False  # of a frame that was given up
        self._packets[number] = packet
        lost = len(self._packets) > _MAX_PACKETS
        if lost:
            self._give_up()
        found = list(self._complete())
        return found, lost

    def _complete(self) -> list[EncodedFrame]:
        frames: list[EncodedFrame] = []
        assert self._next is not None
        parts: list[Any] = []
        at = self._next
        while (packet := self._packets.get(at)) is not None:
            parts.append(packet)
            at = (at + 1) % 65536
            if packet.marker:
                data = b"".join(part._data for part in parts)
                self._lost = self._lost and not data.startswith(_PARAMETER_SET)
                if not self._lost:
                    frames.append(EncodedFrame(data, packet.timestamp))
                for part in parts:
                    del self._packets[part.sequence_number]
                self._next, parts = at, []
        return frames

    def _give_up(self) -> None:
        """Go on behind the first complete end of a frame after the gap."""
        assert self._next is not None
        begun = self._next
        order = sorted(self._packets, key=lambda number: (number - begun) % 65536)
        end = next((n for n in order if self._packets[n].marker), order[-1])
        self._next, self._lost = (end + 1) % 65536, True
        for number in order[: order.index(end) + 1]:
            del self._packets[number]


class WebRtcLink:
    """One connection. Controls go by the unordered channel, the rest by the WebSocket.

    `media_relay` returns by which UDP address to reach one of the server's.
    """

    def __init__(self, socket: ClientConnection, media_relay: MediaRelay | None = None) -> None:
        configure_aiortc()
        self._media_relay = media_relay
        self._socket = socket
        self._messages: asyncio.Queue[ServerMessage] = asyncio.Queue()
        self._answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pc: RTCPeerConnection | None = None
        self._input: Any = None
        self._assembler = FrameAssembler()
        self._decoder = H264Decoder()
        self._frames: OrderedDict[int, bytes] = OrderedDict()  # RTP timestamp -> H.264
        self._headers: OrderedDict[int, Frame] = OrderedDict()
        self._reading = asyncio.create_task(self._read())
        self._connecting: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        is_input = data[1 : 1 + len(_INPUT)] == _INPUT
        if is_input and self._input is not None and self._input.readyState == "open":
            self._input.send(data)
        else:
            await self._socket.send(data)

    async def receive(self) -> ServerMessage:
        """Return the next message. Raises OSError, or what ended the WebSocket."""
        arriving = asyncio.ensure_future(self._messages.get())
        ends = [task for task in (self._reading, self._connecting) if task is not None]
        ends = [task for task in ends if not (task.done() and task.exception() is None)]
        await asyncio.wait([arriving, *ends], return_when=asyncio.FIRST_COMPLETED)
        if arriving.done():
            return arriving.result()
        arriving.cancel()
        for task in ends:
            if task.done():
                task.result()
        return await self.receive()  # it connected

    def abort(self) -> None:
        self._socket.transport.abort()

    async def close(self) -> None:
        for task in (self._reading, self._connecting):
            if task is not None:
                task.cancel()
        if self._pc is not None:
            await self._pc.close()

    async def _read(self) -> None:
        while True:
            data = await self._socket.recv()
            message = decode_server(data if isinstance(data, bytes) else data.encode())
            if isinstance(message, Answer):
                if not self._answer.done():
                    self._answer.set_result(message.sdp)
                continue
            if isinstance(message, Welcome) and self._pc is None:
                self._connecting = asyncio.create_task(self._connect(message.ice_servers))
            self._messages.put_nowait(message)

    async def _connect(self, servers: tuple[IceServer, ...]) -> None:
        """Connect. Raises ConnectionError if WebRTC does not get through."""
        pc = self._pc = _peer_connection(servers)
        connected = asyncio.Event()

        def changed() -> None:
            if pc.connectionState != "connecting":
                connected.set()

        pc.on("connectionstatechange", changed)
        replace_jitter_buffer(pc.getReceivers()[0], self._packet)
        self._input = pc.createDataChannel("input", ordered=False, maxRetransmits=0)
        pc.createDataChannel("control").on("message", self._header)
        await pc.setLocalDescription(await pc.createOffer())
        offer = pc.localDescription.sdp
        relay = self._media_relay
        if relay is not None:  # or the server would find the way past it
            offer = re.sub(r"a=candidate:.*\r\n", "", offer)
        await self._socket.send(encode(Offer(offer)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                answer = await self._answer
                if relay is not None:
                    answer = _relayed(answer, relay)
                await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
                await connected.wait()
        if pc.connectionState != "connected":
            raise ConnectionError(f"WebRTC did not connect within {CONNECT_S:g} s")

    def _packet(self, packet: RtpPacket) -> bool:
        """Take a packet; return whether a key frame is needed."""
        frames, lost = self._assembler.add(packet)
        for frame in frames:
            self._frames[frame.timestamp] = frame.data
            self._match(frame.timestamp)
        return lost

    def _header(self, data: object) -> None:
        message = decode_server(data if isinstance(data, bytes) else b"")
        if isinstance(message, Frame) and message.header.rtp is not None:
            self._headers[message.header.rtp] = message
            self._match(message.header.rtp)
        elif not isinstance(message, Frame):
            self._messages.put_nowait(message)

    def _match(self, timestamp: int) -> None:
        """Hand on a frame whose header is there; those before it are decoded, but not shown."""
        if timestamp in self._frames and timestamp in self._headers:
            message = self._headers[timestamp]
            width, height = message.header.width, message.header.height
            while True:
                found, data = self._frames.popitem(last=False)
                image = self._decoder.decode(data, width, height)
                if found == timestamp:
                    break
            while self._headers.popitem(last=False)[0] != timestamp:
                pass
            if image is not None:
                self._messages.put_nowait(message.replace(image=image, codec="i420"))
        while len(self._headers) > _REMEMBERED:
            self._headers.popitem(last=False)
        while len(self._frames) > _REMEMBERED:  # a spectator has few headers
            _, data = self._frames.popitem(last=False)
            self._decoder.decode(data, 0, 0)


def _relayed(sdp: str, relay: MediaRelay) -> str:
    """Return an answer whose first IPv4 candidate is a relay, and which has no other."""
    found = re.search(r"a=candidate:(\S+ \d+ udp \d+) ([\d.]+) (\d+) typ host\r\n", sdp)
    if found is None:
        raise ConnectionError("expected an IPv4 candidate of the server, got none")
    host, port = relay((found[2], int(found[3])))
    candidate = f"a=candidate:{found[1]} {host} {port} typ host\r\n"
    return (
        re.sub(r"a=candidate:.*\r\n", "", sdp[: found.start()])
        + candidate
        + re.sub(r"a=candidate:.*\r\n", "", sdp[found.end() :])
    )


def _peer_connection(servers: tuple[IceServer, ...]) -> RTCPeerConnection:
    ice = [RTCIceServer(list(s.urls), s.username, s.credential) for s in servers]
    pc = RTCPeerConnection(RTCConfiguration(iceServers=ice))
    transceiver = pc.addTransceiver("video", direction="recvonly")
    capabilities = RTCRtpReceiver.getCapabilities("video")
    assert capabilities is not None
    wanted = ("video/H264", "video/rtx")
    transceiver.setCodecPreferences([c for c in capabilities.codecs if c.mimeType in wanted])
    return pc
