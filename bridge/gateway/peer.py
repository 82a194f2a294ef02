"""One connected client: what waits to be sent to it, its video connection, its reports."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from worldbridge.bridge.gateway.connection import Connection, Phase, PromptUpload
from worldbridge.bridge.gateway.latency import VsyncAligner
from worldbridge.bridge.gateway.limits import WorkBudget
from worldbridge.bridge.gateway.players import PlayerSession
from worldbridge.bridge.gateway.prompts import DepthFile
from worldbridge.bridge.media import KeyframeGate
from worldbridge.bridge.media.encoder import VideoPacket
from worldbridge.bridge.media.rate import BitrateLimits, MessageRate, RateController
from worldbridge.bridge.protocol import (
    MAX_CREDIT,
    BridgeError,
    Codec,
    Error,
    Frame,
    FrameHeader,
    Hello,
    ServerMessage,
    Start,
    Transport,
)
from worldbridge.bridge.tokens import OPEN
from worldbridge.bridge.transports.webrtc import RtcConnection
from worldbridge.clock import now_ms

MAX_WAITING: Final = 64
MAX_WAITING_VIDEO: Final = 4  # frames that a client without credit is behind at most
REMEMBERED_FRAMES: Final = 64


@dataclass(frozen=True, slots=True)
class Link:
    """What carries a client's messages, and the ways in which its frames can travel."""

    transport: Transport  # of a frame beside the messages
    codecs: Mapping[Transport, tuple[Codec, ...]]  # the best first
    by_credit: bool = False  # no frame is sent that the client did not ask for
    client_ranks: bool = False  # the client's order of codecs counts, not ours


WEBSOCKET: Final = Link("websocket", {"webrtc": ("h264", "vp8"), "websocket": ("h264", "jpeg")})


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """The last thing in an outbox: close the connection for this reason."""

    reason: str


class Outbox:
    """Messages in order, and beside them the newest image or a few frames of video.

    `credit` is how many frames may be taken; None: any number.
    """

    def __init__(self) -> None:
        self._messages: deque[ServerMessage | CloseRequest] = deque()
        self._frames: deque[Frame] = deque()
        self._filled = asyncio.Event()
        self.credit: int | None = None
        self.granted = False  # some credit came
        self.dropped = 0

    def put(self, message: ServerMessage | CloseRequest) -> bool:
        """Queue a message. Return whether there was room for it."""
        if len(self._messages) >= MAX_WAITING and not isinstance(message, CloseRequest | Error):
            return False
        self._messages.append(message)
        self._filled.set()
        return True

    def put_frame(self, frame: Frame) -> None:
        """Leave an image, instead of the one that waits."""
        self.dropped += len(self._frames)
        self._frames.clear()
        self._frames.append(frame)
        self._filled.set()

    def put_video(self, frame: Frame) -> bool:
        """Queue a frame of video. Return False if there were too many: all of them are gone."""
        if len(self._frames) >= MAX_WAITING_VIDEO:
            self.dropped += len(self._frames) + 1
            self._frames.clear()
            return False
        self._frames.append(frame)
        self._filled.set()
        return True

    @property
    def frames_wait(self) -> bool:
        """Whether frames wait for credit."""
        return bool(self._frames) and self.credit == 0

    def grant(self, frames: int) -> None:
        """Let that number of frames more be taken, up to MAX_CREDIT altogether."""
        self.granted = True
        self.credit = min(MAX_CREDIT, (self.credit or 0) + frames)
        self._filled.set()

    def clear(self) -> None:
        self._messages.clear()
        self._frames.clear()

    async def take(self) -> ServerMessage | CloseRequest:
        while True:
            if self._messages:
                return self._messages.popleft()
            if self._frames and self.credit != 0:
                frame = self._frames.popleft()
                if self.credit is not None:
                    self.credit -= 1
                return frame
            self._filled.clear()
            await self._filled.wait()


@dataclass(frozen=True, slots=True)
class PendingStart:
    """A `start` whose prompt frames are being decoded."""

    work: asyncio.Task[None]
    message: Start
    files: tuple[bytes, ...]
    depth: DepthFile | None


