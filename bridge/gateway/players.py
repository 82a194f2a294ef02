"""What the gateway keeps of each player: the session, its seat, and how inputs are counted.

Pure: no sockets, no clocks.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from worldbridge.bridge.protocol import (
    BridgeError,
    ControllerState,
    FrameHeader,
    PromptFrames,
    Seats,
    SessionInput,
)

__all__ = ["PlayerSession", "SeatAllocator", "SequenceRebaser", "SessionStore"]

GRACE_MS: Final = 30_000.0


class SeatAllocator:
    """Seats by session id. A vanished player's seat is kept for `grace_ms`."""

    def __init__(self, total: int, grace_ms: float = GRACE_MS) -> None:
        self.total = total
        self._grace_ms = grace_ms
        self._held: dict[str, float | None] = {}  # session -> when the grace ends, None: present

    def count(self) -> Seats:
        return Seats(len(self._held), self.total)

    def take(self, session: str) -> None:
        """Give a new session a seat. Raises BridgeError no_free_seat."""
        assert session not in self._held, f"session {session} has a seat already"
        used = len(self._held)
        if used >= self.total:
            raise BridgeError(
                "no_free_seat",
                "every seat is taken",
                f"fewer than {self.total} players",
                f"{used} players",
                "Wait for a player to leave, or watch with the role `spectator`.",
            )
        self._held[session] = None

    def leave(self, session: str, now_ms: float) -> None:
        """Keep the seat of a vanished player until the grace ends."""
        if session in self._held:
            self._held[session] = now_ms + self._grace_ms

    def come_back(self, session: str) -> None:
        """Give a player who returned within the grace the seat again."""
        assert session in self._held, f"session {session} has no seat"
        self._held[session] = None

    def free(self, session: str) -> None:
        """Free the seat of a session, if it has one."""
        self._held.pop(session, None)

    def expired(self, now_ms: float) -> list[str]:
        """Return the sessions whose grace is over. They keep their seat until `free`."""
        return [s for s, until in self._held.items() if until is not None and until <= now_ms]


class SequenceRebaser:
    """Counts a session's inputs across connections.

    A page that is loaded again counts from 0. The worker must see one sequence and one pointer per
    session, so each connection gets an origin, which `to_client` takes off again.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._pointer: tuple[float, float] | None = (0.0, 0.0)  # None: the next state sets it
        self._newest: ControllerState | None = None

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
        deaths: how many workers ended while they had this session, one soon after the other.
        open_ms: when the worker was asked to open it, None while it was not.
        waiting_input: the newest input, while the worker has older ones to take.
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
    restoring: bool = False
    restart_due: bool = False
    restart_ms: float = -math.inf
    waiting_input: SessionInput | None = None
    deaths: int = 0
    open_ms: float | None = None


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
        self._by_id[session.id] = session
        self._by_resume[session.resume] = session
        return session

    def get(self, session_id: str) -> PlayerSession | None:
        """Return the session with an id, if there is one."""
        return self._by_id.get(session_id)

    def resume(self, token: str) -> PlayerSession:
        """Return the session of a resume token. Raises BridgeError session_expired."""
        session = self._by_resume.get(token)
        if session is None:
            raise BridgeError(
                "session_expired",
                "there is no session to resume",
                "a resume token of a session that was left less than 30 s ago",
                "an unknown or expired token",
                "Say hello without `resume` to begin a new session.",
            )
        return session

    def newest(self) -> PlayerSession | None:
        """Return the newest session whose world was started, if there is one."""
        return next((s for s in reversed(self._by_id.values()) if s.started), None)

    def remove(self, session: PlayerSession) -> None:
        """Forget a session and its resume token."""
        self._by_id.pop(session.id, None)
        self._by_resume.pop(session.resume, None)
