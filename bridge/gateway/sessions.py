"""Players' sessions on the worker: started, steered, restored after its death.

Knows nothing of connections. Whoever owns it (`SessionObserver`) hears what clients should know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.metrics import Metrics
from worldbridge.bridge.gateway.network import bitrate_limits
from worldbridge.bridge.gateway.players import PlayerSession, SessionStore
from worldbridge.bridge.gateway.seats import SeatAllocator
from worldbridge.bridge.gateway.session_files import SessionFiles
from worldbridge.bridge.gateway.workers import MAX_UNTAKEN, WorkerLink
from worldbridge.bridge.media.broadcaster import Broadcaster, Quality
from worldbridge.bridge.protocol import (
    BridgeError,
    CloseSession,
    Event,
    Failed,
    FrameAck,
    Input,
    Loading,
    Observation,
    Opened,
    OpenSession,
    PromptFrames,
    RawFrame,
    Ready,
    RestartSession,
    SavedSession,
    Seat,
    Seats,
    SessionDepth,
    SessionInput,
    SessionObservation,
    ShiftPhase,
    Start,
    Status,
    WorkerStats,
    WorldSpec,
    i420_bytes,
)
from worldbridge.clock import now_ms

log = logging.getLogger(__name__)


RESTART_MS: Final = 500.0  # between two restarts of a session, on average: each one is dear
SUSPECT_DEATHS: Final = 2  # of workers that had a session: then it comes back last and alone
PROBATION_MS: Final = 2_000.0  # that a suspect has to be open
INNOCENT_MS: Final = 30_000.0  # that any other has to be open for its deaths to be forgotten
RESTART_BURST: Final = 3  # more of them may come at once
QUEUE_EVERY_MS: Final = 5_000.0  # at least, players in the queue hear how long it may take
WARNING_MS: Final = 30_000.0  # before an idle player's seat is free, or half of the limit


class TaskSet:
    """Tasks that end with their owner. The event loop alone would forget them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` and log what it raises."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task failed", exc_info=task.exception())

    async def cancel(self) -> None:
        """Cancel all tasks and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class SessionObserver(Protocol):
    """Hears what happens to the worlds."""

    def announce(self, message: Status | Event) -> None:
        """Send a message to every client."""

    def notify(self, session: PlayerSession) -> None:
        """Send the status of a session to those who play or watch it."""

    def notify_all(self) -> None:
        """Send every client the status of its session."""

    def world_is_ready(self) -> None: ...
    def send_event(self, session: PlayerSession, event: Event) -> None:
        """Send an event to the player of a session."""

    def world_reset(self, session: PlayerSession, event: Event) -> None:
        """Say to all who see a session, also to a player who is away, that it begins again."""

    def seated(self, session: PlayerSession) -> None:
        """Let a player begin who waited for a seat."""

    def session_began(self) -> None: ...
    def session_broke(self, session: PlayerSession, error: BridgeError) -> None: ...
    def session_ended(self, session: PlayerSession) -> None: ...


class SessionManager:
    """Implements `WorkerEvents`. `world` is None until the worker was ready for the first time."""

    def __init__(self, config: GatewayConfig, observer: SessionObserver, metrics: Metrics) -> None:
        self._config = config
        self._observer = observer
        self._metrics = metrics
        self._quality = Quality(config.jpeg_quality, bitrate_limits(config))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._seats = SeatAllocator(0, config.grace_s * 1000, config.queue)
        self._announced: tuple[list[str], float] = ([], 0.0)  # the queue, and when it was sent
        self._broadcasters: dict[str, Broadcaster] = {}
        self._tasks = TaskSet()
        self.link = WorkerLink(config.endpoint, self)
        self.sessions = SessionStore()
        self.files = SessionFiles(Path(config.state_dir) if config.state_dir else None)
        self._restored = list(self.files.load())  # their players have not come back yet
        for session in self._restored:
            self.sessions.add(session)
            self._seats.restore(session.id, now_ms())
            session.active_ms = session.left_ms = now_ms()
            session.left_frame = session.frame
        self.world: WorldSpec | None = None
        self.mode = ""  # how its tokens are decoded
        self.status = Status("loading", "waiting for the worker", 0.0)
        self.lost_ms: float | None = None
        self.worker_values: dict[str, Any] = {}

    async def close(self) -> None:
        """Stop encoding and close the link to the worker."""
        for broadcaster in self._broadcasters.values():
            await broadcaster.close()
        await self._tasks.cancel()
        self._pool.shutdown()
        self.files.close()
        self.link.close()

    def tick(self, now: float) -> None:
        """End the sessions whose players did not come back, and ping the worker."""
        self.link.tick(now)
        self._acquit(now)
        for each in self.sessions:
            self._send_waiting(each)
            self._ask_for_depth(each)
        for session_id in self._seats.expired(now):
            session = self.sessions.get(session_id)
            if session is not None:
                self.end(session)
        self._free_idle(now)
        self._serve_queue(now)

    # --- sessions -----------------------------------------------------------------------------

    def check_world(self, name: str | None) -> WorldSpec:
        """Return the world, if it is the one that is asked for. Raises BridgeError."""
        assert self.world is not None
        if name not in (None, self.world.name):
            raise BridgeError(
                "unknown_world",
                "this server has another world",
                repr(self.world.name),
                repr(name),
                "Leave `world` out to take what the server has.",
                "hello.world",
            )
        return self.world

    def check_start(self, message: Start) -> None:
        """Raise BridgeError if the world cannot start this way."""
        assert self.world is not None
        if message.theme is not None and message.theme not in self.world.themes:
            raise BridgeError(
                "unknown_theme",
                "this world has no such theme",
                "one of " + ", ".join(self.world.themes),
                repr(message.theme),
                "Choose one of the themes in `welcome`.",
                "start.theme",
            )
        if message.prompt is not None:
            raise BridgeError(
                "unsupported",
                "this world takes no text for a session",
                "no `prompt`",
                repr(message.prompt)[:80],
                "Leave `prompt` out; the server can be started with --prompt.",
                "start.prompt",
            )
        self._check_prompt_frames(message.prompt_frames or 0, self.world)

    def _check_prompt_frames(self, count: int, world: WorldSpec) -> None:
        most = world.max_prompt_frames
        if count > most:
            rendered = "none: it is rendered, not generated"
            raise BridgeError(
                "bad_prompt_frame",
                f"the world {world.name!r} cannot start from {count} prompt frames",
                f"at most {most}" if most else rendered,
                f"{count}",
                "Send the newest ones." if most else "Set `prompt_frames` to 0.",
                "start.prompt_frames",
            )

    def admit(self, wait: bool = False, patient: bool = False, network: str = "") -> PlayerSession:
        """Return a session for a new player, with a seat or, with `wait`, a place in the queue.

        `patient` players may be idle; `network` is where the player comes from. Raises BridgeError
        no_free_seat.
        """
        self._check_network(network)
        self._end_spare()
        session = self.sessions.create(self._config.theme, self._config.seed)
        session.patient, session.active_ms = patient, now_ms()
        session.network = network
        try:
            self._seats.take(session.id, now_ms(), wait)
        except BridgeError:
            self.sessions.remove(session)
            raise
        if self._seats.present(session.id):
            self.files.store(session)
        self._metrics.sessions.set(len(self.sessions))
        return session

    def _check_network(self, network: str) -> None:
        """Raise BridgeError no_free_seat if nobody else may play from there."""
        most = self._config.seats_per_address
        if most is None or not network:
            return
        count = sum(s.network == network and self._seats.keeps(s.id) for s in self.sessions)
        if count >= most:
            text = "no more players may come from this address"
            remedy = "Leave a game there, or ask for the server's option --seats-per-address."
            raise BridgeError("no_free_seat", text, f"fewer than {most}", f"{count}", remedy)

    def resume(self, token: str) -> PlayerSession:
        """Return the session of a player who comes back. Raises BridgeError session_expired."""
        session = self.sessions.resume(token)
        self.come_back(session)
        self._attend(session)
        return session

    def come_back(self, session: PlayerSession) -> None:
        """Give a player who was away the seat again."""
        self._seats.come_back(session.id)

    def hand_over(self, session: PlayerSession) -> None:
        """Let another client play a session: it counts its own inputs, and alone may resume."""
        self.sessions.renew(session)
        self._attend(session)
        self.files.store(session)

    def _attend(self, session: PlayerSession) -> None:
        session.inputs.attach()
        session.active_ms, session.warned = now_ms(), False

    def leave(self, session: PlayerSession, spare: bool = False) -> None:
        """Keep a vanished player's world for the grace; `spare`: until somebody needs the seat."""
        self._seats.leave(session.id, now_ms(), spare)

    def end(self, session: PlayerSession) -> None:
        """Free the seat and forget the world."""
        self.link.send(CloseSession(session.id))
        self.sessions.remove(session)
        self.files.remove(session)
        self._seats.free(session.id, now_ms())
        broadcaster = self._broadcasters.pop(session.id, None)
        if broadcaster is not None:
            self._tasks.spawn(broadcaster.close())
        self._metrics.sessions.set(len(self.sessions))
        log.info("session %s ended", session.id, extra={"session": session.id})
        self._observer.session_ended(session)
        self._serve_queue(now_ms())

    def _end_spare(self) -> None:
        """End a session whose player left for good, if the next one needs its seat."""
        spare = self._seats.spare()
        session = self.sessions.get(spare) if spare is not None else None
        if session is not None:
            self.end(session)

    def _serve_queue(self, now: float) -> None:
        """Seat those who wait, and keep them informed of their place."""
        if self._seats.someone_waits():
            self._end_spare()
        while (promoted := self._seats.promote(now)) is not None:
            session = self.sessions.get(promoted)
            if session is not None:
                self._attend(session)
                self.files.store(session)
                self._observer.seated(session)
        waiting = self._seats.waiting()
        before, sent_ms = self._announced
        if waiting == before and now - sent_ms < QUEUE_EVERY_MS:
            return
        self._announced = (waiting, now)
        for name in waiting:
            session = self.sessions.get(name)
            if session is not None:
                self._observer.notify(session)

    def _free_idle(self, now: float) -> None:
        """Warn players who do nothing, then free their seats."""
        if self._config.idle_limit is None or self.world is None:
            return
        limit = self._config.idle_limit * 1000
        for session in self.sessions:
            left = session.active_ms + limit - now
            if session.patient or not self._seats.present(session.id):
                continue
            if left <= 0:
                self._observer.session_broke(session, _idle(self._config.idle_limit))
                self.end(session)
            elif left <= min(WARNING_MS, limit / 2) and not session.warned:
                session.warned = True
                text = f"Nothing was steered for a while: the seat is free in {left / 1000:.0f} s"
                seconds = round(left / 1000, 1)
                self._observer.send_event(session, Event("seat_warning", text, seconds))

    def seat(self, session: PlayerSession) -> Seat:
        """Return a player's own place."""
        return self._seats.seat(session.id, now_ms())

    def describe_seats(self) -> dict[str, Any]:
        """Return the seats as plain data, with those that are kept."""
        return self._seats.describe(now_ms())

    def seats(self) -> Seats:
        """Return how many seats are taken, and how many there are."""
        return self._seats.count()

    def broadcaster(self, session: PlayerSession) -> Broadcaster:
        """Return what sends a session's frames to its viewers."""
        broadcaster = self._broadcasters.get(session.id)
        if broadcaster is None:
            broadcaster = self._broadcasters[session.id] = self._new_broadcaster()
        return broadcaster

    def _new_broadcaster(self) -> Broadcaster:
        assert self.world is not None
        return Broadcaster(self.world, self._quality, self._pool, self._acknowledge)

    def status_for(self, session: PlayerSession | None) -> Status:
        """Return the status for those who play or watch a session, or wait for one."""
        if self.status.state != "playing":
            return self.status
        if session is None:
            return Status("loading", "waiting for a player")
        seat = self.seat(session)
        if seat.state == "queued":
            detail = f"every seat is taken: {self._seats.reason(now_ms())}"
            wait_s = seat.expected_wait_s
            return Status("queued", detail, position=seat.position, expected_wait_s=wait_s)
        if not session.started:
            return Status("ready", "waiting for start")
        if not session.opened:
            return Status("loading", "opening the world")
        away = seat.state == "seated" and not self._seats.present(session.id)
        return Status("playing", "the player is away" if away else "")

    # --- playing ------------------------------------------------------------------------------

    def steer(self, session: PlayerSession, message: Input) -> None:
        """Hand the newest controller state to the worker."""
        before = session.inputs.held()
        newest = session.inputs.offer(message.states)
        if session.inputs.held() != before:
            session.active_ms, session.warned = now_ms(), False
        if newest is not None and session.opened:
            session.waiting_input = SessionInput(session.id, newest, now_ms())
            self._send_waiting(session)

    def observe(self, session: PlayerSession, observation: Observation) -> None:
        """Hand an engine's frame to the worker. Raises BridgeError if the world takes none."""
        assert self.world is not None
        if "observations" not in self.world.conditionings:
            raise BridgeError(
                "unsupported",
                f"the world {self.world.name!r} takes no frames of an engine",
                "a world whose `conditionings` have `observations`, such as guided",
                "one with " + (", ".join(self.world.conditionings) or "none"),
                "Leave `observe` out, or play another world.",
                "observe",
            )
        session.active_ms = now_ms()
        session.observations.append(observation)
        self._send_waiting(session)

    def _send_waiting(self, session: PlayerSession) -> None:
        """Send what waits for the worker, unless it has not taken enough of what was sent."""
        if session.restart_due and session.opened:
            self._restart(session)
        while session.observations and session.opened and self._room(session):
            if session.restart_due:
                break
            observation = session.observations.popleft()
            self.link.send_counted(session.id, SessionObservation(session.id, observation))
        # An input after a restart is never sent before it: a frame that answers the input is
        # then of the new world.
        waiting = None if session.restart_due else session.waiting_input
        if waiting is not None and self._room(session):
            self.link.send_counted(session.id, waiting)
            session.waiting_input = None

    def _ask_for_depth(self, session: PlayerSession) -> None:
        """Ask the worker for depth while somebody wants it, and only then."""
        broadcaster = self._broadcasters.get(session.id)
        wanted = broadcaster is not None and broadcaster.wants_depth
        if session.opened and wanted != session.depth:
            session.depth = wanted
            self.link.send(SessionDepth(session.id, wanted))

    def _room(self, session: PlayerSession) -> bool:
        """Return whether the worker has taken enough to be sent more of this session."""
        return self.link.credit.untaken(session.id) < MAX_UNTAKEN

    def session_ids(self) -> tuple[str, ...]:
        """Return the sessions that the worker may have; it forgets others."""
        return tuple(session.id for session in self.sessions)

    def messages_taken(self) -> None:
        """Send what waited while the worker was busy: of each kind the newest."""
        for session in self.sessions:
            self._send_waiting(session)
        if not all(self._room(session) for session in self.sessions):
            self.link.ask()

    def shift(self, session: PlayerSession, ms: float) -> None:
        """Ask for this session's frames to be sent `ms` later."""
        if session.opened:
            self.link.send(ShiftPhase(session.id, ms))

    def start(self, session: PlayerSession, message: Start, frames: PromptFrames | None) -> None:
        """Begin the session's world, or restart it, from `frames` if there are any."""
        session.theme = message.theme if message.theme is not None else session.theme
        session.seed = message.seed if message.seed is not None else session.seed
        session.prompt_frames = frames
        session.active_ms = now_ms()
        session.saved, session.frame = None, -1  # of the world that was left
        self.files.store(session)
        self.files.store_frames(session)
        session.observations.clear()
        if not session.started:
            session.started = True
            self._open(session)
            self._observer.session_began()
            self._observer.notify(session)
        elif session.opened:
            self._restart(session)
        else:
            session.restart_due = True

    def _restart(self, session: PlayerSession) -> None:
        """Restart at once, or when the worker took the one before: only the newest counts."""
        now = now_ms()
        early = session.restart_ms - now > RESTART_BURST * RESTART_MS
        session.restart_due = early or not self._room(session)
        if session.restart_due:
            return
        session.restart_ms = max(now, session.restart_ms) + RESTART_MS
        message = RestartSession(session.id, session.theme, session.seed, session.prompt_frames)
        self.link.send_counted(session.id, message)

    def _open(self, session: PlayerSession) -> None:
        session.opened = session.restart_due = False
        session.open_ms = now_ms()
        session.waiting_input = None
        session.restoring = session.saved is not None
        if not session.restoring and session.frame >= 0:
            self._tell_reset(session, "it was lost before it was saved")
        frames = None if session.restoring else session.prompt_frames
        self.link.send(OpenSession(session.id, session.theme, session.seed, session.saved, frames))

    def _acknowledge(self, frame: RawFrame) -> None:
        self.link.send(FrameAck(frame.session, frame.header.frame))

    # --- what the worker says -----------------------------------------------------------------

    def worker_loading(self, message: Loading) -> None:
        self._none_is_open()
        self._announce(self._absent().replace(detail=message.stage, progress=message.progress))

    def worker_ready(self, message: Ready) -> None:
        log.info("the worker is ready with the world %s", message.world.name)
        restored = self.lost_ms is not None
        self._none_is_open()
        self._take_world(message)
        self._answers()
        self._open_all()
        if restored:
            self._observer.announce(Event("world_restored"))
        self._observer.notify_all()
        for session in self._restored:  # from now on the seats are kept for them
            self._seats.leave(session.id, now_ms())
        self._restored = []
        self._observer.world_is_ready()

    def _count_death(self) -> None:
        """Note who was open when a worker ended: what one session did must not recur."""
        open_ = [session for session in self.sessions if session.open_ms is not None]
        suspects = [s for s in open_ if s.deaths >= SUSPECT_DEATHS]
        newest = max(suspects, key=lambda s: s.open_ms or 0.0, default=None)
        for session in [newest] if newest is not None else open_:
            session.deaths += 1
        for session in open_:
            session.open_ms = None
        if newest is not None:
            text = "the worker ended each time it had this session"
            remedy = "Begin another world."
            error = BridgeError("world_failed", text, "", f"{newest.deaths} times", remedy)
            self._observer.session_broke(newest, error)
            self.end(newest)

    def _open_all(self) -> None:
        """Open what is not open: all that are beyond suspicion, and of the others one at a time."""
        waiting = [s for s in self.sessions if s.started and s.open_ms is None]
        for session in waiting:
            if session.deaths < SUSPECT_DEATHS:
                self._open(session)
        suspects = [s for s in self.sessions if s.started and s.deaths >= SUSPECT_DEATHS]
        if suspects and all(s.open_ms is None for s in suspects):
            self._open(suspects[0])

    def _acquit(self, now: float) -> None:
        """Forget the deaths before sessions that have been open for a while."""
        for session in self.sessions:
            patience = PROBATION_MS if session.deaths >= SUSPECT_DEATHS else INNOCENT_MS
            if session.deaths and session.opened and now - (session.open_ms or now) > patience:
                session.deaths = 0
        if self.status.state == "playing":
            self._open_all()

    def _answers(self) -> None:
        self.lost_ms = None
        self._metrics.worker_up.set(1)
        self.status = Status("playing")

    def _take_world(self, message: Ready) -> None:
        most = self._config.seats
        self._seats.total = message.seats if most is None else min(most, message.seats)
        changed = self.world != message.world
        self.world, self.mode = message.world, message.mode
        if not changed:
            return
        for session_id, old in list(self._broadcasters.items()):  # other frames, other encoders
            self._broadcasters[session_id] = self._new_broadcaster()
            self._broadcasters[session_id].viewers |= old.viewers
            self._tasks.spawn(old.close())

    def worker_lost(self, why: str) -> None:
        log.warning("worker lost: %s", why)
        self._metrics.worker_up.set(0)
        self.lost_ms = now_ms()
        self._observer.announce(Event("world_lost", why))
        self._announce(self._absent().replace(detail=why))

    def worker_revived(self) -> None:
        log.warning("the worker answers again")
        self._answers()
        self._observer.announce(Event("world_restored"))
        self._observer.notify_all()

    def worker_stats(self, message: WorkerStats) -> None:
        self.worker_values = dict(message.values)

    def session_opened(self, message: Opened) -> None:
        session = self.sessions.get(message.session)
        if session is not None:
            session.opened, session.restoring, session.depth = True, False, False
            if session.restart_due:
                self._restart(session)
            self._observer.notify(session)

    def session_saved(self, message: SavedSession) -> None:
        session = self.sessions.get(message.session)
        if session is not None:
            session.saved = bytes(message.payload)
            self.files.store(session)

    def session_failed(self, message: Failed) -> None:
        session = self.sessions.get(message.session)
        if session is None:
            return
        if session.restoring:  # for instance another world was loaded: start from the beginning
            text, extra = "session %s cannot be restored: %s", {"session": session.id}
            log.warning(text, session.id, message.message, extra=extra)
            session.saved = None
            self._tell_reset(session, message.message)
            self._open(session)
            return
        error = BridgeError(
            message.code, message.message, message.expected, message.got, message.remedy
        )
        self._observer.session_broke(session, error)
        self.end(session)

    def _tell_reset(self, session: PlayerSession, why: str) -> None:
        text = f"The world could not be kept and begins again: {why}"
        session.frame = -1
        self._observer.world_reset(session, Event("world_reset", text))

    def frame_arrived(self, message: RawFrame) -> None:
        world, header = self.world, message.header
        assert world is not None
        expected = i420_bytes(world.width, world.height)
        if message.depth_scale is not None:
            expected += world.width * world.height * 2
        broadcaster = self._broadcasters.get(message.session)
        if broadcaster is None or len(message.payload) != expected:
            if broadcaster is not None:
                log.warning("a frame has %d bytes, expected %d", len(message.payload), expected)
            self._metrics.frames.labels("unwanted").inc()
            self._acknowledge(message)
            return
        self._metrics.frames.labels("taken").inc()
        session = self.sessions.get(message.session)
        if session is not None:
            session.frame = message.header.frame
        header = header.replace(t_gateway=now_ms(), width=world.width, height=world.height)
        broadcaster.offer(message.replace(header=header))

    def _absent(self) -> Status:
        """Return the status while there is no worker: the first one, or another one."""
        return Status("loading" if self.world is None else "reconnecting")

    def _announce(self, status: Status) -> None:
        self.status = status
        self._observer.announce(status)

    def _none_is_open(self) -> None:
        self.link.credit.clear()
        self._count_death()
        for session in self.sessions:
            session.opened = False


def _idle(limit_s: float) -> BridgeError:
    return BridgeError(
        "seat_lost",
        "the seat was freed: nothing was steered",
        f"a key, a button or a movement within {limit_s:g} s",
        "none",
        "Begin again when you want to play.",
    )
