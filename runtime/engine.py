"""The worker without its socket: messages and the time in, messages out.

All times are milliseconds of one monotonic clock that the caller reads. The order of a turn:
hand over every message that is there (`receive`), then `step` once `next_step_ms` has come, so that
each frame answers the newest input.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldbridge.bridge.protocol import (
    DEPTH_SCALE,
    CloseSession,
    Failed,
    FrameAck,
    FrameHeader,
    GatewayMessage,
    Observation,
    Opened,
    OpenSession,
    PromptFrames,
    RestartSession,
    SavedSession,
    SessionDepth,
    SessionInput,
    SessionObservation,
    ShiftPhase,
    Shutdown,
    WorkerMessage,
    WorkerPing,
    WorkerPong,
    WorkerStats,
)
from worldbridge.clock import now_ms
from worldbridge.runtime.controls import LatchedControls
from worldbridge.runtime.errors import NoFreeSeatError, WorldError, WorldFailedError
from worldbridge.runtime.presentation_clock import PresentationClock
from worldbridge.runtime.session import Session, open_session, pack_session, restore_session
from worldbridge.runtime.stats import LegStatistics
from worldbridge.runtime.worlds.contract import (
    Controls,
    EngineFrame,
    WorldFrame,
    WorldModel,
    WorldStart,
)

__all__ = ["Engine"]

log = logging.getLogger(__name__)

REPORT_EVERY_MS = 1000.0
LARGE_SESSION_BYTES = 4_000_000
_MAX_TEXT = 2000


@dataclass(frozen=True, slots=True)
class _Tag:
    """The controls of one frame and when they were latched; the world returns it with the frame."""

    latched: LatchedControls
    latched_ms: float


class Engine:
    """Steps all open sessions of one world together, each kept apart from the others' failures."""

    def __init__(
        self,
        world: WorldModel[Any],
        *,
        seats: int,
        pick_seed: Callable[[], int],
        clock: Callable[[], float] = now_ms,
    ) -> None:
        """`clock` is read after the world has worked; every other time is given by the caller."""
        if seats < 1:
            raise ValueError(f"expected at least one seat, got {seats}")
        self._now_ms = clock
        self._world = world
        self._seats = seats
        self._pick_seed = pick_seed
        self._clock = PresentationClock(world.spec.fps)
        self._sessions: dict[str, Session] = {}
        self._snapshot_due_ms: dict[str, float] = {}
        self._stats_due_ms = 0.0
        self._legs = LegStatistics()
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
                if message.sessions is not None:
                    for lost in set(self._sessions).difference(message.sessions):
                        self._forget(lost)
                return [WorkerPong(message.time)]
            case Shutdown():
                self.stopped = True
                return []
        session = self._sessions.get(message.session)
        if session is None:
            return []
        match message:
            case SessionInput():
                session.latch.offer(message.state, message.t_input, now_ms)
            case SessionObservation():
                self._observe(session, message.observation)
            case SessionDepth():
                session.depth = message.wanted
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
        self._forget(message.session)  # a gateway that opens a session again wants a new one
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
        if message.saved is not None:
            return restore_session(self._world, message.session, message.saved)
        theme = message.theme if message.theme is not None else self._world.spec.themes[0]
        seed = message.seed if message.seed is not None else self._pick_seed()
        start = _world_start(theme, seed, message.prompt_frames)
        return open_session(self._world, message.session, start)

    def _start(
        self, session: Session, message: RestartSession, now_ms: float
    ) -> list[WorkerMessage]:
        """Restart a session. Theme and seed stay if they are not named."""
        theme = message.theme if message.theme is not None else session.start.theme
        seed = message.seed if message.seed is not None else session.start.seed
        try:
            session.restart(_world_start(theme, seed, message.prompt_frames), self._world)
        except Exception as error:
            return [self._fail(session.id, "a session was restarted", error)]
        return self._save(session, now_ms)

    def _observe(self, session: Session, observation: Observation) -> None:
        """Let a frame join a session's memory. One that the world refuses changes nothing."""
        try:
            self._world.observe(session.state, _engine_frame(observation))
        except Exception as error:  # the boundary of a session
            log.warning("session %s: a frame of an engine was refused: %s", session.id, error)

    # --- steps ------------------------------------------------------------------------------

    def next_step_ms(self) -> float | None:
        """When to step next (maybe in the past); None while no session is open."""
        return self._clock.next_start_ms() if self._sessions else None

    def step(self, now_ms: float) -> list[WorkerMessage]:
        """Latch every session's controls now, submit them together, and send what is finished."""
        self._legs.add({"late": now_ms - self._clock.next_start_ms()})
        sessions = list(self._sessions.values())
        try:
            self._submit(sessions, now_ms)
        except Exception as error:  # not even the world knows whose fault it is
            return [self._fail(session.id, "a frame was made", error) for session in sessions]
        out = self.poll()
        end_ms = self._now_ms()
        if self._sessions:
            self._clock.stepped(now_ms, end_ms)
            self._clock.set_period(self._world.period_ms)
        return out + self._reports(end_ms)

    def _submit(self, sessions: Sequence[Session], now_ms: float) -> None:
        latched = [session.latch.take(now_ms) for session in sessions]
        controls = [
            Controls(x.action, x.pose, _Tag(x, now_ms), session.depth)
            for session, x in zip(sessions, latched, strict=True)
        ]
        self._world.submit([session.state for session in sessions], controls)

    def poll(self) -> list[WorkerMessage]:
        """The frames that are finished, and the failures of sessions that have none."""
        out: list[WorkerMessage] = []
        # A world may call for finished frames while it opens the state of a restarting session.
        waiting = [s for s in self._sessions.values() if s.state is not None]
        while waiting:
            answers = self._world.poll([session.state for session in waiting])
            answered = [(s, a) for s, a in zip(waiting, answers, strict=True) if a is not None]
            batch = sum(isinstance(answer, WorldFrame) for _, answer in answered)
            for session, answer in answered:
                if isinstance(answer, WorldFrame):
                    out += self._emit(session, answer, batch)
                else:
                    out.append(self._fail(session.id, "a frame was made", answer))
            waiting = [s for s, answer in answered if isinstance(answer, WorldFrame)]
        return out

    def _emit(self, session: Session, frame: WorldFrame, batch: int) -> Sequence[WorkerMessage]:
        # made again after a restart, it answers nobody: its past is not this worker's
        unknown = _Tag(LatchedControls(), frame.t_pixels)
        tag = frame.tag if isinstance(frame.tag, _Tag) else unknown
        latched = tag.latched
        header = FrameHeader(
            frame=session.frame,
            input_sequence=latched.seq,
            input_time=latched.time,
            t_input=latched.t_input,
            t_controls=tag.latched_ms,
            t_tokens=max(frame.t_tokens, tag.latched_ms),
            t_frame=frame.t_pixels,
            camera=frame.pose,
            batch=batch,
        )
        self._count(header)
        session.record(latched.action, frame.pose)
        if session.depth and frame.depth is not None:
            return session.box.put(header, frame.i420 + _steps(frame.depth), DEPTH_SCALE)
        return session.box.put(header, frame.i420)

    def _count(self, header: FrameHeader) -> None:
        self._frames += 1
        tokens, pixels = header.t_tokens - header.t_controls, header.t_frame - header.t_tokens
        self._legs.add({"tokens": tokens, "pixels": pixels, "step": tokens + pixels})
        if header.input_sequence >= 0:
            self._legs.add({"input_age": header.t_controls - header.t_input})

    # --- reports ----------------------------------------------------------------------------

    def final_snapshots(self) -> list[WorkerMessage]:
        """Where every session is: sent by a worker that stops."""
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
                "spans_ms": self._legs.summary(),
            }
        )

    def _save(self, session: Session, now_ms: float) -> list[WorkerMessage]:
        try:
            data = pack_session(self._world, session)
        except Exception as error:
            return [self._fail(session.id, "a session was saved", error)]
        # A large session is saved less often, so that saving never takes much of the time.
        rarer = max(1.0, len(data) / LARGE_SESSION_BYTES)
        self._snapshot_due_ms[session.id] = now_ms + REPORT_EVERY_MS * rarer
        return [SavedSession(session.id, memoryview(data))]

    def _fail(self, session: str, doing: str, error: Exception) -> Failed:
        self._forget(session)
        return self._failure(session, doing, error)

    def _failure(self, session: str, doing: str, error: Exception) -> Failed:
        if isinstance(error, WorldError):
            known: WorldError = error
            log.warning("session %s: %s", session, error, extra={"session": session})
        else:
            known = WorldFailedError(doing, error)
            extra = {"session": session}
            log.error("session %s failed while %s", session, doing, exc_info=error, extra=extra)
        texts: dict[str, Any] = {name: text[:_MAX_TEXT] for name, text in known.as_dict().items()}
        return Failed(session, **texts)

    def _forget(self, session: str) -> None:
        self._snapshot_due_ms.pop(session, None)
        self._sessions.pop(session, None)


