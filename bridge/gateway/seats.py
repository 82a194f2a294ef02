"""Who holds a seat: one per player's session, kept for a while after the player vanished."""

from __future__ import annotations

from typing import Final

from worldbridge.bridge.errors import NO_FREE_SEAT, BridgeError
from worldbridge.bridge.protocol import Seats

GRACE_MS: Final = 30_000.0


class SeatAllocator:
    """Seats by session id. A vanished player's seat is kept `grace_ms` for a resume."""

    def __init__(self, total: int, grace_ms: float = GRACE_MS) -> None:
        self.total = total
        self._grace_ms = grace_ms
        self._held: dict[str, float | None] = {}  # session -> when the grace ends, None: present

    @property
    def used(self) -> int:
        return len(self._held)

    def count(self) -> Seats:
        return Seats(self.used, self.total)

    def take(self, session: str) -> None:
        """A new session sits down. Raises BridgeError no_free_seat."""
        assert session not in self._held, f"session {session} has a seat already"
        if self.used >= self.total:
            raise BridgeError(
                NO_FREE_SEAT,
                "every seat is taken",
                f"fewer than {self.total} players",
                f"{self.used} players",
                "Wait for a player to leave, or watch with the role `spectator`.",
            )
        self._held[session] = None

    def leave(self, session: str, now_ms: float) -> None:
        """The player vanished; the seat stays theirs until the grace ends."""
        if session in self._held:
            self._held[session] = now_ms + self._grace_ms

    def come_back(self, session: str) -> None:
        assert session in self._held, f"session {session} has no seat"
        self._held[session] = None

    def free(self, session: str) -> None:
        self._held.pop(session, None)

    def expired(self, now_ms: float) -> list[str]:
        """Sessions whose grace is over. They keep their seat until `free`."""
        return [s for s, until in self._held.items() if until is not None and until <= now_ms]
