"""One connected client: what waits to be sent to it, its video connection, its reports."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from worldbridge.bridge.errors import CLIENT_TOO_SLOW, BridgeError
from worldbridge.bridge.gateway.connection import Conversation, PlayerSession
from worldbridge.bridge.media.broadcaster import Format
from worldbridge.bridge.media.encoder import VideoPacket
from worldbridge.bridge.media.vsync import VsyncAligner
from worldbridge.bridge.protocol import (
    Error,
    Frame,
    FrameHeader,
    ServerMessage,
    Start,
    Video,
    encode,
)
from worldbridge.bridge.transports.webrtc import RtcConnection
from worldbridge.clock import now_ms

MAX_WAITING: Final = 64
REMEMBERED_FRAMES: Final = 64


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """The last thing in an outbox: close the connection for this reason."""

    reason: str


class Outbox:
    """Messages in order, and beside them the one newest frame. Bounded in number."""

    def __init__(self) -> None:
        self._messages: deque[ServerMessage | CloseRequest] = deque()
        self._frame: Frame | None = None
        self._filled = asyncio.Event()
        self.dropped = 0

    def put(self, message: ServerMessage | CloseRequest) -> bool:
        """False if the client left so much unread that there is no room."""
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
    """A client's pictures are being decoded. `start` is what it asked for once it had a world."""

    work: asyncio.Task[None]
    start: Start | None = None


class Peer:
    """A client as the gateway sees it; the WebSocket behind it belongs to `app`."""

    def __init__(
        self,
        conversation: Conversation,
        abort: Callable[[], None],
        heard: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        self.conversation = conversation
        self._heard = heard
        self.outbox = Outbox()
        self.session: PlayerSession | None = None
        self.video: Video = "jpeg"
        self.rtc: RtcConnection | None = None
        self.rtc_open = False
        self.abort = abort
        self.sent_frames = 0
        self.answered_seq = -1
        self.offers = 0
        self.greeted = False
        self.writing_since_ms: float | None = None
        self.closing_since_ms: float | None = None
        self.starting: PendingStart | None = None
        self.phase = VsyncAligner()
        self._headers: OrderedDict[int, FrameHeader] = OrderedDict()

    @property
    def plays(self) -> bool:
        return self.conversation.role == "player"

    # --- as a viewer of a stream --------------------------------------------------------------

    @property
    def wants(self) -> Format | None:
        if self.closing_since_ms is not None:
            return None
        if self.video == "jpeg":
            return "jpeg"
        return self.rtc.codec if self.rtc is not None and self.rtc_open else None

    def show_jpeg(self, header: FrameHeader, jpeg: bytes) -> None:
        self.outbox.put_frame(Frame(self._localised(header), jpeg))

    def show_packet(self, header: FrameHeader, packet: VideoPacket) -> None:
        assert self.rtc is not None
        self.rtc.push(packet, self._localised(header))

    def _localised(self, header: FrameHeader) -> FrameHeader:
        """Input numbers as this player's client counts them."""
        return self.session.latch.to_client(header) if self.session is not None else header

    # --- sending ------------------------------------------------------------------------------

    def send(self, message: ServerMessage) -> None:
        if self.closing_since_ms is None and not self.outbox.put(message):
            self.fail(too_slow("64 unread messages"))

    def fail(self, error: BridgeError, fatal: bool = True) -> None:
        """Tell the client what is wrong; if that is fatal, close the connection after it."""
        if self.closing_since_ms is not None:
            return
        if not fatal:
            self.send(Error.of(error, fatal=False))
            return
        self.outbox.clear()
        self.outbox.put(Error.of(error))
        self.close(error.code)

    def close(self, reason: str) -> None:
        if self.closing_since_ms is None:
            self.closing_since_ms = now_ms()
            self.outbox.put(CloseRequest(reason))
            self.conversation.close()

    async def next_bytes(self) -> bytes | CloseRequest:
        """What to write to the WebSocket next; a frame is stamped at the last moment."""
        message = await self.outbox.take()
        if isinstance(message, CloseRequest):
            return message
        if isinstance(message, Frame):
            dropped = message.header.dropped + self.outbox.dropped
            header = replace(message.header, t_sent=now_ms(), dropped=dropped)
            self.remember(header)
            message = Frame(header, message.jpeg)
        return encode(message)

    def overdue(self, stall_ms: float, now: float) -> BridgeError | None:
        """Why this client should be dropped now, if it should."""
        late = self.conversation.overdue(now, self._heard())
        if late is not None:
            return late
        if self.writing_since_ms is not None and now - self.writing_since_ms > stall_ms:
            return too_slow(f"no byte read for {stall_ms / 1000:g} s")
        if self.rtc is not None and self.rtc.overgrown():
            return too_slow("half-sent data channel messages that never end")
        return None

    # --- what becomes of frames ---------------------------------------------------------------

    def remember(self, header: FrameHeader) -> None:
        """A frame left for this client; kept until its report comes or it is too old."""
        self.sent_frames += 1
        self._headers[header.frame] = header
        if len(self._headers) > REMEMBERED_FRAMES:
            self._headers.popitem(last=False)

    def recall(self, frame: int) -> FrameHeader | None:
        return self._headers.pop(frame, None)


def too_slow(got: str) -> BridgeError:
    return BridgeError(
        CLIENT_TOO_SLOW,
        "the client does not keep up",
        "a client that reads what it is sent",
        got,
        "Read all messages as they come; show only the newest frame.",
    )
