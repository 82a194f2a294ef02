"""The gateway without its sockets: clients on one side, the worker on the other, sessions between.

One event loop calls everything here. `app` moves bytes between WebSockets and `Peer`s,
`worker_link` between ZeroMQ and the methods that are named after what the worker says.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, Literal

from .clock import now_ms
from .config import GatewayConfig
from .errors import (
    BAD_MESSAGE,
    INTERNAL,
    NO_FREE_SEAT,
    SESSION_EXPIRED,
    UNAUTHORIZED,
    UNKNOWN_THEME,
    UNKNOWN_WORLD,
    WORKER_LOST,
    BridgeError,
)
from .metrics import Metrics, client_legs, server_legs
from .peer import Peer
from .protocol import (
    Answer,
    Bye,
    ClientMessage,
    CloseSession,
    Failed,
    FrameAck,
    FrameHeader,
    Hello,
    Input,
    Loading,
    Offer,
    Opened,
    OpenSession,
    Ping,
    Pong,
    RawFrame,
    Ready,
    SessionInput,
    SessionSnapshot,
    Shown,
    Start,
    StartSession,
    Stats,
    StatsRequest,
    Status,
    Welcome,
    WorkerStats,
    WorldSpec,
    i420_bytes,
)
from .rtc import RtcCallbacks, RtcConnection, choose_codec
from .seats import SeatBook
from .session import Conversation, Phase, PlayerSession, SessionBook
from .stream import Quality, Stream
from .worker_link import WorkerLink

log = logging.getLogger(__name__)

TICK_S: Final = 0.1
MAX_OFFERS: Final = 16  # per connection: each one costs a DTLS handshake
CLOSE_AFTER_MS: Final = 500.0


class Gateway:
    """Implements `WorkerEvents`; see there for the worker's side."""

    def __init__(self, config: GatewayConfig, server: str) -> None:
        self._config = config
        self._server = server
        self._link = WorkerLink(config.endpoint, self)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._quality = Quality(config.jpeg_quality, config.bitrate)
        self._peers: set[Peer] = set()
        self._waiting: dict[Peer, Hello] = {}  # greeted before the world was ready, oldest first
        self._sessions = SessionBook()
        self._streams: dict[str, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seats: SeatBook | None = None
        self._worker_stats: dict[str, Any] = {}
        self._lost_ms: float | None = None
        self.spec: WorldSpec | None = None
        self.status = Status("loading", "waiting for the worker", 0.0)
        self.metrics = Metrics()

    # --- life ---------------------------------------------------------------------------------

    def bind(self) -> str:
        """Listen for the worker; the endpoint as bound."""
        return self._link.bind()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._link.run(now_ms))
                tasks.create_task(self._tick_forever())
        finally:
            await self._close()

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(now_ms())

    async def _close(self) -> None:
        for stream in self._streams.values():
            await stream.close()
        connections = [peer.rtc for peer in self._peers if peer.rtc is not None]
        await asyncio.gather(*(rtc.close() for rtc in connections), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        self._pool.shutdown()
        self._link.close()

    def tick(self, now: float) -> None:
        """Everything that happens because time passes."""
        self._link.tick(now)
        for peer in list(self._peers):
            self._check(peer, now)
        if self._seats is not None:
            for session_id in self._seats.expired(now):
                session = self._sessions.get(session_id)
                if session is not None:
                    self._end_session(session)
        if self._lost_ms is not None and now - self._lost_ms > self._config.worker_grace_s * 1000:
            self._give_up()

    def _check(self, peer: Peer, now: float) -> None:
        if peer.closing_since_ms is not None:
            if now - peer.closing_since_ms > CLOSE_AFTER_MS:
                peer.abort()
            return
        error = peer.overdue(self._config.stall_s * 1000, now)
        if error is not None:
            self._fail(peer, error)

    def _give_up(self) -> None:
        self._lost_ms = None
        seconds = self._config.worker_grace_s
        error = BridgeError(
            WORKER_LOST,
            "the world stopped and did not come back",
            f"a worker again within {seconds:g} s",
            "none",
            "Look at the server's log, then connect again.",
        )
        for peer in list(self._peers):
            self._fail(peer, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- clients ------------------------------------------------------------------------------

    def connect(self, abort: Callable[[], None]) -> Peer:
        """A client connected; `abort` cuts its connection without waiting for anything."""
        conversation = Conversation(
            now_ms(), self._config.hello_s * 1000, self._config.silence_s * 1000
        )
        peer = Peer(conversation, abort)
        self._peers.add(peer)
        if len(self._peers) > self._config.max_clients:
            most = f"at most {self._config.max_clients} connections"
            got = f"{len(self._peers)}"
            self._fail(peer, BridgeError(NO_FREE_SEAT, "the server is full", most, got, "Wait."))
        return peer

    def disconnect(self, peer: Peer) -> None:
        """The connection of a client ended, whoever ended it. May be called twice."""
        if peer not in self._peers:
            return
        self._peers.discard(peer)
        self._waiting.pop(peer, None)
        self._detach(peer, leaves=True)
        if peer.rtc is not None:
            self._spawn(peer.rtc.close())
            peer.rtc = None

    def receive(self, peer: Peer, data: bytes) -> None:
        """Bytes from a client, by whichever way they came."""
        if peer.conversation.phase is Phase.CLOSED:
            return
        try:
            message = peer.conversation.receive(data, now_ms())
            self._handle(peer, message)
        except BridgeError as error:
            self._fail(peer, error)
        except Exception:  # our bug must end this client's connection, not the server
            log.exception("a message of a client was not handled")
            self._fail(
                peer,
                BridgeError(INTERNAL, "the server failed on this message", "", "", "Reconnect."),
            )

    def _fail(self, peer: Peer, error: BridgeError, fatal: bool = True) -> None:
        if peer.closing_since_ms is None:
            self.metrics.errors.labels(error.code).inc()
            log.info("told a client: %s", error)
            peer.fail(error, fatal)

    def _handle(self, peer: Peer, message: ClientMessage) -> None:
        match message:
            case Input():
                self._steer(peer, message)
            case Ping():
                peer.send(Pong(message.time, now_ms()))
            case Shown():
                self._shown(peer, message)
            case Hello():
                self._greet(peer, message)
            case Start():
                self._start(peer, message)
            case Offer():
                self._offer(peer, message)
            case StatsRequest():
                peer.send(Stats(self._stats(peer)))
            case Bye():
                self._leave(peer)

    # --- hello --------------------------------------------------------------------------------

    def _greet(self, peer: Peer, hello: Hello) -> None:
        if not self._knows(hello.token):
            got = "none" if hello.token is None else "another one"
            raise BridgeError(
                UNAUTHORIZED, "this server wants a token", "its token", got, "Ask its owner."
            )
        peer.video = hello.video
        self.metrics.clients.labels(hello.role).inc()
        if self.spec is None:
            self._waiting[peer] = hello
            peer.send(self.status)
        else:
            self._admit(peer, hello, self.spec)

    def _knows(self, token: str | None) -> bool:
        if self._config.token is None:
            return True
        return hmac.compare_digest((token or "").encode(), self._config.token.encode())

    def _admit(self, peer: Peer, hello: Hello, spec: WorldSpec) -> None:
        if hello.world not in (None, spec.name):
            raise BridgeError(
                UNKNOWN_WORLD,
                "this server has another world",
                repr(spec.name),
                repr(hello.world),
                "Leave `world` out to take what the server has.",
            )
        _check_theme(hello.theme, spec)
        assert self._seats is not None
        if hello.role == "spectator":
            session, resume = self._sessions.newest(), ""
        else:
            session = self._take_over(hello.resume) if hello.resume else self._sit_down(hello)
            resume = session.resume
        peer.session = session
        peer.conversation.welcomed()
        name = session.id if session is not None else ""
        peer.send(Welcome(self._server, name, resume, hello.role, spec, self._seats.count()))
        if session is not None:
            self._stream(session, spec).viewers.add(peer)
        peer.send(self._status_for(session))

    def _sit_down(self, hello: Hello) -> PlayerSession:
        assert self._seats is not None
        session = self._sessions.create(
            hello.theme if hello.theme is not None else self._config.theme,
            hello.seed if hello.seed is not None else self._config.seed,
        )
        try:
            self._seats.take(session.id)
        except BridgeError:
            self._sessions.remove(session)
            raise
        self.metrics.sessions.set(len(self._sessions))
        self._open(session)
        self._place_spectators()
        return session

    def _take_over(self, token: str) -> PlayerSession:
        """The session of a resume token; whoever holds it now loses it."""
        assert self._seats is not None
        session = self._sessions.resume(token)
        for peer in [p for p in self._peers if p.session is session and _plays(p)]:
            self._detach(peer, leaves=False)
            self._fail(
                peer,
                BridgeError(
                    SESSION_EXPIRED,
                    "another connection took this session over",
                    "one connection per player",
                    "a second hello with the resume token",
                    "Close this one.",
                ),
            )
        self._seats.come_back(session.id)
        session.latch.attach()
        return session

    def _stream(self, session: PlayerSession, spec: WorldSpec) -> Stream:
        stream = self._streams.get(session.id)
        if stream is None:
            stream = Stream(spec, self._quality, self._pool, self._acknowledge)
            self._streams[session.id] = stream
        return stream

    def _place_spectators(self) -> None:
        """Spectators who have nothing to watch join the newest player."""
        session = self._sessions.newest()
        if session is None or self.spec is None:
            return
        for peer in self._peers:
            streaming = peer.conversation.phase is Phase.STREAMING
            if streaming and not _plays(peer) and peer.session is None:
                peer.session = session
                self._stream(session, self.spec).viewers.add(peer)
                peer.send(self._status_for(session))

    # --- goodbye ------------------------------------------------------------------------------

    def _leave(self, peer: Peer) -> None:
        """A client said bye: nothing is kept for it."""
        session = peer.session
        if session is not None and _plays(peer):
            self._end_session(session)
        peer.close("bye")

    def _detach(self, peer: Peer, leaves: bool) -> None:
        """Nothing more goes to this client; if it `leaves`, its seat is kept for a while."""
        session, peer.session = peer.session, None
        if peer.conversation.phase is not Phase.GREETING:
            self._uncount(peer)
        if session is None:
            return
        stream = self._streams.get(session.id)
        if stream is not None:
            stream.viewers.discard(peer)
        if leaves and _plays(peer) and self._seats is not None:
            self._seats.leave(session.id, now_ms())

    def _uncount(self, peer: Peer) -> None:
        if not peer.counted_out:
            peer.counted_out = True
            self.metrics.clients.labels(peer.conversation.role).dec()

    def _end_session(self, session: PlayerSession) -> None:
        """Free the seat and forget the world. Its player, if connected, has to be told before."""
        self._link.send(CloseSession(session.id))
        self._sessions.remove(session)
        if self._seats is not None:
            self._seats.free(session.id)
        for peer in self._peers:
            if peer.session is session:
                peer.session = None
                if not _plays(peer):
                    peer.send(self._status_for(None))
        stream = self._streams.pop(session.id, None)
        if stream is not None:
            self._spawn(stream.close())
        self.metrics.sessions.set(len(self._sessions))
        self._place_spectators()

    # --- playing ------------------------------------------------------------------------------

    def _steer(self, peer: Peer, message: Input) -> None:
        session, now = peer.session, now_ms()
        if session is None:
            return
        newest = session.latch.offer(message.snapshots, now)
        if newest is not None and session.opened:
            self._link.send(SessionInput(session.id, newest, now))

    def _start(self, peer: Peer, message: Start) -> None:
        session = peer.session
        if session is None or self.spec is None:
            return
        try:
            _check_theme(message.theme, self.spec)
        except BridgeError as error:
            self._fail(peer, error, fatal=False)
            return
        session.theme = message.theme if message.theme is not None else session.theme
        session.seed = message.seed if message.seed is not None else session.seed
        session.snapshot = None  # of a world that was left
        if session.opened:
            self._link.send(StartSession(session.id, message.theme, message.seed))

    def _shown(self, peer: Peer, message: Shown) -> None:
        header = peer.recall(message.frame)
        # later frames that answer the same input would count the player's idleness as latency
        if header is None or header.input_seq <= peer.answered_seq:
            return
        peer.answered_seq = header.input_seq
        self.metrics.observe({**server_legs(header), **client_legs(header, message)})

    def _stats(self, peer: Peer) -> dict[str, Any]:
        seats = self._seats.count() if self._seats is not None else None
        stream = self._streams.get(peer.session.id) if peer.session is not None else None
        return {
            "clients": len(self._peers),
            "sessions": len(self._sessions),
            "seats": {"used": seats.used, "total": seats.total} if seats is not None else None,
            "frames_sent": peer.sent_frames,
            "frames_dropped": peer.outbox.dropped + (stream.dropped if stream is not None else 0),
            "worker": self._worker_stats,
        }

    # --- WebRTC -------------------------------------------------------------------------------

    def _offer(self, peer: Peer, message: Offer) -> None:
        peer.offers += 1
        if peer.offers > MAX_OFFERS:
            got = f"{peer.offers}"
            raise BridgeError(
                BAD_MESSAGE, "too many offers", f"at most {MAX_OFFERS}", got, "Connect anew."
            )
        self._spawn(self._negotiate(peer, message.sdp))

    async def _negotiate(self, peer: Peer, sdp: str) -> None:
        """Answer an offer. A client whose video fails may go on without: the error is not fatal."""
        old, peer.rtc, peer.rtc_open = peer.rtc, None, False
        if old is not None:
            await old.close()
        try:
            rtc = RtcConnection(choose_codec(sdp), self._rtc_callbacks(peer))
            peer.rtc = rtc
            answer = await rtc.answer(sdp)
        except BridgeError as error:
            self._fail(peer, error, fatal=False)
            return
        if peer.rtc is rtc and peer in self._peers:
            peer.send(Answer(answer))
        else:  # replaced or gone in the meantime
            await rtc.close()

    def _rtc_callbacks(self, peer: Peer) -> RtcCallbacks:
        def keyframe() -> None:
            stream = self._streams.get(peer.session.id) if peer.session is not None else None
            if stream is not None and peer.rtc is not None:
                stream.request_keyframe(peer.rtc.codec)

        def connected() -> None:
            peer.rtc_open = True
            keyframe()

        def closed() -> None:
            peer.rtc_open = False

        def message(data: bytes) -> None:
            self.receive(peer, data)

        return RtcCallbacks(message, keyframe, connected, closed, peer.remember)

    # --- the worker ---------------------------------------------------------------------------

    def worker_loading(self, message: Loading) -> None:
        state: Literal["loading", "reconnecting"] = (
            "loading" if self.spec is None else "reconnecting"
        )
        self._close_all()
        self._announce(Status(state, message.stage, message.progress))

    def worker_ready(self, message: Ready) -> None:
        log.info("the worker is ready with the world %s", message.spec.name)
        self._lost_ms = None
        self.metrics.worker_up.set(1)
        self._close_all()
        self._take_spec(message)
        self.status = Status("playing")
        for session in self._sessions:
            self._open(session)
        waiting, self._waiting = self._waiting, {}
        for peer, hello in waiting.items():
            try:
                self._admit(peer, hello, message.spec)
            except BridgeError as error:
                self._fail(peer, error)

    def _take_spec(self, message: Ready) -> None:
        most = self._config.seats
        total = message.seats if most is None else min(most, message.seats)
        if self._seats is None:
            self._seats = SeatBook(total, self._config.grace_s * 1000)
        self._seats.total = total
        changed = self.spec is not None and self.spec != message.spec
        self.spec = message.spec
        if changed:  # another picture size needs other encoders
            for session_id, old in list(self._streams.items()):
                self._streams[session_id] = Stream(
                    message.spec, self._quality, self._pool, self._acknowledge
                )
                self._streams[session_id].viewers |= old.viewers
                self._spawn(old.close())

    def worker_lost(self, why: str) -> None:
        log.warning("worker lost: %s", why)
        self.metrics.worker_up.set(0)
        self._lost_ms = now_ms()
        self._announce(Status("reconnecting" if self.spec is not None else "loading", why))

    def worker_revived(self) -> None:
        log.warning("the worker answers again")
        self._lost_ms = None
        self.metrics.worker_up.set(1)
        self.status = Status("playing")
        for peer in self._peers:
            if peer.conversation.phase is Phase.STREAMING:
                peer.send(self._status_for(peer.session))

    def worker_stats(self, message: WorkerStats) -> None:
        self._worker_stats = dict(message.values)

    def session_opened(self, message: Opened) -> None:
        session = self._sessions.get(message.session)
        if session is not None:
            session.opened, session.restoring = True, False
            self._tell(session, self._status_for(session))

    def session_saved(self, message: SessionSnapshot) -> None:
        session = self._sessions.get(message.session)
        if session is not None:
            session.snapshot = bytes(message.payload)

    def session_failed(self, message: Failed) -> None:
        session = self._sessions.get(message.session)
        if session is None:
            return
        session.opened = False
        if session.restoring:  # say, another world was loaded: then begin anew
            log.warning("session %s cannot be restored: %s", session.id, message.message)
            session.snapshot = None
            self._open(session)
            return
        error = BridgeError(
            message.code, message.message, message.expected, message.got, message.remedy
        )
        for peer in [p for p in self._peers if p.session is session and _plays(p)]:
            self._fail(peer, error)
        self._end_session(session)

    def frame_arrived(self, message: RawFrame) -> None:
        assert self.spec is not None
        expected = i420_bytes(self.spec.width, self.spec.height)
        stream = self._streams.get(message.session)
        if stream is None or len(message.payload) != expected:
            if stream is not None:
                log.warning("a frame has %d bytes, expected %d", len(message.payload), expected)
            self.metrics.frames.labels("unwanted").inc()
            self._acknowledge(message)
            return
        self.metrics.frames.labels("taken").inc()
        stream.offer(_stamped(message, now_ms()))

    def _acknowledge(self, frame: RawFrame) -> None:
        self._link.send(FrameAck(frame.session, frame.header.frame))

    def _open(self, session: PlayerSession) -> None:
        session.opened = False
        session.restoring = session.snapshot is not None
        self._link.send(OpenSession(session.id, session.theme, session.seed, session.snapshot))

    def _close_all(self) -> None:
        for session in self._sessions:
            session.opened = False

    # --- telling ------------------------------------------------------------------------------

    def _announce(self, status: Status) -> None:
        """The worker's state changed for everyone."""
        self.status = status
        for peer in self._peers:
            if peer.conversation.phase in (Phase.WAITING, Phase.STREAMING):
                peer.send(status)

    def _tell(self, session: PlayerSession, status: Status) -> None:
        for peer in self._peers:
            if peer.session is session:
                peer.send(status)

    def _status_for(self, session: PlayerSession | None) -> Status:
        if self.status.state != "playing":
            return self.status
        if session is None:
            return Status("loading", "waiting for a player")
        if not session.opened:
            return Status("loading", "opening the world")
        return Status("playing")

    def health(self) -> dict[str, Any]:
        seats = self._seats.count() if self._seats is not None else None
        return {
            "ready": self.status.state == "playing",
            "state": self.status.state,
            "detail": self.status.detail,
            "progress": self.status.progress,
            "world": self.spec.name if self.spec is not None else None,
            "clients": len(self._peers),
            "sessions": len(self._sessions),
            "seats": {"used": seats.used, "total": seats.total} if seats is not None else None,
        }


def _plays(peer: Peer) -> bool:
    return peer.conversation.role == "player"


def _check_theme(theme: str | None, spec: WorldSpec) -> None:
    if theme is not None and theme not in spec.themes:
        raise BridgeError(
            UNKNOWN_THEME,
            "this world has no such theme",
            "one of " + ", ".join(spec.themes),
            repr(theme),
            "Choose one of the themes in `welcome`.",
        )


def _stamped(frame: RawFrame, now: float) -> RawFrame:
    header: FrameHeader = replace(frame.header, t_gateway=now)
    return replace(frame, header=header)
