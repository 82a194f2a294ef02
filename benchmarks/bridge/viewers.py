"""Viewers that stamp the arrival of every frame and decode none.

`python -m worldbridge.benchmarks.bridge.viewers` reads one JSON request per line, the arguments of
`watch`, and prints one JSON result per line. A new transport is one class and one entry in
`TRANSPORTS`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import zmq
import zmq.asyncio
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.rtp import RtpPacket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from worldbridge.bridge.protocol import (
    MAX_SERVER_MESSAGE,
    STATES_PER_INPUT,
    Answer,
    Bye,
    ClientMessage,
    ControllerState,
    Credit,
    Error,
    Frame,
    FrameHeader,
    Hello,
    Input,
    Offer,
    Ping,
    Role,
    ServerMessage,
    Start,
    Status,
    Welcome,
    decode_server,
    encode,
)
from worldbridge.bridge.transports.aiortc_internals import RTP_PER_MS, configure_aiortc
from worldbridge.bridge.transports.zeromq import client_options, from_parts
from worldbridge.clock import now_ms

__all__ = ["TRANSPORTS", "Viewer", "watch"]

PATIENCE_S: Final = 30.0
INPUTS_PER_S: Final = 60
CREDIT: Final = 2  # frames that may be on their way
_PING_EVERY: Final = 30  # inputs
_REMEMBERED: Final = 256


class Viewer(ABC):
    """One receiver of frames. `seen` is called for every frame, with times in ms of one clock.

    `scheme` says which address of the server it takes.
    """

    scheme = "http"

    def __init__(self, url: str, role: Role, session: str | None) -> None:
        self.url = url
        self.role = role
        self.session = session
        self.measuring = False
        self.first = asyncio.Event()
        self.latencies: list[float] = []
        self.frames = 0  # that came while it was measuring

    def seen(self, handed_ms: float, received_ms: float) -> None:
        self.first.set()
        if self.measuring:
            self.latencies.append(received_ms - handed_ms)
            self.frames += 1

    @abstractmethod
    async def open(self) -> None:
        """Connect and begin to receive. A player sets `session`."""

    async def finish(self) -> None:  # noqa: B027 (most have nothing to ask)
        """Complete the latencies, while still connected."""

    @abstractmethod
    async def close(self) -> None: ...


# --- through the gateway -----------------------------------------------------------------------


class GatewayViewer(Viewer):
    """Speaks the protocol over any socket. Players send controls 60 times per second."""

    transports: tuple[str, ...]
    codecs: tuple[str, ...]

    async def open(self) -> None:
        await self._connect()
        self._answers: asyncio.Queue[Answer] = asyncio.Queue()
        self._playing = asyncio.Event()
        self._tasks = [asyncio.create_task(work()) for work in (self._read, self._steer)]
        await self._send(self._hello())
        await self._until(self._playing)

    @abstractmethod
    async def _connect(self) -> None: ...

    @abstractmethod
    async def _send(self, message: ClientMessage) -> None: ...

    @abstractmethod
    async def _receive(self) -> tuple[ServerMessage, float]:
        """Return the next message, and the ms at which it was there."""

    @abstractmethod
    def kill(self) -> None:
        """End without goodbye, as a client that crashed."""

    def _hello(self) -> Hello:
        return Hello("bench", self.role, self.transports, self.codecs, session=self.session)

    async def _until(self, event: asyncio.Event) -> None:
        """Wait for an event, and raise what ends the reader before."""
        waiting = asyncio.create_task(event.wait())
        done, _ = await asyncio.wait(
            [waiting, self._tasks[0]], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
        )
        if waiting in done:
            return
        waiting.cancel()
        if self._tasks[0] in done:
            self._tasks[0].result()
        raise TimeoutError(f"no answer within {PATIENCE_S:g} s")

    async def _read(self) -> None:
        while True:
            await self._handle(*await self._receive())

    async def _handle(self, message: ServerMessage, received: float) -> None:
        match message:
            case Frame(header, image) if image is not None:
                self.seen(header.t_frame, received)
            case Welcome() as welcome:
                self.session = welcome.session
                if self.role == "player":
                    await self._send(Start())
            case Status("playing"):
                self._playing.set()
            case Answer() as answer:
                self._answers.put_nowait(answer)
            case Error() as error:
                raise ConnectionError(f"{error.code}: {error.message}, got {error.got}")

    async def _grant(self, message: ServerMessage) -> None:
        """Let the server send as many frames as came."""
        match message:
            case Welcome():
                await self._send(Credit(CREDIT))
            case Frame():
                await self._send(Credit(1))

    async def _steer(self) -> None:
        for number in range(2**31):
            if number % _PING_EVERY == 0:
                await self._send(Ping(now_ms()))
            if self.role == "player" and self._playing.is_set():
                await self._send(Input((ControllerState(number, now_ms()),)))
            await asyncio.sleep(1 / INPUTS_PER_S)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class WebSocketViewer(GatewayViewer):
    """JPEG frames in WebSocket messages."""

    transports = ("websocket",)
    codecs = ("jpeg",)

    async def _connect(self) -> None:
        parts = urlsplit(self.url)
        self._socket: ClientConnection = await connect(
            f"ws://{parts.netloc}/session",
            compression=None,
            proxy=None,
            max_size=MAX_SERVER_MESSAGE,
            ping_interval=None,
            open_timeout=PATIENCE_S,
        )

    async def _send(self, message: ClientMessage) -> None:
        await self._socket.send(encode(message))

    async def _receive(self) -> tuple[ServerMessage, float]:
        data = await self._socket.recv()
        received = now_ms()
        assert isinstance(data, bytes)
        return decode_server(data), received

    def kill(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._socket.transport.abort()

    async def close(self) -> None:
        await self._send(Bye())
        await self._stop()
        await self._socket.close()


class H264Viewer(WebSocketViewer):
    """H.264 frames in WebSocket messages, with credit for two."""

    codecs = ("h264",)

    async def _handle(self, message: ServerMessage, received: float) -> None:
        await super()._handle(message, received)
        await self._grant(message)


class ZeroMqViewer(GatewayViewer):
    """Frames as they are, by ZeroMQ with credit for two."""

    scheme = "tcp"
    transports = ("zeromq",)
    codecs = ("i420",)

    async def _connect(self) -> None:
        self._context: zmq.asyncio.Context = zmq.asyncio.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        for option, value in client_options(None, None).items():
            self._dealer.setsockopt(option, value)
        self._dealer.connect(self.url)

    async def _send(self, message: ClientMessage) -> None:
        await self._dealer.send(encode(message))

    async def _receive(self) -> tuple[ServerMessage, float]:
        parts = await self._dealer.recv_multipart()
        received = now_ms()
        return from_parts(parts), received

    async def _handle(self, message: ServerMessage, received: float) -> None:
        await super()._handle(message, received)
        await self._grant(message)

    def kill(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._context.destroy(linger=0)

    async def close(self) -> None:
        await self._send(Bye())
        await self._stop()
        self._context.destroy(linger=200)


class ZeroMqRgbViewer(ZeroMqViewer):
    """The same, with colours converted by the gateway."""

    codecs = ("rgb",)


class ZeroMqH264Viewer(ZeroMqViewer):
    """Video of the shared encoder, by ZeroMQ with credit for two."""

    codecs = ("h264",)


class PacketWatch:
    """A peer connection that stamps packets with the marker bit, and decodes none."""

    def __init__(self, ordered: bool = False) -> None:
        configure_aiortc()
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        transceiver = self.pc.addTransceiver("video", direction="recvonly")
        capabilities = RTCRtpReceiver.getCapabilities("video")
        assert capabilities is not None
        wanted = ("video/H264", "video/rtx")
        transceiver.setCodecPreferences([c for c in capabilities.codecs if c.mimeType in wanted])
        private: Any = transceiver.receiver
        private._handle_rtp_packet = self._stamp
        self.arrived: OrderedDict[int, float] = OrderedDict()  # RTP timestamp -> ms
        self.on_frame: Callable[[int], None] = lambda timestamp: None
        self.control = self.pc.createDataChannel("control")
        retransmits = None if ordered else 0
        self.input = self.pc.createDataChannel("input", ordered=ordered, maxRetransmits=retransmits)

    async def _stamp(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        if packet.marker:
            self.arrived[packet.timestamp] = now_ms()
            self.on_frame(packet.timestamp)

    async def offer(self) -> str:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return self.pc.localDescription.sdp

    async def accept(self, sdp: str) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))


class WebRtcViewer(WebSocketViewer):
    """Video packets, matched with the headers of the control channel by RTP timestamp.

    A spectator gets a header for some frames only: those have latencies, and all count as frames.
    """

    transports = ("webrtc",)
    codecs = ("h264",)

    async def open(self) -> None:
        await super().open()
        self._packets = self._peer()
        self._packets.control.on("message", self._header)
        self._packets.on_frame = self._arrived
        self._headers: OrderedDict[int, FrameHeader] = OrderedDict()  # whose frame is not here yet
        await self._send(Offer(await self._packets.offer()))
        answer = await asyncio.wait_for(self._answers.get(), PATIENCE_S)
        await self._packets.accept(answer.sdp)

    def _peer(self) -> PacketWatch:
        return PacketWatch()

    def _header(self, data: bytes) -> None:
        match decode_server(data):
            case Frame(header) if header.rtp is not None:
                self._headers[header.rtp] = header
                self._match(header.rtp)

    def _arrived(self, timestamp: int) -> None:
        self.frames += self.measuring
        self._match(timestamp)

    def _match(self, timestamp: int) -> None:
        arrived, headers = self._packets.arrived, self._headers
        if timestamp in arrived and timestamp in headers:
            received = arrived.pop(timestamp)
            handed = headers.pop(timestamp).t_frame
            self.first.set()
            if self.measuring:
                self.latencies.append(received - handed)
        for waiting in (arrived, headers):
            while len(waiting) > _REMEMBERED:
                waiting.popitem(last=False)

    async def close(self) -> None:
        await super().close()
        await self._packets.pc.close()


class InputViewer(WebRtcViewer):
    """A player that sends its states on the input channel: as clients do, or the usual way.

    Clients repeat the last states in each message, unordered and without retransmission. The usual
    way is one state per message, in order and reliable.
    """

    def __init__(self, url: str, ordered: bool) -> None:
        self._ordered = ordered
        self.ready = asyncio.Event()
        super().__init__(url, "player", None)

    def _peer(self) -> PacketWatch:
        packets = PacketWatch(self._ordered)
        packets.input.on("open", self.ready.set)
        return packets

    async def _steer(self) -> None:
        while True:
            await self._send(Ping(now_ms()))
            await asyncio.sleep(_PING_EVERY / INPUTS_PER_S)

    async def steer_for(self, seconds: float) -> dict[int, float]:
        """Send states for some time; return when each was made, ms by sequence."""
        loop, sent = asyncio.get_running_loop(), dict[int, float]()
        states: deque[ControllerState] = deque(maxlen=1 if self._ordered else STATES_PER_INPUT)
        due, end = loop.time(), loop.time() + seconds
        while due < end:
            state = ControllerState(len(sent), now_ms(), keys=("KeyW",) if len(sent) % 2 else ())
            sent[state.sequence] = state.time
            states.appendleft(state)
            self._packets.input.send(encode(Input(tuple(states))))
            due += 1 / INPUTS_PER_S
            await asyncio.sleep(max(0.0, due - loop.time()))
        for _ in range(INPUTS_PER_S // 4):  # clients repeat what is held
            self._packets.input.send(encode(Input(tuple(states))))
            await asyncio.sleep(1 / INPUTS_PER_S)
        return sent


# --- the baseline ------------------------------------------------------------------------------


class NaiveViewer(Viewer):
    """Packets of `naive`. When a frame was handed over follows from its RTP timestamp."""

    async def open(self) -> None:
        parts = urlsplit(self.url)
        self._reader, self._writer = await asyncio.open_connection(parts.hostname, parts.port)
        self._packets = PacketWatch()
        answer = await self._ask({"sdp": await self._packets.offer()})
        await self._packets.accept(answer["sdp"])
        self._waiting = asyncio.create_task(self._first())

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._writer.write(json.dumps(request).encode() + b"\n")
        line = await asyncio.wait_for(self._reader.readline(), PATIENCE_S)
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _first(self) -> None:
        while not self._packets.arrived:
            await asyncio.sleep(0.01)
        self.first.set()
        while not self.measuring:
            await asyncio.sleep(0.01)
        self._packets.arrived.clear()

    async def finish(self) -> None:
        arrived = dict(self._packets.arrived)
        origin = (await self._ask({"origin": True}))["origin"]
        for timestamp, received in arrived.items():
            ticks = (round(received * RTP_PER_MS) - timestamp + origin) % 2**32
            self.latencies.append(ticks / RTP_PER_MS)
        self.frames = len(arrived)

    async def close(self) -> None:
        self._waiting.cancel()
        self._writer.close()
        await self._packets.pc.close()


TRANSPORTS: Final[Mapping[str, type[Viewer]]] = MappingProxyType(
    {
        "webrtc": WebRtcViewer,
        "websocket_h264": H264Viewer,
        "websocket_jpeg": WebSocketViewer,
        "zmq_raw": ZeroMqViewer,
        "zmq_rgb": ZeroMqRgbViewer,
        "zmq_h264": ZeroMqH264Viewer,
        "naive": NaiveViewer,
    }
)


async def watch(
    transport: str, url: str, server: int, viewers: int, seconds: float, warm_up_s: float
) -> dict[str, Any]:
    """Connect a player and spectators; return the latencies of all their frames, in ms.

    `frames` is how many came, `cpu_share` what the process `server` used of one core meanwhile.

    Raises:
        TimeoutError: no frame came.
        ConnectionError: the server refused a viewer.
    """
    kind = TRANSPORTS[transport]
    opened: list[Viewer] = []
    try:
        for number in range(viewers):
            session = opened[0].session if opened else None
            viewer = kind(url, "spectator" if number else "player", session)
            await viewer.open()
            opened.append(viewer)
            await asyncio.wait_for(viewer.first.wait(), PATIENCE_S)
        await asyncio.sleep(warm_up_s)
        for viewer in opened:
            viewer.measuring = True
        cpu, began = _cpu_seconds(server), time.monotonic()
        await asyncio.sleep(seconds)
        share = (_cpu_seconds(server) - cpu) / (time.monotonic() - began)
        for viewer in opened:
            await viewer.finish()
            viewer.measuring = False
    finally:
        for viewer in reversed(opened):
            await viewer.close()
    latencies = [ms for viewer in opened for ms in viewer.latencies]
    frames = sum(viewer.frames for viewer in opened)
    return {"latencies": latencies, "frames": frames, "cpu_share": share}


def _cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    import uvloop

    for line in sys.stdin:
        try:
            answer = uvloop.run(watch(**json.loads(line)))
        except (OSError, TimeoutError, WebSocketException) as error:
            answer = {"error": str(error) or "no frame within 30 s"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
