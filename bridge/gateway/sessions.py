"""Players' worlds on the worker: opened, steered, restored after its death, and their pictures.

Knows nothing of connections; whoever owns it (`SessionObserver`) is told what clients should hear.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.errors import BAD_PICTURE, UNKNOWN_THEME, UNKNOWN_WORLD, BridgeError
from worldbridge.bridge.gateway.connection import PlayerSession, SessionStore
from worldbridge.bridge.gateway.metrics import Metrics
from worldbridge.bridge.gateway.seats import SeatAllocator
from worldbridge.bridge.gateway.tasks import TaskSet
from worldbridge.bridge.gateway.workers import WorkerLink
from worldbridge.bridge.media.broadcaster import Quality, Stream
from worldbridge.bridge.protocol import (
    CloseSession,
    Failed,
    FrameAck,
    Input,
    Loading,
    Opened,
    OpenSession,
    PromptFrames,
    RawFrame,
    Ready,
    RestartSession,
    Seats,
    SessionInput,
    SessionSnapshot,
    ShiftPhase,
    Start,
    Status,
    WorkerStats,
    WorldSpec,
    i420_bytes,
)
from worldbridge.clock import now_ms

log = logging.getLogger(__name__)


class SessionObserver(Protocol):
    """Those who hear what happens to the worlds."""

    def announce(self, status: Status) -> None:
        """To everyone."""

    def tell(self, session: PlayerSession, status: Status) -> None:
        """To those who play or watch this session."""

    def tell_all(self) -> None:
        """To everyone, each about the session that they play or watch."""

    def world_is_ready(self) -> None: ...
    def session_began(self) -> None: ...
    def session_broke(self, session: PlayerSession, error: BridgeError) -> None: ...
    def session_ended(self, session: PlayerSession) -> None: ...


class SessionManager:
    """Implements `WorkerEvents`. `spec` is None until the worker was ready for the first time."""

    def __init__(self, config: GatewayConfig, audience: SessionObserver, metrics: Metrics) -> None:
        self._config = config
        self._audience = audience
        self._metrics = metrics
        self._quality = Quality(config.jpeg_quality, config.bitrate)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._seats = SeatAllocator(0, config.grace_s * 1000)
        self._streams: dict[str, Stream] = {}
        self._tasks = TaskSet()
        self.link = WorkerLink(config.endpoint, self)
        self.sessions = SessionStore()
        self.spec: WorldSpec | None = None
        self.mode = ""  # how its tokens are decoded
        self.status = Status("loading", "waiting for the worker", 0.0)
        self.lost_ms: float | None = None
        self.worker_values: dict[str, Any] = {}

    async def close(self) -> None:
        for stream in self._streams.values():
            await stream.close()
        await self._tasks.cancel()
        self._pool.shutdown()
        self.link.close()

    def tick(self, now: float) -> None:
        self.link.tick(now)
        for session_id in self._seats.expired(now):
            session = self.sessions.get(session_id)
            if session is not None:
                self.end(session)

    # --- sessions -----------------------------------------------------------------------------

    def check(self, world: str | None, theme: str | None) -> WorldSpec:
        """The spec of the world that was asked for. Raises BridgeError."""
        assert self.spec is not None
        if world not in (None, self.spec.name):
            raise BridgeError(
                UNKNOWN_WORLD,
                "this server has another world",
                repr(self.spec.name),
                repr(world),
                "Leave `world` out to take what the server has.",
            )
        if theme is not None and theme not in self.spec.themes:
            raise BridgeError(
                UNKNOWN_THEME,
                "this world has no such theme",
                "one of " + ", ".join(self.spec.themes),
                repr(theme),
                "Choose one of the themes in `welcome`.",
            )
        return self.spec

    def check_pictures(self, count: int) -> None:
        """Raises BridgeError bad_picture if the world cannot begin with so many pictures."""
        assert self.spec is not None
        most = self.spec.takes_pictures
        if count <= most:
            return
        if most == 0:
            raise BridgeError(
                BAD_PICTURE,
                f"the world {self.spec.name!r} cannot begin with a picture",
                "no pictures: it is rendered, not generated",
                f"{count}",
                "Leave `pictures` out, or play a generated world: worldbridge serve.",
            )
        raise BridgeError(
            BAD_PICTURE,
            f"the world {self.spec.name!r} cannot begin with so many pictures",
            f"at most {most}",
            f"{count}",
            "Send the newest ones.",
        )

    def begin(
        self, theme: str | None, seed: int | None, pictures: PromptFrames | None = None
    ) -> PlayerSession:
        """A new player sits down. Raises BridgeError no_free_seat."""
        session = self.sessions.create(
            theme if theme is not None else self._config.theme,
            seed if seed is not None else self._config.seed,
            pictures,
        )
        try:
            self._seats.take(session.id)
        except BridgeError:
            self.sessions.remove(session)
            raise
        self._metrics.sessions.set(len(self.sessions))
        self._open(session)
        self._audience.session_began()
        return session

    def resume(self, token: str) -> PlayerSession:
        """A player comes back. Raises BridgeError session_expired."""
        session = self.sessions.resume(token)
        self._seats.come_back(session.id)
        session.latch.attach()
        return session

    def leave(self, session: PlayerSession) -> None:
        """The player vanished; the world goes on for the grace, its controls released."""
        self._seats.leave(session.id, now_ms())

    def end(self, session: PlayerSession) -> None:
        """Free the seat and forget the world."""
        self.link.send(CloseSession(session.id))
        self.sessions.remove(session)
        self._seats.free(session.id)
        stream = self._streams.pop(session.id, None)
        if stream is not None:
            self._tasks.spawn(stream.close())
        self._metrics.sessions.set(len(self.sessions))
        self._audience.session_ended(session)

    def seats(self) -> Seats:
        return self._seats.count()

    def stream(self, session: PlayerSession) -> Stream:
        stream = self._streams.get(session.id)
        if stream is None:
            stream = self._streams[session.id] = self._new_stream()
        return stream

    def _new_stream(self) -> Stream:
        assert self.spec is not None
        return Stream(self.spec, self._quality, self._pool, self._acknowledge)

    def status_for(self, session: PlayerSession | None) -> Status:
        if self.status.state != "playing":
            return self.status
        if session is None:
            return Status("loading", "waiting for a player")
        if not session.opened:
            return Status("loading", "opening the world")
        return Status("playing")

    # --- playing ------------------------------------------------------------------------------

    def steer(self, session: PlayerSession, message: Input) -> None:
        now = now_ms()
        newest = session.latch.offer(message.snapshots, now)
        if newest is not None and session.opened:
            self.link.send(SessionInput(session.id, newest, now))

    def shift(self, session: PlayerSession, ms: float) -> None:
        """Ask for this session's frames to come `ms` later."""
        if session.opened:
            self.link.send(ShiftPhase(session.id, ms))

    def start(
        self, session: PlayerSession, message: Start, pictures: PromptFrames | None = None
    ) -> None:
        """Begin anew in the same session. Raises BridgeError for an unknown theme.

        `pictures` are those of the message, decoded.
        """
        self.check(None, message.theme)
        session.theme = message.theme if message.theme is not None else session.theme
        session.seed = message.seed if message.seed is not None else session.seed
        session.pictures = pictures if message.pictures is not None else session.pictures
        session.snapshot = None  # it is of the world that was left
        session.start_due = not session.opened
        if session.opened:
            self._start(session)

    def _start(self, session: PlayerSession) -> None:
        session.start_due = False
        new = RestartSession(session.id, session.theme, session.seed, session.pictures)
        self.link.send(new)

    def _open(self, session: PlayerSession) -> None:
        session.opened = session.start_due = False
        session.restoring = session.snapshot is not None
        pictures = None if session.restoring else session.pictures
        opening = OpenSession(session.id, session.theme, session.seed, session.snapshot, pictures)
        self.link.send(opening)

    def _acknowledge(self, frame: RawFrame) -> None:
        self.link.send(FrameAck(frame.session, frame.header.frame))

    # --- what the worker says -----------------------------------------------------------------

    def worker_loading(self, message: Loading) -> None:
        self._none_is_open()
        state = self._absent()
        self._announce(replace(state, detail=message.stage, progress=message.progress))

    def worker_ready(self, message: Ready) -> None:
        log.info("the worker is ready with the world %s", message.spec.name)
        self.lost_ms = None
        self._metrics.worker_up.set(1)
        self._none_is_open()
        self._take_spec(message)
        self.status = Status("playing")
        for session in self.sessions:
            self._open(session)
        self._audience.world_is_ready()

    def _take_spec(self, message: Ready) -> None:
        most = self._config.seats
        self._seats.total = message.seats if most is None else min(most, message.seats)
        changed = self.spec != message.spec
        self.spec, self.mode = message.spec, message.mode
        if not changed:
            return
        for session_id, old in list(self._streams.items()):  # other pictures, other encoders
            self._streams[session_id] = self._new_stream()
            self._streams[session_id].viewers |= old.viewers
            self._tasks.spawn(old.close())

    def worker_lost(self, why: str) -> None:
        log.warning("worker lost: %s", why)
        self._metrics.worker_up.set(0)
        self.lost_ms = now_ms()
        self._announce(replace(self._absent(), detail=why))

    def worker_revived(self) -> None:
        log.warning("the worker answers again")
        self.lost_ms = None
        self._metrics.worker_up.set(1)
        self.status = Status("playing")
        self._audience.tell_all()

    def worker_stats(self, message: WorkerStats) -> None:
        self.worker_values = dict(message.values)

    def session_opened(self, message: Opened) -> None:
        session = self.sessions.get(message.session)
        if session is not None:
            session.opened, session.restoring = True, False
            if session.start_due:
                self._start(session)
            self._audience.tell(session, self.status_for(session))

    def session_saved(self, message: SessionSnapshot) -> None:
        session = self.sessions.get(message.session)
        if session is not None:
            session.snapshot = bytes(message.payload)

    def session_failed(self, message: Failed) -> None:
        session = self.sessions.get(message.session)
        if session is None:
            return
        if session.restoring:  # say, another world was loaded: then begin anew
            log.warning("session %s cannot be restored: %s", session.id, message.message)
            session.snapshot = None
            self._open(session)
            return
        error = BridgeError(
            message.code, message.message, message.expected, message.got, message.remedy
        )
        self._audience.session_broke(session, error)
        self.end(session)

    def frame_arrived(self, message: RawFrame) -> None:
        assert self.spec is not None
        expected = i420_bytes(self.spec.width, self.spec.height)
        stream = self._streams.get(message.session)
        if stream is None or len(message.payload) != expected:
            if stream is not None:
                log.warning("a frame has %d bytes, expected %d", len(message.payload), expected)
            self._metrics.frames.labels("unwanted").inc()
            self._acknowledge(message)
            return
        self._metrics.frames.labels("taken").inc()
        stream.offer(replace(message, header=replace(message.header, t_gateway=now_ms())))

    def _absent(self) -> Status:
        """What clients are told while there is no worker: the first one, or another one?"""
        return Status("loading" if self.spec is None else "reconnecting")

    def _announce(self, status: Status) -> None:
        self.status = status
        self._audience.announce(status)

    def _none_is_open(self) -> None:
        for session in self.sessions:
            session.opened = False