class Peer:
    """A client as the gateway sees it; the socket behind it belongs to `http` or `zeromq`."""

    def __init__(
        self,
        connection: Connection,
        abort: Callable[[], None],
        heard: Callable[[], float] = lambda: -math.inf,
        link: Link = WEBSOCKET,
    ) -> None:
        self.connection = connection
        self.link = link
        self.address: str | None = None  # that it connected from
        self._heard = heard
        self.outbox = Outbox()
        self.outbox.credit = 0 if link.by_credit else None
        self._streaming_ms = math.inf  # since when it could be sent frames
        self._reminded = False
        self.budget = WorkBudget()
        self.session: PlayerSession | None = None
        self.transport: Transport = link.transport
        self.codec: Codec = "jpeg"
        self.image_codec: Codec = "jpeg"  # of frames that do not travel as video
        self.codecs: tuple[str, ...] = ()
        self.wants_depth = False
        self.upload = PromptUpload()
        self.rtc: RtcConnection | None = None
        self.negotiation: asyncio.Task[None] | None = None
        self.rtc_open = False
        self.abort = abort
        self.sent_frames = 0
        self.newest_sent = -1  # number of a frame
        self.on_sent: Callable[[str, int], None] = lambda transport, skipped: None
        self._dropped: int | None = None  # frames, as the newest header says
        self.answered = -1  # sequence of the newest input that a shown frame answered
        self.offers = 0
        self.greeted = False
        self.away = False  # a player who is silent; others may know before the connection ends
        self.writing_since_ms: float | None = None
        self.closing_since_ms: float | None = None
        self.starting: PendingStart | None = None
        self.postponed: Start | None = None  # until there is a seat
        self.requested_ms: float | None = None  # when a spectator asked for the controls
        self.rights = OPEN  # what its token lets it be
        self.name = ""  # as the client calls itself
        self.vsync = VsyncAligner()
        self.request_keyframe: Callable[[], None] = lambda: None
        self._gate = KeyframeGate()
        self._message_rate: MessageRate | None = None
        self._headers: OrderedDict[int, FrameHeader] = OrderedDict()

    @property
    def plays(self) -> bool:
        """Whether the client has a seat, not only a view."""
        return self.connection.role != "spectator"

    @property
    def sends_large(self) -> bool:
        """Whether its messages may be large: those of players, and what one sent before it left."""
        connection = self.connection
        return connection.phase is Phase.STREAMING and (self.plays or connection.demoted)

    def choose_codec(self, hello: Hello) -> None:
        """Take the first transport of `hello` that has a codec in common, and its codec.

        Raises BridgeError unsupported.
        """
        offered = self.link.codecs
        for transport in hello.transports:
            transport = cast(Transport, transport)
            codec = _first_common(offered.get(transport, ()), hello.codecs, self.link)
            if codec is not None:
                self.transport, self.codecs = transport, hello.codecs
                self.codec = codec
                if transport == self.link.transport:
                    self.image_codec = codec
                return
        ways = (f"{transport} with {' or '.join(codecs)}" for transport, codecs in offered.items())
        raise BridgeError(
            "unsupported",
            "client and server have no way to send frames in common",
            ", or ".join(ways),
            f"{', '.join(hello.transports)} with {', '.join(hello.codecs)}"[:200],
            f"Offer `{self.link.transport}` and `jpeg`, which every server has.",
            "hello.transports",
        )

    # --- as a viewer of a session -------------------------------------------------------------

    @property
    def wants(self) -> Codec | None:
        """The codec of the frames that can be sent now, None if none can."""
        if self.closing_since_ms is not None:
            return None
        if self.transport != "webrtc":
            return self.image_codec
        return self.rtc.codec if self.rtc is not None and self.rtc_open else None

    @property
    def sends_images(self) -> bool:
        """Whether frames travel as single images, not as video."""
        return self.transport != "webrtc" and self.image_codec != "h264"

    def show_image(
        self,
        header: FrameHeader,
        image: bytes,
        codec: Codec,
        depth: tuple[bytes, float] | None = None,
    ) -> None:
        """Send a frame by WebSocket or ZeroMQ, instead of one that still waits."""
        plane, scale = depth if depth is not None and self.wants_depth else (None, None)
        self.outbox.put_frame(Frame(self._localised(header), image, codec, plane, scale))

    def show_packet(self, header: FrameHeader, packet: VideoPacket, layer: str) -> None:
        """Send a frame of video, if the client can decode it."""
        if self.transport == "webrtc":
            assert self.rtc is not None
            self.rtc.push(packet, self._localised(header), layer)
        elif not self._gate.admits(packet.is_keyframe, layer):
            self.outbox.dropped += 1
            self.request_keyframe()
        elif not self.outbox.put_video(Frame(self._localised(header), bytes(packet), "h264")):
            self._gate.lose()

    def stream_video(self, limits: BitrateLimits) -> None:
        """Send H.264 in messages, as many frames as the client grants, at its network's rate."""
        self._message_rate = MessageRate(limits, now_ms())
        self.outbox.credit = 0

    def grant(self, frames: int) -> None:
        """Take the client's credit, which acknowledges what it was sent before."""
        self.outbox.grant(frames)
        if self._message_rate is not None:
            self._message_rate.acknowledged(frames, now_ms())

    def congested(self, now: float) -> bool:
        """Return whether a frame that is encoded now would wait for the network or the client."""
        late = self._message_rate is not None and self.outbox.frames_wait
        return late or (self.rate is not None and self.rate.congested(now))

    @property
    def rate(self) -> RateController | None:
        """What the client's network carries, None if that is not known."""
        if self.transport != "webrtc":
            return self._message_rate
        return self.rtc.rate if self.rtc is not None and self.rtc_open else None

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

    async def next_message(self) -> ServerMessage | CloseRequest:
        """Return what to write to the socket next. A frame is stamped at the last moment."""
        message = await self.outbox.take()
        if isinstance(message, CloseRequest):
            return message
        if isinstance(message, Frame):
            dropped = message.header.dropped + self.outbox.dropped
            header = message.header.replace(t_sent=now_ms(), dropped=dropped)
            self.remember(header)
            if self._message_rate is not None and message.image is not None:
                self._message_rate.sent(header.frame, len(message.image), now_ms())
            message = message.replace(header=header)
        return message

    def silent_ms(self, now: float) -> float:
        """Return for how long nothing has come from this client."""
        return now - max(self.connection.heard_ms, self._heard())

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

    def lacks_credit(self, patience_ms: float, now: float) -> bool:
        """Return, once, whether a client waits for frames that it never gave credit for."""
        outbox, streams = self.outbox, self.connection.phase is Phase.STREAMING
        if outbox.credit is None or outbox.granted or self._reminded or not streams:
            return False
        self._streaming_ms = min(self._streaming_ms, now)
        self._reminded = now - self._streaming_ms > patience_ms
        return self._reminded

    # --- reports about frames ---------------------------------------------------------------

    def remember(self, header: FrameHeader) -> None:
        """Keep the header of a frame that was sent until its report arrives or it is too old."""
        self.sent_frames += 1
        self.newest_sent = header.frame
        before = header.dropped if self._dropped is None else self._dropped
        self.on_sent(self.transport, header.dropped - before)
        self._dropped = header.dropped
        self._headers[header.frame] = header
        if len(self._headers) > REMEMBERED_FRAMES:
            self._headers.popitem(last=False)

    def recall(self, frame: int) -> FrameHeader | None:
        """Return and forget the header of a frame that was sent."""
        return self._headers.pop(frame, None)


def _first_common(ours: Sequence[Codec], theirs: Sequence[str], link: Link) -> Codec | None:
    """Return our best codec that the client has, or its best one that we have."""
    if link.client_ranks:
        return next((cast(Codec, codec) for codec in theirs if codec in ours), None)
    return next((codec for codec in ours if codec in theirs), None)


def too_slow(got: str) -> BridgeError:
    return BridgeError(
        "client_too_slow",
        "the client does not keep up",
        "a client that reads what it receives",
        got,
        "Read all messages as they arrive; show only the newest frame.",
    )
