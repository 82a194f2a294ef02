"""The worker without its socket: messages and the time in, messages out.

All times are milliseconds of one monotonic clock that the caller reads. The order of a turn:
hand over every message that is there (`receive`), then `step` once `next_step_ms` has come, so that
each frame answers the newest input.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worldbridge.bridge.protocol import (
    CloseSession,
    Failed,
    FrameAck,
    FrameHeader,
    GatewayMessage,
    Opened,
    OpenSession,
    PromptFrames,
    RestartSession,
    SessionInput,
    SessionSnapshot,
    ShiftPhase,
    Shutdown,
    WorkerMessage,
    WorkerPing,
    WorkerPong,
    WorkerStats,
)
from worldbridge.runtime.controls import LatchedControls
from worldbridge.runtime.errors import NoFreeSeatError, WorldError, WorldFailedError
from worldbridge.runtime.presentation_clock import PresentationClock
from worldbridge.runtime.session import Session, open_session, pack_session, restore_session
from worldbridge.runtime.stats import LegStatistics
from worldbridge.runtime.worlds.contract import (
    AimedWorld,
    Frames,
    LookaheadWorld,
    Picture,
    PipelinedWorld,
    UnfinishedFrames,
    WorldModel,
    WorldStart,
)

__all__ = ["Engine"]

log = logging.getLogger(__name__)

REPORT_EVERY_MS = 1000.0
_MAX_TEXT = 2000


@dataclass(frozen=True, slots=True)
class _Turn:
    """One session's part of a step."""

    session: Session
    latched: LatchedControls
    state: object = None  # the session's world when the step began


@dataclass(frozen=True, slots=True)
class _Mark:
    """The controls of one step, as a world that looks ahead gives them back with a picture."""

    latched: LatchedControls
    latched_ms: float


@dataclass(frozen=True, slots=True)
class _Begun:
    """A step whose pixels are still being made."""

    turns: Sequence[_Turn]
    frames: UnfinishedFrames
    latched_ms: float