def _steps(depth: bytes) -> bytes:
    """Return metres, float32, as uint16 steps of `DEPTH_SCALE`; 0 for what is beyond them."""
    steps = np.rint(np.frombuffer(depth, np.float32) / np.float32(DEPTH_SCALE))
    steps[~((steps >= 0) & (steps <= 65_535))] = 0
    data: bytes = steps.astype("<u2").tobytes()
    return data


def _world_start(theme: str, seed: int, frames: PromptFrames | None) -> WorldStart:
    if frames is None:
        return WorldStart(theme, seed)
    shape = (frames.count, frames.height, frames.width, 3)
    interleaved = np.frombuffer(frames.rgb, np.uint8).reshape(shape)
    pixels = torch.from_numpy(interleaved.transpose(0, 3, 1, 2).copy())
    nearness = None
    if frames.depth is not None:
        nearness = _nearness(frames.depth, frames.height, frames.width, frames.depth_scale)
    return WorldStart(theme, seed, pixels, nearness)


def _nearness(depth: bytes, height: int, width: int, scale: float) -> torch.Tensor:
    """Return float32 [height, width] in 1/m of depth as uint16; 0 stays 0."""
    metres = np.frombuffer(depth, "<u2").reshape(height, width).astype(np.float32)
    metres *= np.float32(scale)
    return torch.from_numpy(np.divide(1.0, metres, out=np.zeros_like(metres), where=metres > 0))


def _engine_frame(observation: Observation) -> EngineFrame:
    height, width = observation.height, observation.width
    rgb = np.frombuffer(observation.rgb, np.uint8).reshape(height, width, 3)
    return EngineFrame(
        torch.from_numpy(rgb.transpose(2, 0, 1).copy()),
        _nearness(observation.depth, height, width, observation.depth_scale),
        observation.camera,
        observation.fresh,
    )
