"""The gateway without its sockets: connected clients, and what each of them may do and receives.

One event loop calls everything here. `http` moves bytes between WebSockets and `Peer`s; the worlds
that clients play or watch belong to `sessions`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.connection import Connection, Phase
from worldbridge.bridge.gateway.latency import client_spans, server_spans
from worldbridge.bridge.gateway.limits import WORK_RATE
from worldbridge.bridge.gateway.metrics import Metrics
from worldbridge.bridge.gateway.network import bitrate_limits, ice_servers, rtc_settings
from worldbridge.bridge.gateway.peer import WEBSOCKET, Link, Peer
from worldbridge.bridge.gateway.players import PlayerSession
from worldbridge.bridge.gateway.sessions import SessionManager, TaskSet
from worldbridge.bridge.gateway.starts import Starter
from worldbridge.bridge.protocol import (
    Answer,
    BridgeError,
    Bye,
    ClientMessage,
    Credit,
    Event,
    FrameShown,
    HandOver,
    Hello,
    Input,
    Observe,
    Offer,
    Ping,
    Pong,
    PromptDepthPart,
    PromptFramePart,
    RequestControl,
    Role,
    Seat,
    Start,
    Stats,
    StatsRequest,
    Status,
    Welcome,
    WorldSpec,
)
from worldbridge.bridge.tokens import Authenticator, expired, network_of
from worldbridge.bridge.transports.webrtc import (
    RtcCallbacks,
    RtcConnection,
    choose_codec,
    filter_offer,
)
from worldbridge.clock import now_ms

log = logging.getLogger(__name__)

TICK_S: Final = 0.1
MAX_OFFERS: Final = 16  # per connection: each one costs a DTLS handshake
PAUSE_MS: Final = 1_000.0  # between two ticks: we did not run
EXCUSED_MS: Final = 2_000.0  # after it
CLOSE_AFTER_MS: Final = 500.0  # how long a client may take to read why it is closed


_NO_CREDIT: Final = BridgeError(
    "client_too_slow",
    "no frames can be sent to this client",
    f"a {Credit.__struct_config__.tag} after welcome",
    "none",
    "Send `credit` after welcome, and again for every frame that was taken.",
)


class Gateway:
    """Implements `SessionObserver` and `StartObserver`.

    `prompt_files` are what the worlds of players start from who send no prompt frames.

    Raises:
        OSError: they cannot be read.
    """

    def __init__(self, config: GatewayConfig, server: str) -> None:
        self._config = config
        self._server = server
        self._peers: set[Peer] = set()
        self._waiting: dict[Peer, Hello] = {}  # greeted before the world was ready, oldest first
        self._tasks = TaskSet()
        self._ticked_ms = math.inf
        self._judge_ms = -math.inf  # nobody is overdue before
        self.prompt_files = tuple(Path(name).read_bytes() for name in config.prompt_frames)
        self.metrics = Metrics(server)
        self.rtc_settings = rtc_settings(config)
        self.takes_cameras = config.whip == "on"
        self.worlds = SessionManager(config, self, self.metrics)
        self.metrics.follow_seats(self.worlds.seats)
        self._tokens = Authenticator(config.token, self.worlds.files.load_used())
        self._starter = Starter(self.worlds, self.prompt_files, self._tasks, self)

    # --- life ---------------------------------------------------------------------------------

    def bind(self) -> str:
        """Listen for the worker and return the endpoint as bound. Raises zmq.ZMQError."""
        return self.worlds.link.bind()

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.worlds.link.run(now_ms))
                tasks.create_task(self._tick_forever())
        finally:
            await self._close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or the gateway does."""
        return self._tasks.spawn(work)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick(now_ms())

    async def _close(self) -> None:
        connections = [peer.rtc for peer in self._peers if peer.rtc is not None]
        await asyncio.gather(*(rtc.close() for rtc in connections), return_exceptions=True)
        await self._tasks.cancel()
        self._starter.close()
        await self.worlds.close()

    def tick(self, now: float) -> None:
        """Do everything that happens because time passes."""
        if now - self._ticked_ms > PAUSE_MS:  # swap, a moved VM: what came meanwhile is unread
            self._judge_ms = now + EXCUSED_MS
            self.worlds.link.excuse(now)
        self.metrics.ticked(now - self._ticked_ms - TICK_S * 1000)
        self._ticked_ms = now
        try:
            self.worlds.tick(now)
        except Exception:  # our bug must not end the server; the next tick tries again
            log.exception("the sessions were not looked at")
        for peer in list(self._peers):
            with self._guarding(peer):
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
        if now < self._judge_ms:
            return
        error = peer.overdue(self._config.stall_s * 1000, now)
        late_s = time.time() - peer.rights.expires_s
        if late_s > 0:
            error = expired(late_s)
        if error is not None:
            self.fail(peer, error)
        elif peer.lacks_credit(self._config.silence_s * 1000, now):
            self.fail(peer, _NO_CREDIT, fatal=False)
        if error is None and peer.silent_ms(now) > self._config.away_s * 1000:
            self._note_away(peer)

    def _note_away(self, peer: Peer) -> None:
        """Take a silent player for vanished; the connection is kept for a while, it may stall."""
        session = peer.session
        if session is None or not peer.plays or peer.away:
            return
        peer.away = True
        session.left_ms, session.left_frame = peer.connection.heard_ms, peer.newest_sent
        self.worlds.leave(session)
        self.notify(session)

    def _note_back(self, peer: Peer) -> None:
        """Give a player who was only stalled the seat again, and say what passed meanwhile."""
        peer.away, session = False, peer.session
        if session is None or not peer.plays or session.left_ms is None:
            return
        self.worlds.come_back(session)
        peer.send(_missed(session, now_ms() - session.left_ms))
        session.left_ms = None
        self.notify(session)

    def _give_up(self) -> None:
        seconds = self._config.worker_grace_s
        error = BridgeError(
            "worker_lost",
            "the world stopped and did not return",
            f"a worker again within {seconds:g} s",
            "none",
            "Look at the server's log, then connect again.",
        )
        for peer in list(self._peers):
            self.fail(peer, error)

    # --- connections --------------------------------------------------------------------------

    def connect(
        self,
        abort: Callable[[], None],
        heard: Callable[[], float] = lambda: -math.inf,
        link: Link = WEBSOCKET,
    ) -> Peer:
        """Return the peer of a new client.

        `abort` cuts the connection without waiting, `heard` returns when its newest bytes arrived
        (server ms).
        """
        config = self._config
        connection = Connection(now_ms(), config.hello_s * 1000, config.silence_s * 1000)
        peer = Peer(connection, abort, heard, link)
        peer.on_sent = self.metrics.frame_sent
        peer.request_keyframe = lambda: self._request_keyframe(peer)
        self._peers.add(peer)
        if len(self._peers) > config.max_clients:
            most, got = f"at most {config.max_clients} connections", f"{len(self._peers)}"
            error = BridgeError("no_free_seat", "the server is full", most, got, "Try again later.")
            self.fail(peer, error)
        return peer

    def disconnect(self, peer: Peer) -> None:
        """Forget a client whose connection ended. May be called twice."""
        if peer not in self._peers:
            return
        self._peers.discard(peer)
        self._waiting.pop(peer, None)
        self._starter.cancel(peer)
        if peer.greeted:
            log.info("a client left", extra=_about(peer))
        session = self._detach(peer)
        if session is not None and peer.plays:
            session.left_ms, session.left_frame = peer.connection.heard_ms, peer.newest_sent
            self.worlds.leave(session)
        if peer.greeted:
            self.metrics.clients.labels(peer.connection.role).dec()
        if peer.negotiation is not None:
            peer.negotiation.cancel()
        if peer.rtc is not None:
            self._tasks.spawn(peer.rtc.close())
            peer.rtc = None

    def receive(self, peer: Peer, data: bytes) -> None:
        """Handle a message of a client, whatever its transport."""
        if peer.connection.phase is Phase.CLOSED:
            return
        begun, now = time.thread_time(), now_ms()
        with self._guarding(peer):
            message = peer.connection.receive(data, now)
            if peer.away:
                self._note_back(peer)
            self._handle(peer, message)
        held = (now_ms() - now) / 1000
        if not peer.budget.spend(time.thread_time() - begun, now / 1000 + held, held):
            most = f"at most {WORK_RATE:.0%} of the server's time, on average"
            text = "this client's messages take too much work"
            error = BridgeError("bad_message", text, most, "more", "Send fewer messages.")
            self.fail(peer, error)

    @contextmanager
    def _guarding(self, peer: Peer) -> Iterator[None]:
        """Let an error of what is done for one client end its connection, not the server."""
        try:
            yield
        except BridgeError as error:
            self.fail(peer, error)
        except Exception:
            log.exception("something was not done for a client")
            text = "the server failed on this message"
            self.fail(peer, BridgeError("internal", text, "", "", "Connect again."))

    def fail(self, peer: Peer, error: BridgeError, fatal: bool = True) -> None:
        """Send a client what is wrong; if that is fatal, close its connection."""
        if peer.closing_since_ms is None:
            self.metrics.errors.labels(error.code).inc()
            log.info("error sent to a client: %s", error, extra=_about(peer, code=error.code))
            peer.fail(error, fatal)

    def _handle(self, peer: Peer, message: ClientMessage) -> None:
        match message:
            case Input():
                if peer.session is not None and peer.plays:
                    self.worlds.steer(peer.session, message)
            case Ping():
                peer.send(Pong(message.time, now_ms()))
            case FrameShown():
                self._shown(peer, message)
            case Credit():
                peer.grant(message.frames)
            case Hello():
                self._greet(peer, message)
            case PromptFramePart() if peer.plays:
                assert self.worlds.world is not None
                peer.upload.add(message, self.worlds.world.max_prompt_frames)
            case PromptDepthPart() if peer.plays:
                assert self.worlds.world is not None
                peer.upload.add_depth(message, self.worlds.world.depth)
            case Start() if peer.plays:
                self._starter.start(peer, message)
            case Observe() if peer.plays:
                self._observe(peer, message)
            case Offer():
                self._offer(peer, message)
            case StatsRequest():
                peer.send(Stats(self._stats(peer)))
            case RequestControl():
                self._request_control(peer)
            case HandOver():
                self._hand_over(peer)
            case Bye():
                self._leave(peer, message.keep)

    def _observe(self, peer: Peer, message: Observe) -> None:
        assert peer.session is not None
        try:
            self.worlds.observe(peer.session, message.observation)
        except BridgeError as error:
            self.fail(peer, error, fatal=False)

    # --- hello and goodbye --------------------------------------------------------------------

    def _greet(self, peer: Peer, hello: Hello) -> None:
        peer.rights = self._tokens.authenticate(
            hello.token, hello.role, time.time(), peer.address or ""
        )
        peer.greeted, peer.name = True, hello.client
        self.metrics.clients.labels(hello.role).inc()
        if self.worlds.world is None:
            self._waiting[peer] = hello
            peer.send(self.worlds.status)
        else:
            self._admit(peer, hello)

    def may_scrape(self, authorization: str, address: str) -> bool:
        """Return whether a request with this `Authorization` header may read the metrics.

        Raises BridgeError unauthorized after too many wrong tokens from its address.
        """
        scheme, _, token = authorization.partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else None
        return self._tokens.knows(secret, address, time.time())

    def _admit(self, peer: Peer, hello: Hello) -> None:
        """Give a greeted client its session. Raises BridgeError."""
        world = self.worlds.check_world(hello.world)
        _check_frame(hello, world)
        peer.choose_codec(hello)
        self._tokens.check_unused(peer.rights, self.worlds.sessions.id_of(hello.resume))
        if peer.image_codec == "h264":
            peer.stream_video(bitrate_limits(self._config))
        peer.wants_depth = hello.depth and world.depth and peer.sends_images
        if not peer.plays:
            self._check_spectators()
            session = self._to_watch(hello)
        elif hello.resume is not None:
            session = self._take_over(hello.resume)
        else:
            network = network_of(peer.address or "")
            session = self.worlds.admit(hello.wait, hello.role == "engine", network)
        self._attach(peer, session)
        if self._tokens.use(peer.rights, session.id if session is not None else "", time.time()):
            self.worlds.files.store_used(self._tokens.used)
        peer.connection.welcomed()
        self._send_welcome(peer, world)
        log.info("a client joined, by %s", peer.transport, extra=_about(peer))
        if peer.plays and session is not None and session.left_ms is not None:
            peer.send(_missed(session, now_ms() - session.left_ms))
            session.left_ms = None
        if peer.plays and session is not None and session.notice is not None:
            peer.send(session.notice)
            session.notice = None

    def _check_spectators(self) -> None:
        """Raise BridgeError no_free_seat if nobody else may watch."""
        most = self._config.spectators
        watching = sum(
            not other.plays and other.connection.phase is Phase.STREAMING for other in self._peers
        )
        if most is not None and watching >= most:
            text = "nobody may watch here" if most == 0 else "no more spectators may watch"
            remedy = "Play, or ask for the server's option --spectators."
            expected = f"fewer than {most} spectators"
            raise BridgeError("no_free_seat", text, expected, f"{watching}", remedy, "hello.role")

    def _to_watch(self, hello: Hello) -> PlayerSession | None:
        """Return the session for a spectator, if there is one. Raises BridgeError."""
        if hello.session is None:
            return self.worlds.sessions.newest()
        session = self.worlds.sessions.get(hello.session)
        if session is None:
            raise BridgeError(
                "session_expired",
                "there is no such session to watch",
                "a session of this server",
                repr(hello.session),
                "Leave `session` out to watch the newest.",
                "hello.session",
            )
        return session

    def _send_welcome(self, peer: Peer, world: WorldSpec) -> None:
        peer.send(self._welcome(peer, world))
        peer.send(self.worlds.status_for(peer.session))

    def _welcome(self, peer: Peer, world: WorldSpec) -> Welcome:
        session = peer.session
        plays = session is not None and peer.plays
        return Welcome(
            server=self._server,
            session=session.id if session is not None else "",
            resume=session.resume if session is not None and plays else "",
            role=peer.connection.role,
            world=world,
            seat=self.worlds.seat(session) if session is not None and plays else Seat("watching"),
            seats=self.worlds.seats(),
            transport=peer.transport,
            codec=peer.codec,
            started=session is not None and session.started,
            kept_s=self._config.grace_s,
            ice_servers=tuple(ice_servers(self._config)) if peer.transport == "webrtc" else (),
        )

    def _take_over(self, token: str) -> PlayerSession:
        """Return the session of a resume token, closing the connection that owns it."""
        session = self.worlds.resume(token)
        error = BridgeError(
            "session_expired",
            "another connection took this session over",
            "one connection per player",
            "a second hello with the resume token",
            "Close this one.",
        )
        for peer in self._players_of(session):
            session.left_ms, session.left_frame = peer.connection.heard_ms, peer.newest_sent
            self._detach(peer)
            self.fail(peer, error)
        return session

    # --- hand-over of the controls --------------------------------------------------------------

    def _request_control(self, peer: Peer) -> None:
        """Tell the player that a spectator would like to play."""
        if peer.session is None or peer.plays or "player" not in peer.rights.roles:
            text = "there are no controls to ask for"
            expected = "a session that you watch, and a token to play"
            error = BridgeError("bad_message", text, expected, "none", "Wait for a player.")
            self.fail(peer, error, fatal=False)
            return
        peer.requested_ms = peer.requested_ms or now_ms()
        text = f"{peer.name or 'A spectator'} asks for the controls"
        self.send_event(peer.session, Event("control_requested", text))

    def _hand_over(self, peer: Peer) -> None:
        """Let the spectator play who asked first; the player watches from now on."""
        session, world = peer.session, self.worlds.world
        asking = [p for p in self._peers if p.session is session and p.requested_ms is not None]
        if session is None or world is None or not peer.plays or not asking:
            text, expected = "the controls cannot be handed over", "a spectator who asked for them"
            error = BridgeError("bad_message", text, expected, "none", "Wait until one asks.")
            self.fail(peer, error, fatal=False)
            return
        other = min(asking, key=lambda p: p.requested_ms or 0.0)
        self._starter.cancel(peer)
        self.worlds.hand_over(session)
        self._change_role(peer, "spectator")
        self._change_role(other, "player")
        for each in (other, peer):
            self._send_welcome(each, world)

    def _change_role(self, peer: Peer, role: Role) -> None:
        self.metrics.clients.labels(peer.connection.role).dec()
        self.metrics.clients.labels(role).inc()
        peer.connection.change_role(role)
        peer.requested_ms, peer.answered = None, -1

    def _attach(self, peer: Peer, session: PlayerSession | None) -> None:
        peer.session = session
        if session is not None:
            self.worlds.broadcaster(session).viewers.add(peer)

    def _detach(self, peer: Peer) -> PlayerSession | None:
        """Unsubscribe a client from its session and return that, if there is one."""
        session, peer.session = peer.session, None
        if session is not None:
            self.worlds.broadcaster(session).viewers.discard(peer)
        return session

    def _leave(self, peer: Peer, keep: bool) -> None:
        """Free the seat of a client that says bye; keep its world only if nobody needs the seat."""
        session = self._detach(peer)
        if session is not None and peer.plays:
            if keep:
                session.left_ms, session.left_frame = now_ms(), peer.newest_sent
                self.worlds.leave(session, spare=True)
            else:
                self.worlds.end(session)
        peer.close("bye")

    def _players_of(self, session: PlayerSession) -> list[Peer]:
        return [peer for peer in self._peers if peer.session is session and peer.plays]

    # --- requests -----------------------------------------------------------------------------

    def _shown(self, peer: Peer, message: FrameShown) -> None:
        if peer.plays and peer.session is not None and message.refresh is not None:
            shift = peer.vsync.seen(message.shown - message.received, message.refresh)
            if shift is not None:
                self.worlds.shift(peer.session, shift)
        header = peer.recall(message.frame)
        # later frames that answer the same input would count the player's idleness as latency
        if header is None or header.input_sequence <= peer.answered:
            return
        peer.answered = header.input_sequence
        self.metrics.observe({**server_spans(header), **client_spans(header, message)})

    def _stats(self, peer: Peer) -> dict[str, Any]:
        dropped = peer.outbox.dropped
        if peer.session is not None:
            dropped += self.worlds.broadcaster(peer.session).dropped
        return {
            **self._counts(),
            "frames_sent": peer.sent_frames,
            "frames_dropped": dropped,
            "worker": self.worlds.worker_values,
        }

    def _counts(self) -> dict[str, Any]:
        return {
            "clients": len(self._peers),
            "sessions": len(self.worlds.sessions),
            "seats": self.worlds.describe_seats(),
        }

    def health(self) -> dict[str, Any]:
        """Return what /health answers."""
        status, world = self.worlds.status, self.worlds.world
        return {
            "ready": status.state == "playing",
            "state": status.state,
            "detail": status.detail,
            "progress": status.progress,
            "world": world.name if world is not None else None,
            "mode": self.worlds.mode or None,
            "prompt_frames": len(self.prompt_files),
            **self._counts(),
        }

    # --- WebRTC -------------------------------------------------------------------------------

    def _offer(self, peer: Peer, message: Offer) -> None:
        peer.offers += 1
        if peer.offers > MAX_OFFERS:
            most, got = f"at most {MAX_OFFERS}", f"{peer.offers}"
            raise BridgeError("bad_message", "too many offers", most, got, "Connect again.")
        if peer.negotiation is not None:
            peer.negotiation.cancel()  # the newest offer counts
        sdp = filter_offer(message.sdp, peer.address, relays=self.rtc_settings.relays)
        work = self._negotiate(peer, sdp)
        peer.negotiation = self._tasks.spawn(work)

    async def _negotiate(self, peer: Peer, sdp: str) -> None:
        """Answer an offer. A client whose video fails may go on without: that is not fatal."""
        old, peer.rtc, peer.rtc_open = peer.rtc, None, False
        if old is not None:  # also if a newer offer ends this
            await asyncio.shield(self._tasks.spawn(old.close()))
        rtc, answered = None, False
        try:
            rtc = RtcConnection(
                choose_codec(sdp, peer.codecs), self.rtc_callbacks(peer), self.rtc_settings
            )
            peer.rtc = rtc
            answer = await rtc.answer(sdp)
            answered = peer.rtc is rtc and peer in self._peers
            if answered:
                peer.send(Answer(answer))
        except BridgeError as error:
            self.fail(peer, error, fatal=False)
        finally:  # refused, replaced, or gone in the meantime
            if rtc is not None and not answered:
                peer.rtc = None if peer.rtc is rtc else peer.rtc
                await rtc.close()

    def rtc_callbacks(self, peer: Peer) -> RtcCallbacks:
        """Return what a client's video connection has to report to."""

        def opened() -> None:
            peer.rtc_open = True
            peer.request_keyframe()

        def closed() -> None:
            failed, peer.rtc, peer.rtc_open = peer.rtc, None, False
            if failed is not None:  # its sockets go at once
                self._tasks.spawn(failed.close())

        def message(data: bytes) -> None:
            self.receive(peer, data)

        return RtcCallbacks(
            message, peer.request_keyframe, opened, closed, peer.remember, lambda: peer.plays
        )

    def _request_keyframe(self, peer: Peer) -> None:
        if peer.session is not None:
            self.worlds.broadcaster(peer.session).request_keyframe(peer)

    # --- what happens to the worlds (SessionObserver) -----------------------------------------

    def world_is_ready(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for peer, hello in waiting.items():
            if peer.connection.phase is not Phase.WAITING:
                continue  # it is being closed, and has no use for a seat
            with self._guarding(peer):
                self._admit(peer, hello)

    def announce(self, message: Status | Event) -> None:
        for peer in self._peers:
            if peer.connection.phase in (Phase.WAITING, Phase.STREAMING):
                peer.send(message)

    def notify(self, session: PlayerSession) -> None:
        self.send_status(session, self.worlds.status_for(session))

    def send_status(self, session: PlayerSession, status: Status) -> None:
        for peer in self._peers:
            if peer.session is session:
                peer.send(status)

    def notify_all(self) -> None:
        for peer in self._peers:
            if peer.connection.phase is Phase.STREAMING:
                peer.send(self.worlds.status_for(peer.session))

    def send_event(self, session: PlayerSession, event: Event) -> None:
        for peer in self._players_of(session):
            peer.send(event)

    def world_reset(self, session: PlayerSession, event: Event) -> None:
        session.notice = None if self._players_of(session) else event
        for peer in self._peers:
            if peer.session is session:
                peer.send(event)

    def seated(self, session: PlayerSession) -> None:
        self.notify(session)
        for peer in self._players_of(session):
            message, peer.postponed = peer.postponed, None
            if message is not None:
                with self._guarding(peer):
                    self._starter.start(peer, message)

    def session_began(self) -> None:
        """Show the newest session to spectators who have nothing to watch."""
        newest = self.worlds.sessions.newest()
        if newest is None:
            return
        for peer in self._peers:
            streaming = peer.connection.phase is Phase.STREAMING
            if streaming and not peer.plays and peer.session is None:
                self._attach(peer, newest)
                peer.send(self.worlds.status_for(newest))

    def session_broke(self, session: PlayerSession, error: BridgeError) -> None:
        for peer in self._players_of(session):
            self.fail(peer, error)

    def session_ended(self, session: PlayerSession) -> None:
        for peer in self._peers:
            if peer.session is session:
                peer.session = None
                if not peer.plays:
                    peer.send(self.worlds.status_for(None))
        self.session_began()


def _missed(session: PlayerSession, away_ms: float) -> Event:
    """Say what passed while a player was away."""
    seconds = max(0.0, away_ms) / 1000
    frames = max(0, session.frame - session.left_frame)
    text = f"You were away for {seconds:.1f} s and missed {frames} frames"
    return Event("session_resumed", text, round(seconds, 3), frames)


def _about(peer: Peer, **more: str) -> dict[str, str]:
    """Return what a structured log says about a client."""
    session = {} if peer.session is None else {"session": peer.session.id}
    return {"role": peer.connection.role, **session, **more}


def _check_frame(hello: Hello, world: WorldSpec) -> None:
    """Raise BridgeError unsupported if the world's frames are too large for the client."""
    if hello.max_frame is None:
        return
    width, height = hello.max_frame
    if world.width > width or world.height > height:
        raise BridgeError(
            "unsupported",
            "the world's frames are larger than the client takes",
            f"a world of at most {width}x{height} pixels",
            f"{world.width}x{world.height}",
            "Raise `max_frame`, or play a smaller world.",
            "hello.max_frame",
        )
