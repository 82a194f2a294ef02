"""One connected client: what waits to be sent to it, its video connection, its reports."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from worldbridge.bridge.gateway.connection import Connection, PromptUpload
from worldbridge.bridge.gateway.latency import VsyncAligner
from worldbridge.bridge.gateway.limits import WorkBudget
from worldbridge.bridge.gateway.players import PlayerSession
from worldbridge.bridge.media.encoder import VideoPacket
from worldbridge.bridge.protocol import (
    BridgeError,
    Codec,
    Error,
    Frame,
    FrameHeader,
    Hello,
    ServerMessage,
    Start,
    Transport,
    encode,
)
from worldbridge.bridge.transports.webrtc import RtcConnection
from worldbridge.clock import now_ms

CODECS: Final[Mapping[str, tuple[Codec, ...]]] = {  # by transport, the best first
    "webrtc": ("h264", "vp8"),
    "websocket": ("jpeg",),
}
MAX_WAITING: Final = 64
REMEMBERED_FRAMES: Final = 64


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """The last thing in an outbox: close the connection for this reason."""

    reason: str


class Outbox:
    """Messages in order, and beside them the newest frame. Bounded in number."""

    def __init__(self) -> None:
        self._messages: deque[ServerMessage | CloseRequest] = deque()
        self._frame: Frame | None = None
        self._filled = asyncio.Event()
        self.dropped = 0

    def put(self, message: ServerMessage | CloseRequest) -> bool:
        """Queue a message. Return whether there was room for it."""
        if len(self._messages) >= MAX_WAITING and not isinstance(message, CloseRequest | Error):
            return False
        self._messages.append(message)
        self._filled.set()
        return True

    def put_frame(self, frame: Frame) -> None:
        self.dropped += self._frame is not None
        self._frame = frame
        self._filled.set()

    def clear(self) -> None:
        self._messages.clear()
        self._frame = None

    async def take(self) -> ServerMessage | CloseRequest:
        while True:
            if self._messages:
                return self._messages.popleft()
            if self._frame is not None:
                frame, self._frame = self._frame, None
                return frame
            self._filled.clear()
            await self._filled.wait()


@dataclass(frozen=True, slots=True)
class PendingStart:
    """A `start` whose prompt frames are being decoded."""

    work: asyncio.Task[None]
    message: Start
    files: tuple[bytes, ...]


class Peer:
    """A client as the gateway sees it; the WebSocket behind it belongs to `http`."""

    def __init__(
        self,
        connection: Connection,
        abort: Callable[[], None],
        heard: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        self.connection = connection
        self._heard = heard
        self.outbox = Outbox()
        self.budget = WorkBudget()
        self.session: PlayerSession | None = None
        self.transport: Transport = "websocket"
        self.codecs: tuple[str, ...] = ()
        self.upload = PromptUpload()
        self.rtc: RtcConnection | None = None
        self.negotiation: asyncio.Task[None] | None = None
        self.rtc_open = False
        self.abort = abort
        self.sent_frames = 0
        self.answered = -1  # sequence of the newest input that a shown frame answered
        self.offers = 0
        self.greeted = False
        self.writing_since_ms: float | None = None
        self.closing_since_ms: float | None = None
        self.starting: PendingStart | None = None
        self.vsync = VsyncAligner()
        self._headers: OrderedDict[int, FrameHeader] = OrderedDict()

    @property
    def plays(self) -> bool:
        """Whether the client has a seat, not only a view."""
        return self.connection.role != "spectator"

    def choose_codec(self, hello: Hello) -> Codec:
        """Take the first transport of `hello` that has a codec in common, and return the codec.

        Raises BridgeError unsupported.
        """
        for transport in hello.transports:
            for codec in CODECS.get(transport, ()):
                if codec in hello.codecs:
                    self.transport = "webrtc" if transport == "webrtc" else "websocket"
                    self.codecs = hello.codecs
                    return codec
        raise BridgeError(
            "unsupported",
            "client and server have no way to send frames in common",
            "webrtc with h264 or vp8, or websocket with jpeg",
            f"{', '.join(hello.transports)} with {', '.join(hello.codecs)}"[:200],
            "Offer `websocket` and `jpeg`, which every server has.",
            "hello.transports",
        )

    # --- as a viewer of a session -------------------------------------------------------------

    @property
    def wants(self) -> Codec | None:
        """The codec of the frames that can be sent now, None if none can."""
        if self.closing_since_ms is not None:
            return None
        if self.transport == "websocket":
            return "jpeg"
        return self.rtc.codec if self.rtc is not None and self.rtc_open else None

    def show_jpeg(self, header: FrameHeader, jpeg: bytes) -> None:
        """Send a frame by WebSocket, instead of one that still waits."""
        self.outbox.put_frame(Frame(self._localised(header), jpeg, "jpeg"))

    def show_packet(self, header: FrameHeader, packet: VideoPacket) -> None:
        """Send a frame by WebRTC."""
        assert self.rtc is not None
        self.rtc.push(packet, self._localised(header))

    def _localised(self, header: FrameHeader) -> FrameHeader:
        """Return the header with input numbers as this connection counts them."""
        return self.session.inputs.to_client(header) if self.session is not None else header

    # --- sending ------------------------------------------------------------------------------

    def send(self, message: ServerMessage) -> None:
        """Queue a message; a client that leaves too many unread is dropped."""
        if self.closing_since_ms is None and not self.outbox.put(message):
            self.fail(too_slow("64 unread messages"))

    def fail(self, error: BridgeError, fatal: bool = True) -> None:
        """Send the error; if it is fatal, close the connection after it."""
        if self.closing_since_ms is not None:
            return
        if not fatal:
            self.send(Error.of(error, fatal=False))
            return
        self.outbox.clear()
        self.outbox.put(Error.of(error))
        self.close(error.code)

    def close(self, reason: str) -> None:
        """Close the connection after what is queued."""
        if self.closing_since_ms is None:
            self.closing_since_ms = now_ms()
            self.outbox.put(CloseRequest(reason))
            self.connection.close()

    async def next_bytes(self) -> bytes | CloseRequest:
        """Return what to write to the WebSocket next. A frame is stamped at the last moment."""
        message = await self.outbox.take()
        if isinstance(message, CloseRequest):
            return message
        if isinstance(message, Frame):
            dropped = message.header.dropped + self.outbox.dropped
            header = message.header.replace(t_sent=now_ms(), dropped=dropped)
            self.remember(header)
            message = message.replace(header=header)
        return encode(message)

    def overdue(self, stall_ms: float, now: float) -> BridgeError | None:
        """Return why this client should be dropped now, or None."""
        late = self.connection.overdue(now, self._heard())
        if late is not None:
            return late
        if self.writing_since_ms is not None and now - self.writing_since_ms > stall_ms:
            return too_slow(f"no byte read for {stall_ms / 1000:g} s")
        if self.rtc is not None and self.rtc.overgrown():
            return too_slow("half-sent data channel messages that never end")
        return None

    # --- reports about frames ---------------------------------------------------------------

    def remember(self, header: FrameHeader) -> None:
        """Keep the header of a frame that was sent until its report arrives or it is too old."""
        self.sent_frames += 1
        self._headers[header.frame] = header
        if len(self._headers) > REMEMBERED_FRAMES:
            self._headers.popitem(last=False)

    def recall(self, frame: int) -> FrameHeader | None:
        """Return and forget the header of a frame that was sent."""
        return self._headers.pop(frame, None)


def too_slow(got: str) -> BridgeError:
    return BridgeError(
        "client_too_slow",
        "the client does not keep up",
        "a client that reads what it receives",
        got,
        "Read all messages as they arrive; show only the newest frame.",
    )
