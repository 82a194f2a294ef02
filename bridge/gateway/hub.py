"""The gateway without its sockets: connected clients, and what each of them may do and hears.

One event loop calls everything here. `app` moves bytes between WebSockets and `Peer`s; the worlds
that clients play or watch are `worlds`' business.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.errors import (
    BAD_MESSAGE,
    BAD_PICTURE,
    INTERNAL,
    NO_FREE_SEAT,
    SESSION_EXPIRED,
    UNAUTHORIZED,
    WORKER_LOST,
    BridgeError,
)
from worldbridge.bridge.gateway.connection import Conversation, Phase, PlayerSession
from worldbridge.bridge.gateway.metrics import Metrics, client_legs, server_legs
from worldbridge.bridge.gateway.peer import Peer, PendingStart
from worldbridge.bridge.gateway.prompt_decoder import PromptDecoder
from worldbridge.bridge.gateway.sessions import SessionManager
from worldbridge.bridge.gateway.tasks import TaskSet
from worldbridge.bridge.protocol import (
    Answer,
    Bye,
    ClientMessage,
    FrameShown,
    Hello,
    Input,
    Offer,
    Ping,
    Pong,
    PromptFrames,
    Start,
    Stats,
    StatsRequest,
    Status,
    Welcome,
    WorldSpec,
)
from worldbridge.bridge.transports.webrtc import RtcCallbacks, RtcConnection, choose_codec
from worldbridge.clock import now_ms

log = logging.getLogger(__name__)

TICK_S: Final = 0.1
MAX_OFFERS: Final = 16  # per connection: each one costs a DTLS handshake
CLOSE_AFTER_MS: Final = 500.0  # how long a client may take to read why it is closed


class Gateway:
    """Implements `SessionObserver`. `pictures` start the worlds of players who send none.

    Raises OSError if they cannot be read.
    """

    def __init__(self, config: GatewayConfig, server: str) -> None:
        self._config = config
        self._server = server
        self._peers: set[Peer] = set()
        self._waiting: dict[Peer, Hello] = {}  # greeted before the world was ready, oldest first
        self._tasks = TaskSet()
        self._decoder = PromptDecoder()
        self._own: PromptFrames | None = None  # `pictures`, decoded when they were wanted first
        self.pictures = tuple(Path(name).read_bytes() for name in config.pictures)
        self.metrics = Metrics()
        self.worlds = SessionManager(config, self, self.metrics)

    # --- life ---------------------------------------------------------------------------------

    def bind(self) -> str:
        """Listen for the worker; the endpoint as bound. Raises zmq.ZMQError."""
        return self.worlds.link.bind()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.worlds.link.run(now_ms))
                tasks.create_task(self._tick_forever())
        finally:
            await self._close()

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(now_ms())

    async def _close(self) -> None:
        connections = [peer.rtc for peer in self._peers if peer.rtc is not None]
        await asyncio.gather(*(rtc.close() for rtc in connections), return_exceptions=True)
        await self._tasks.cancel()
        self._decoder.close()
        await self.worlds.close()

    def tick(self, now: float) -> None:
        """Everything that happens because time passes."""
        self.worlds.tick(now)
        for peer in list(self._peers):
            self._check(peer, now)
        lost = self.worlds.lost_ms
        if lost is not None and now - lost > self._config.worker_grace_s * 1000:
            self.worlds.lost_ms = None
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

    # --- connections --------------------------------------------------------------------------

    def connect(
        self, abort: Callable[[], None], heard: Callable[[], float] = lambda: -math.inf
    ) -> Peer:
        """A client connected; `abort` cuts its connection without waiting for anything, `heard`
        tells when its newest bytes came (server ms)."""
        config = self._config
        conversation = Conversation(now_ms(), config.hello_s * 1000, config.silence_s * 1000)
        peer = Peer(conversation, abort, heard)
        self._peers.add(peer)
        if len(self._peers) > config.max_clients:
            most, got = f"at most {config.max_clients} connections", f"{len(self._peers)}"
            error = BridgeError(NO_FREE_SEAT, "the server is full", most, got, "Try again later.")
            self._fail(peer, error)
        return peer

    def disconnect(self, peer: Peer) -> None:
        """The connection of a client ended, whoever ended it. May be called twice."""
        if peer not in self._peers:
            return
        self._peers.discard(peer)
        self._waiting.pop(peer, None)
        self._forget_pictures(peer)
        session = self._detach(peer)
        if session is not None and peer.plays:
            self.worlds.leave(session)
        if peer.greeted:
            self.metrics.clients.labels(peer.conversation.role).dec()
        if peer.rtc is not None:
            self._tasks.spawn(peer.rtc.close())
            peer.rtc = None

    def receive(self, peer: Peer, data: bytes) -> None:
        """Bytes from a client, by whichever way they came."""
        if peer.conversation.phase is Phase.CLOSED:
            return
        try:
            self._handle(peer, peer.conversation.receive(data, now_ms()))
        except BridgeError as error:
            # whoever plays already plays on
            harmless = error.code == BAD_PICTURE and peer.conversation.phase is Phase.STREAMING
            self._fail(peer, error, fatal=not harmless)
        except Exception:  # our bug must end this client's connection, not the server
            log.exception("a message of a client was not handled")
            text = "the server failed on this message"
            self._fail(peer, BridgeError(INTERNAL, text, "", "", "Connect again."))

    def _fail(self, peer: Peer, error: BridgeError, fatal: bool = True) -> None:
        if peer.closing_since_ms is None:
            self.metrics.errors.labels(error.code).inc()
            log.info("told a client: %s", error)
            peer.fail(error, fatal)

    def _handle(self, peer: Peer, message: ClientMessage) -> None:
        match message:
            case Input():
                if peer.session is not None:
                    self.worlds.steer(peer.session, message)
            case Ping():
                peer.send(Pong(message.time, now_ms()))
            case FrameShown():
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

    # --- hello and goodbye --------------------------------------------------------------------

    def _greet(self, peer: Peer, hello: Hello) -> None:
        if not self._knows(hello.token):
            got = "none" if hello.token is None else "another one"
            raise BridgeError(
                UNAUTHORIZED, "this server wants a token", "its token", got, "Ask its owner."
            )
        peer.video = hello.video
        peer.greeted = True
        self.metrics.clients.labels(hello.role).inc()
        if self.worlds.spec is None:
            self._waiting[peer] = hello
            peer.send(self.worlds.status)
        else:
            self._admit(peer, hello)

    def _knows(self, token: str | None) -> bool:
        if self._config.token is None:
            return True
        return hmac.compare_digest((token or "").encode(), self._config.token.encode())

    def _admit(self, peer: Peer, hello: Hello) -> None:
        """Give a greeted client its session. Raises BridgeError."""
        spec = self.worlds.check(hello.world, hello.theme)
        if hello.role == "spectator":
            self._enter(peer, spec, self.worlds.sessions.newest())
        elif hello.resume is not None:
            self._enter(peer, spec, self._take_over(hello.resume))
        elif pictures := self._pictures_for(hello, spec):
            self.worlds.check_pictures(len(pictures))
            peer.send(Status("loading", "reading the pictures"))
            work = self._spawn_for(peer, partial(self._begin, peer, hello, pictures))
            peer.starting = PendingStart(work)
        else:
            self._enter(peer, spec, self.worlds.begin(hello.theme, hello.seed))

    def _pictures_for(self, hello: Hello, spec: WorldSpec) -> tuple[bytes, ...]:
        """What the player asked for, else what this server begins with if its world can."""
        if hello.pictures is not None:
            return hello.pictures
        return self.pictures if len(self.pictures) <= spec.takes_pictures else ()

    async def _begin(self, peer: Peer, hello: Hello, files: tuple[bytes, ...]) -> None:
        """A player's world that begins with pictures. Raises BridgeError."""
        pictures = await self._decode(files)
        if peer.conversation.phase is not Phase.WAITING:
            return  # it left in the meantime
        peer.starting = None
        spec = self.worlds.check(hello.world, hello.theme)
        self._enter(peer, spec, self.worlds.begin(hello.theme, hello.seed, pictures))

    async def _decode(self, files: tuple[bytes, ...]) -> PromptFrames:
        spec, known = self.worlds.spec, self._own
        assert spec is not None
        own = files is self.pictures
        if own and known is not None and (known.height, known.width) == (spec.height, spec.width):
            return known
        pictures = await self._decoder.decode(files, spec)
        if own:
            self._own = pictures
        return pictures

    def _spawn_for(
        self, peer: Peer, work: Callable[[], Coroutine[Any, Any, None]], fatal: bool = True
    ) -> asyncio.Task[None]:
        """Work for one client; what it raises is told to that client."""

        async def guarded() -> None:
            try:
                await work()
            except BridgeError as error:
                self._fail(peer, error, fatal)
            except Exception:  # as in `receive`
                log.exception("pictures of a client were not handled")
                text = "the server failed on these pictures"
                self._fail(peer, BridgeError(INTERNAL, text, "", "", "Connect again."))

        return self._tasks.spawn(guarded())

    def _enter(self, peer: Peer, spec: WorldSpec, session: PlayerSession | None) -> None:
        self._attach(peer, session)
        peer.conversation.welcomed()
        peer.send(self._welcome(peer, spec))
        peer.send(self.worlds.status_for(session))

    def _welcome(self, peer: Peer, spec: WorldSpec) -> Welcome:
        session = peer.session
        return Welcome(
            server=self._server,
            session=session.id if session is not None else "",
            resume=session.resume if session is not None and peer.plays else "",
            role=peer.conversation.role,
            spec=spec,
            seats=self.worlds.seats(),
        )

    def _take_over(self, token: str) -> PlayerSession:
        """The session of a resume token; whoever holds it now loses it."""
        session = self.worlds.resume(token)
        error = BridgeError(
            SESSION_EXPIRED,
            "another connection took this session over",
            "one connection per player",
            "a second hello with the resume token",
            "Close this one.",
        )
        for peer in self._players_of(session):
            self._detach(peer)
            self._fail(peer, error)
        return session

    def _attach(self, peer: Peer, session: PlayerSession | None) -> None:
        peer.session = session
        if session is not None:
            self.worlds.stream(session).viewers.add(peer)

    def _detach(self, peer: Peer) -> PlayerSession | None:
        """Nothing more of its session goes to this client; the session it had."""
        session, peer.session = peer.session, None
        if session is not None:
            self.worlds.stream(session).viewers.discard(peer)
        return session

    def _leave(self, peer: Peer) -> None:
        """A client said bye: nothing is kept for it."""
        session = self._detach(peer)
        if session is not None and peer.plays:
            self.worlds.end(session)
        peer.close("bye")

    def _players_of(self, session: PlayerSession) -> list[Peer]:
        return [peer for peer in self._peers if peer.session is session and peer.plays]

    # --- requests -----------------------------------------------------------------------------

    def _start(self, peer: Peer, message: Start) -> None:
        session = peer.session
        if session is None:
            return
        try:
            self.worlds.check(None, message.theme)
            self.worlds.check_pictures(len(message.pictures or ()))
        except BridgeError as error:
            self._fail(peer, error, fatal=False)
            return
        message = self._after(peer, message)
        if not message.pictures:
            self.worlds.start(session, message)
            return
        self.tell(session, Status("loading", "reading the pictures"))
        work = partial(self._start_anew, peer, session, message)
        peer.starting = PendingStart(self._spawn_for(peer, work, fatal=False), message)

    def _after(self, peer: Peer, message: Start) -> Start:
        """The newer of two starts, with what it leaves out taken from the one not done yet."""
        before = peer.starting.start if peer.starting is not None else None
        self._forget_pictures(peer)
        if before is None:
            return message
        return replace(
            message,
            theme=message.theme if message.theme is not None else before.theme,
            seed=message.seed if message.seed is not None else before.seed,
            pictures=message.pictures if message.pictures is not None else before.pictures,
        )

    async def _start_anew(self, peer: Peer, session: PlayerSession, message: Start) -> None:
        """Raises BridgeError; then the world that was to be left goes on."""
        assert message.pictures
        try:
            pictures = await self._decode(message.pictures)
            if peer.session is session:
                self.worlds.start(session, message, pictures)
        except BridgeError:
            self._started(peer, session)
            raise
        self._started(peer, session)

    def _started(self, peer: Peer, session: PlayerSession) -> None:
        peer.starting = None
        self.tell(session, self.worlds.status_for(session))

    def _forget_pictures(self, peer: Peer) -> None:
        if peer.starting is not None:
            peer.starting.work.cancel()
            peer.starting = None

    def _shown(self, peer: Peer, message: FrameShown) -> None:
        if peer.plays and peer.session is not None and message.refresh is not None:
            shift = peer.phase.seen(message.shown - message.received, message.refresh)
            if shift is not None:
                self.worlds.shift(peer.session, shift)
        header = peer.recall(message.frame)
        # later frames that answer the same input would count the player's idleness as latency
        if header is None or header.input_seq <= peer.answered_seq:
            return
        peer.answered_seq = header.input_seq
        self.metrics.observe({**server_legs(header), **client_legs(header, message)})

    def _stats(self, peer: Peer) -> dict[str, Any]:
        dropped = peer.outbox.dropped
        if peer.session is not None:
            dropped += self.worlds.stream(peer.session).dropped
        return {
            **self._counts(),
            "frames_sent": peer.sent_frames,
            "frames_dropped": dropped,
            "worker": self.worlds.worker_values,
        }

    def _counts(self) -> dict[str, Any]:
        seats = self.worlds.seats()
        return {
            "clients": len(self._peers),
            "sessions": len(self.worlds.sessions),
            "seats": {"used": seats.used, "total": seats.total},
        }

    def health(self) -> dict[str, Any]:
        status, spec = self.worlds.status, self.worlds.spec
        return {
            "ready": status.state == "playing",
            "state": status.state,
            "detail": status.detail,
            "progress": status.progress,
            "world": spec.name if spec is not None else None,
            "mode": self.worlds.mode or None,
            "pictures": len(self.pictures),
            **self._counts(),
        }

    # --- WebRTC -------------------------------------------------------------------------------

    def _offer(self, peer: Peer, message: Offer) -> None:
        peer.offers += 1
        if peer.offers > MAX_OFFERS:
            most, got = f"at most {MAX_OFFERS}", f"{peer.offers}"
            raise BridgeError(BAD_MESSAGE, "too many offers", most, got, "Connect anew.")
        self._tasks.spawn(self._negotiate(peer, message.sdp))

    async def _negotiate(self, peer: Peer, sdp: str) -> None:
        """Answer an offer. A client whose video fails may go on without: that is not fatal."""
        old, peer.rtc, peer.rtc_open = peer.rtc, None, False
        if old is not None:
            await old.close()
        try:
            rtc = peer.rtc = RtcConnection(choose_codec(sdp), self._rtc_callbacks(peer))
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
            if peer.session is not None and peer.rtc is not None:
                self.worlds.stream(peer.session).request_keyframe(peer.rtc.codec)

        def opened() -> None:
            peer.rtc_open = True
            keyframe()

        def closed() -> None:
            peer.rtc_open = False

        def message(data: bytes) -> None:
            self.receive(peer, data)

        return RtcCallbacks(message, keyframe, opened, closed, peer.remember)

    # --- what happens to the worlds (Audience) ------------------------------------------------

    def world_is_ready(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for peer, hello in waiting.items():
            try:
                self._admit(peer, hello)
            except BridgeError as error:
                self._fail(peer, error)

    def announce(self, status: Status) -> None:
        for peer in self._peers:
            if peer.conversation.phase in (Phase.WAITING, Phase.STREAMING):
                peer.send(status)

    def tell(self, session: PlayerSession, status: Status) -> None:
        for peer in self._peers:
            if peer.session is session:
                peer.send(status)

    def tell_all(self) -> None:
        for peer in self._peers:
            if peer.conversation.phase is Phase.STREAMING:
                peer.send(self.worlds.status_for(peer.session))

    def session_began(self) -> None:
        """Spectators who have nothing to watch join the newest player."""
        newest = self.worlds.sessions.newest()
        if newest is None:
            return
        for peer in self._peers:
            streaming = peer.conversation.phase is Phase.STREAMING
            if streaming and not peer.plays and peer.session is None:
                self._attach(peer, newest)
                peer.send(self.worlds.status_for(newest))

    def session_broke(self, session: PlayerSession, error: BridgeError) -> None:
        for peer in self._players_of(session):
            self._fail(peer, error)

    def session_ended(self, session: PlayerSession) -> None:
        for peer in self._peers:
            if peer.session is session:
                peer.session = None
                if not peer.plays:
                    peer.send(self.worlds.status_for(None))
        self.session_began()
