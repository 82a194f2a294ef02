"""What the gateway keeps of each player: the session, and how its inputs are counted.

Pure: no sockets, no clocks.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from worldbridge.bridge.protocol import (
    BridgeError,
    ControllerState,
    Event,
    FrameHeader,
    Observation,
    PromptFrames,
    SessionInput,
)

__all__ = ["PlayerSession", "SequenceRebaser", "SessionStore"]


class SequenceRebaser:
    """Counts a session's inputs across connections.

    A page that is loaded again counts from 0. The worker must see one sequence and one pointer per
    session, so each connection gets an origin, which `to_client` takes off again.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._pointer: tuple[float, float] | None = (0.0, 0.0)  # None: the next state sets it
        self._newest: ControllerState | None = None

    @property
    def newest(self) -> ControllerState | None:
        """The newest state, as the session counts."""
        return self._newest

    def continue_from(self, newest: ControllerState | None) -> None:
        """Count on from what an earlier gateway counted."""
        self._newest = newest
        self.attach()

    def attach(self) -> None:
        """Continue the counters of the last connection with those of a new one."""
        if self._newest is not None:
            self._sequence, self._pointer = self._newest.sequence + 1, None

    def offer(self, states: Iterable[ControllerState]) -> ControllerState | None:
        """Return the newest state as the session counts, or None if all of them are old."""
        newest = max(states, key=lambda state: state.sequence)
        sequence = newest.sequence + self._sequence
        if self._newest is not None and sequence <= self._newest.sequence:
            return None
        x, y = newest.pointer
        if self._pointer is None:
            last = self._newest.pointer if self._newest is not None else (0.0, 0.0)
            self._pointer = (last[0] - x, last[1] - y)
        pointer = (x + self._pointer[0], y + self._pointer[1])
        self._newest = newest.replace(sequence=sequence, pointer=pointer)
        return self._newest

    def held(self) -> tuple[object, ...] | None:
        """Return what the player holds now; it changes whenever the player does something."""
        state = self._newest
        if state is None:
            return None
        return state.axes, state.buttons, state.keys, state.pointer, state.camera

    def to_client(self, header: FrameHeader) -> FrameHeader:
        """Return the header with the input's number as its client counts.

        The number is -1 if the input came from an earlier connection.
        """
        if header.input_sequence < 0:
            return header
        sequence = header.input_sequence - self._sequence
        if sequence < 0:
            return header.replace(input_sequence=-1, input_time=0.0, t_input=0.0)
        return header.replace(input_sequence=sequence)


@dataclass(slots=True, eq=False)
class PlayerSession:
    """A player's session, whoever is connected to it at the moment.

    Attributes:
        started: the player asked for the world to begin.
        opened: the worker steps it.
        restoring: the worker is opening it from `saved`.
        restart_due: the player restarted it, and the worker does not know yet.
        restart_ms: how far its restarts are ahead of their rate.
        observations: frames of an engine that the worker has not been sent yet, oldest first.
        deaths: how many workers ended while they had this session, one soon after the other.
        open_ms: when the worker was asked to open it, None while it was not.
        waiting_input: the newest input, while the worker has older ones to take.
        network: of the address that its player came from first, "" if unknown.
        patient: its player is a program, which may be idle for as long as it likes.
        active_ms: when its player did something last.
        warned: its player knows that an idle seat is free soon.
        frame: number of its newest frame.
        left_ms: when its player was heard last before the connection ended.
        notice: what its player still has to hear, None if nothing.
        left_frame: number of the newest frame that was sent to the player before.
    """

    id: str
    resume: str
    theme: str | None = None
    seed: int | None = None
    prompt_frames: PromptFrames | None = None
    inputs: SequenceRebaser = field(default_factory=SequenceRebaser)
    saved: bytes | None = None
    started: bool = False
    opened: bool = False
    depth: bool = False  # the worker was asked for it
    restoring: bool = False
    restart_due: bool = False
    restart_ms: float = -math.inf
    waiting_input: SessionInput | None = None
    observations: deque[Observation] = field(default_factory=lambda: deque(maxlen=4))
    deaths: int = 0
    open_ms: float | None = None
    network: str = ""
    patient: bool = False
    active_ms: float = 0.0
    warned: bool = False
    frame: int = -1
    left_ms: float | None = None
    left_frame: int = -1
    notice: Event | None = None


class SessionStore:
    """Sessions by id and by resume token, oldest first."""

    def __init__(self) -> None:
        self._by_id: dict[str, PlayerSession] = {}
        self._by_resume: dict[str, PlayerSession] = {}

    def __iter__(self) -> Iterator[PlayerSession]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def create(self, theme: str | None, seed: int | None) -> PlayerSession:
        """Return a new session."""
        name, resume = secrets.token_hex(8), secrets.token_urlsafe(24)
        session = PlayerSession(name, resume, theme, seed)
        self.add(session)
        return session

    def add(self, session: PlayerSession) -> None:
        """Take a session that an earlier gateway had."""
        self._by_id[session.id] = session
        self._by_resume[session.resume] = session

    def get(self, session_id: str) -> PlayerSession | None:
        """Return the session with an id, if there is one."""
        return self._by_id.get(session_id)

    def id_of(self, token: str | None) -> str:
        """Return the id of the session of a resume token, "" if there is none."""
        session = self._by_resume.get(token or "")
        return "" if session is None else session.id

    def resume(self, token: str) -> PlayerSession:
        """Return the session of a resume token. Raises BridgeError session_expired."""
        session = self._by_resume.get(token)
        if session is None:
            raise BridgeError(
                "session_expired",
                "there is no session to resume",
                "a resume token of a session that is still kept",
                "an unknown or expired token",
                "Say hello without `resume` to begin a new session.",
            )
        return session

    def renew(self, session: PlayerSession) -> None:
        """Give a session another resume token: the old one is void."""
        del self._by_resume[session.resume]
        session.resume = secrets.token_urlsafe(24)
        self._by_resume[session.resume] = session

    def newest(self) -> PlayerSession | None:
        """Return the newest session whose world was started, if there is one."""
        return next((s for s in reversed(self._by_id.values()) if s.started), None)

    def remove(self, session: PlayerSession) -> None:
        """Forget a session and its resume token."""
        self._by_id.pop(session.id, None)
        self._by_resume.pop(session.resume, None)