class Engine:
    """Steps all open sessions of one world together, each kept apart from the others' failures."""

    def __init__(self, world: WorldModel, *, seats: int, pick_seed: Callable[[], int]) -> None:
        if seats < 1:
            raise ValueError(f"expected at least one seat, got {seats}")
        self._world = world
        self._seats = seats
        self._pick_seed = pick_seed
        self._clock = PresentationClock(world.spec.fps)
        self._sessions: dict[str, Session] = {}
        self._snapshot_due_ms: dict[str, float] = {}
        self._stats_due_ms = 0.0
        self._legs = LegStatistics()
        self._aimed = world if isinstance(world, AimedWorld) else None
        self._pipeline = world if isinstance(world, PipelinedWorld) else None
        self._lookahead = world if isinstance(world, LookaheadWorld) else None
        self._begun: deque[_Begun] = deque()
        self._frames = 0
        self.stopped = False

    @property
    def sessions(self) -> tuple[str, ...]:
        return tuple(self._sessions)

    # --- messages ---------------------------------------------------------------------------

    def receive(self, message: GatewayMessage, now_ms: float) -> list[WorkerMessage]:
        """What the gateway said; the answers. A message for a session that is gone is ignored."""
        match message:
            case OpenSession():
                return self._open(message, now_ms)
            case WorkerPing():
                return [WorkerPong(message.t)]
            case Shutdown():
                self.stopped = True
                return []
        session = self._sessions.get(message.session)
        if session is None:
            return []
        match message:
            case SessionInput():
                session.latch.offer(message.snapshot, message.t_input, now_ms)
            case FrameAck():
                return [*session.box.acked(message.frame)]
            case ShiftPhase():
                if len(self._sessions) == 1:  # several displays have no phase in common
                    self._clock.shift(message.ms)
            case RestartSession():
                return self._start(session, message, now_ms)
            case CloseSession():
                self._forget(session.id)
        return []

    def _open(self, message: OpenSession, now_ms: float) -> list[WorkerMessage]:
        self._forget(message.session)  # a gateway that opens a session again wants it anew
        try:
            if len(self._sessions) >= self._seats:
                raise NoFreeSeatError(self._seats)
            session = self._new_session(message)
        except Exception as error:
            return [self._failure(message.session, "a session was opened", error)]
        if not self._sessions:
            self._clock.restart(now_ms)
        self._sessions[session.id] = session
        return [Opened(session.id), *self._save(session, now_ms)]

    def _new_session(self, message: OpenSession) -> Session:
        if message.snapshot is not None:
            return restore_session(self._world, message.session, message.snapshot)
        theme = message.theme if message.theme is not None else self._world.spec.themes[0]
        seed = message.seed if message.seed is not None else self._pick_seed()
        start = WorldStart(theme, seed, _pixels(message.pictures))
        return open_session(self._world, message.session, start)

    def _start(
        self, session: Session, message: RestartSession, now_ms: float
    ) -> list[WorkerMessage]:
        """Begin anew in the same session. Theme and seed stay if not named: neither = reset."""
        theme = message.theme if message.theme is not None else session.start.theme
        seed = message.seed if message.seed is not None else session.start.seed
        try:
            session.restart(WorldStart(theme, seed, _pixels(message.pictures)), self._world)
        except Exception as error:
            return [self._fail(session.id, "a session was started anew", error)]
        return self._save(session, now_ms)

    # --- steps ------------------------------------------------------------------------------

    def next_step_ms(self) -> float | None:
        """When to step next (maybe in the past); None while no session is open."""
        return self._clock.next_start_ms() if self._sessions else None

    def step(self, now_ms: float) -> list[WorkerMessage]:
        """Latch every session's controls now, make its next frame; frames first, reports after."""
        self._legs.add({"late": now_ms - self._clock.next_start_ms()})
        turns = [_Turn(s, s.latch.take(now_ms), s.state) for s in self._sessions.values()]
        out, end_ms = self._advance(turns, now_ms)
        if self._sessions:
            self._clock.stepped(now_ms, end_ms)
            if self._lookahead is not None:
                self._clock.set_period(self._lookahead.period_ms)
        return out + self._reports(end_ms)

    def _advance(self, turns: Sequence[_Turn], now_ms: float) -> tuple[list[WorkerMessage], float]:
        """The turns' messages, and when the last frame was ready."""
        try:
            if self._aimed is not None:
                poses = [turn.latched.pose for turn in turns]
                self._aimed.aim([turn.session.state for turn in turns], poses)
            if self._lookahead is not None:
                return self._show(self._lookahead, turns, now_ms)
            if self._pipeline is not None:
                return self._begin(self._pipeline, turns, now_ms)
            frames = self._world_step(turns)
        except Exception as error:
            if len(turns) > 1:  # find the one at fault: a step that raises changes no state
                log.warning("a step of %d sessions failed, stepping them alone", len(turns))
                parts = [self._advance([turn], now_ms) for turn in turns]
                return [m for out, _ in parts for m in out], max(end for _, end in parts)
            return [self._fail(turns[0].session.id, "a frame was made", error)], now_ms
        self._count(turns, frames, now_ms)
        out: list[WorkerMessage] = []
        for index, turn in enumerate(turns):
            out += self._emit(turn, frames, index, now_ms)
        return out, frames.t_pixels

    def _begin(
        self, world: PipelinedWorld, turns: Sequence[_Turn], now_ms: float
    ) -> tuple[list[WorkerMessage], float]:
        """Make the tokens; the pixels follow by way of `collect`."""
        begun = world.begin([turn.session.state for turn in turns], _actions(turns))
        self._begun.append(_Begun(turns, begun, now_ms))
        return self.collect(keep=1), begun.t_tokens

    def _show(
        self, world: LookaheadWorld, turns: Sequence[_Turn], now_ms: float
    ) -> tuple[list[WorkerMessage], float]:
        """Hand out the pictures whose turn it is; each answers the step that it was begun in."""
        marks = [_Mark(turn.latched, now_ms) for turn in turns]
        shown = world.show([turn.session.state for turn in turns], _actions(turns), marks)
        batch = sum(picture is not None for picture in shown.pictures)
        self._frames += batch
        out: list[WorkerMessage] = []
        for turn, picture in zip(turns, shown.pictures, strict=True):
            if picture is not None:
                out += self._emit_picture(turn.session, picture, shown.t_done, batch)
        return out, shown.t_done

    def _emit_picture(
        self, session: Session, picture: Picture, t_done: float, batch: int
    ) -> Sequence[WorkerMessage]:
        # made again after a restart, it answers nobody: its past is not this worker's
        mark = picture.mark if isinstance(picture.mark, _Mark) else _Mark(LatchedControls(), t_done)
        latched = mark.latched
        t_tokens = max(picture.t_tokens, mark.latched_ms)
        header = FrameHeader(
            frame=session.frame,
            input_seq=latched.seq,
            input_time=latched.time,
            t_input=latched.t_input,
            t_latch=mark.latched_ms,
            t_tokens=t_tokens,
            t_pixels=t_done,  # now it is its turn; video needs a time of its own for each frame
            pose=picture.pose,
            batch=batch,
        )
        self._legs.add({"tokens": t_tokens - mark.latched_ms, "pixels": t_done - t_tokens})
        if latched.seq >= 0:
            self._legs.add({"input_age": mark.latched_ms - latched.t_input})
        session.record(latched.action, picture.pose)
        return session.box.put(header, picture.i420)

    def between(self, call: Callable[[], None]) -> None:
        """Have `call` called now and then while tokens are made, so that frames leave early."""
        if self._pipeline is not None:
            self._pipeline.between = call

    @property
    def unfinished(self) -> bool:
        """Whether there are frames that `collect` will bring."""
        return bool(self._begun)

    def collect(self, keep: int | None = None) -> list[WorkerMessage]:
        """The frames whose pixels are ready; waits for all but the newest `keep` steps."""
        out: list[WorkerMessage] = []
        while self._begun:
            begun = self._begun[0]
            must = keep is not None and len(self._begun) > keep
            if not must and not begun.frames.ready():
                break
            self._begun.popleft()
            out += self._finish(begun)
        return out

    def _finish(self, begun: _Begun) -> list[WorkerMessage]:
        try:
            frames = begun.frames.frames()
        except Exception as error:
            gone = [t.session.id for t in begun.turns if t.session.id in self._sessions]
            return [self._fail(session, "a frame was made", error) for session in gone]
        self._count(begun.turns, frames, begun.latched_ms)
        out: list[WorkerMessage] = []
        for index, turn in enumerate(begun.turns):
            session = turn.session
            # closed or begun anew in the meantime: nobody waits for this frame
            if self._sessions.get(session.id) is session and session.state is turn.state:
                out += self._emit(turn, frames, index, begun.latched_ms)
        return out

    def _world_step(self, turns: Sequence[_Turn]) -> Frames:
        frames = self._world.step([turn.session.state for turn in turns], _actions(turns))
        assert len(frames.i420) == len(frames.poses) == len(turns)
        return frames

    def _emit(
        self, turn: _Turn, frames: Frames, index: int, now_ms: float
    ) -> Sequence[WorkerMessage]:
        session, latched = turn.session, turn.latched
        header = FrameHeader(
            frame=session.frame,
            input_seq=latched.seq,
            input_time=latched.time,
            t_input=latched.t_input,
            t_latch=now_ms,
            t_tokens=frames.t_tokens,
            t_pixels=frames.t_pixels,
            pose=frames.poses[index],
            batch=len(frames.i420),
        )
        session.record(latched.action, header.pose)
        return session.box.put(header, frames.i420[index])

    def _count(self, turns: Sequence[_Turn], frames: Frames, now_ms: float) -> None:
        self._frames += len(turns)
        tokens, pixels = frames.t_tokens - now_ms, frames.t_pixels - frames.t_tokens
        self._legs.add({"tokens": tokens, "pixels": pixels, "step": tokens + pixels})
        for turn in turns:
            if turn.latched.seq >= 0:
                self._legs.add({"input_age": now_ms - turn.latched.t_input})

    # --- reports ----------------------------------------------------------------------------

    def final_snapshots(self) -> list[WorkerMessage]:
        """Where every session is: the last words of a worker that was told to stop."""
        return [m for session in list(self._sessions.values()) for m in self._save(session, 0.0)]

    def _reports(self, now_ms: float) -> list[WorkerMessage]:
        due = [s for s in self._sessions.values() if self._snapshot_due_ms[s.id] <= now_ms]
        out = [message for session in due for message in self._save(session, now_ms)]
        if now_ms >= self._stats_due_ms:
            self._stats_due_ms = now_ms + REPORT_EVERY_MS
            out.append(self._stats())
        return out

    def _stats(self) -> WorkerStats:
        return WorkerStats(
            {
                "sessions": len(self._sessions),
                "seats": self._seats,
                "frames": self._frames,
                "dropped": sum(s.box.dropped for s in self._sessions.values()),
                "stalls": self._clock.stalls,
                "legs_ms": self._legs.summary(),
            }
        )

    def _save(self, session: Session, now_ms: float) -> list[WorkerMessage]:
        try:
            data = pack_session(self._world, session)
        except Exception as error:
            return [self._fail(session.id, "a session was saved", error)]
        self._snapshot_due_ms[session.id] = now_ms + REPORT_EVERY_MS
        return [SessionSnapshot(session.id, data)]

    def _fail(self, session: str, doing: str, error: Exception) -> Failed:
        self._forget(session)
        return self._failure(session, doing, error)

    def _failure(self, session: str, doing: str, error: Exception) -> Failed:
        if isinstance(error, WorldError):
            known: WorldError = error
            log.warning("session %s: %s", session, error)
        else:
            known = WorldFailedError(doing, error)
            log.error("session %s failed while %s", session, doing, exc_info=error)
        texts = {name: text[:_MAX_TEXT] for name, text in known.as_dict().items()}
        return Failed(session, **texts)

    def _forget(self, session: str) -> None:
        self._snapshot_due_ms.pop(session, None)
        self._sessions.pop(session, None)


def _pixels(pictures: PromptFrames | None) -> torch.Tensor | None:
    """uint8 [T, 3, H, W]."""
    if pictures is None:
        return None
    shape = (pictures.count, pictures.height, pictures.width, 3)
    interleaved = np.frombuffer(pictures.rgb, np.uint8).reshape(shape)
    return torch.from_numpy(interleaved.transpose(0, 3, 1, 2).copy())


def _actions(turns: Sequence[_Turn]) -> torch.Tensor:
    return torch.tensor([turn.latched.action for turn in turns], dtype=torch.float32)
