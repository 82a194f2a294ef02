"""Who has a seat, who waits for one, and for how long. Pure: times come from the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from worldbridge.bridge.protocol import BridgeError, Seat, Seats

__all__ = ["SeatAllocator"]

GRACE_MS: Final = 30_000.0
MAX_WAITING: Final = 16


@dataclass(slots=True)
class _Place:
    """A seat, or a place in the queue, since `since_ms`.

    `until_ms` is when a vanished player loses it, None while the player is there. `spare`: another
    player may have the seat before that.
    """

    since_ms: float
    until_ms: float | None = None
    spare: bool = False


class SeatAllocator:
    """Seats and the queue for them, by session id.

    A vanished player's place is kept for `grace_ms`. How long others held their seats so far says
    how long the next ones will wait: a seat is taken to end at any time with the same rate.
    """

    def __init__(
        self, total: int, grace_ms: float = GRACE_MS, most_waiting: int = MAX_WAITING
    ) -> None:
        self.total = total
        self._grace_ms = grace_ms
        self._most_waiting = most_waiting
        self._held: dict[str, _Place] = {}
        self._queue: dict[str, _Place] = {}  # first come, first served
        self._ends = 0
        self._ended_ms = 0.0  # for how long the seats that ended were held, together

    def count(self) -> Seats:
        """Return how many seats are taken, those that anyone can have left out."""
        return Seats(sum(not place.spare for place in self._held.values()), self.total)

    def describe(self, now_ms: float) -> dict[str, Any]:
        """Return the counts as plain data, with the seats that are kept and for how long."""
        kept = self._kept_ms(now_ms)
        return {
            "used": self.count().used,
            "total": self.total,
            "kept": len(kept),
            "kept_s": round(kept[0] / 1000, 1) if kept else None,
            "waiting": len(self._queue),
        }

    # --- seats --------------------------------------------------------------------------------

    def spare(self) -> str | None:
        """Return the session to end so that the next one has a seat, if one has to end."""
        if len(self._held) < self.total:
            return None
        return next((name for name, place in self._held.items() if place.spare), None)

    def take(self, session: str, now_ms: float, wait: bool = False) -> bool:
        """Give a new session a seat, or a place in the queue; return whether it has a seat.

        Raises BridgeError no_free_seat.
        """
        assert session not in self._held, f"session {session} has a seat already"
        if len(self._held) < self.total and not self._first():
            self._held[session] = _Place(now_ms)
            return True
        if not wait or len(self._queue) >= self._most_waiting:
            raise self._full(now_ms, wait)
        self._queue[session] = _Place(now_ms)
        return False

    def restore(self, session: str, now_ms: float) -> None:
        """Give a session of an earlier gateway its seat again."""
        self._held[session] = _Place(now_ms)

    def promote(self, now_ms: float) -> str | None:
        """Give the first in the queue who is there a free seat, and return that session."""
        session = self._first() if len(self._held) < self.total else None
        if session is not None:
            del self._queue[session]
            self._held[session] = _Place(now_ms)
        return session

    def leave(self, session: str, now_ms: float, spare: bool = False) -> None:
        """Keep the place of a vanished player until the grace ends."""
        place = self._held.get(session) or self._queue.get(session)
        if place is not None:
            place.until_ms, place.spare = now_ms + self._grace_ms, spare

    def come_back(self, session: str) -> None:
        """Give a player who returned within the grace the place again."""
        place = self._held.get(session) or self._queue.get(session)
        assert place is not None, f"session {session} has no seat"
        place.until_ms, place.spare = None, False

    def free(self, session: str, now_ms: float) -> None:
        """Free the place of a session, if it has one."""
        self._queue.pop(session, None)
        place = self._held.pop(session, None)
        if place is not None:
            self._ends += 1
            self._ended_ms += now_ms - place.since_ms

    def keeps(self, session: str) -> bool:
        """Return whether a session has a place that no other player may have."""
        place = self._held.get(session) or self._queue.get(session)
        return place is not None and not place.spare

    def present(self, session: str) -> bool:
        """Return whether a session has a seat and its player is there."""
        place = self._held.get(session)
        return place is not None and place.until_ms is None

    def expired(self, now_ms: float) -> list[str]:
        """Return the sessions whose grace is over. They keep their place until `free`."""
        places = [*self._held.items(), *self._queue.items()]
        return [s for s, p in places if p.until_ms is not None and p.until_ms <= now_ms]

    # --- the queue ----------------------------------------------------------------------------

    def waits(self, session: str) -> bool:
        """Return whether a session is in the queue."""
        return session in self._queue

    def someone_waits(self) -> bool:
        """Return whether a player is there who would take a seat."""
        return self._first() is not None

    def waiting(self) -> list[str]:
        """Return the sessions in the queue, the next one first."""
        return list(self._queue)

    def seat(self, session: str, now_ms: float) -> Seat:
        """Return the place of a player's session as the protocol has it."""
        if session not in self._queue:
            return Seat("seated")
        position = list(self._queue).index(session)
        wait_ms = self._expected_ms(position, now_ms)
        return Seat("queued", position, None if wait_ms is None else round(wait_ms / 1000, 1))

    def reason(self, now_ms: float) -> str:
        """Return why there is no seat, for people."""
        kept = self._kept_ms(now_ms)
        used = self.count().used
        text = "one player" if used == 1 else f"{used} players"
        if kept:
            text += f"; a seat is kept for a player who vanished, for {kept[0] / 1000:.0f} s more"
        return text

    def _first(self) -> str | None:
        """Return the first in the queue whose player is there."""
        return next((name for name, place in self._queue.items() if place.until_ms is None), None)

    def _kept_ms(self, now_ms: float) -> list[float]:
        """Return for how long seats are still kept, shortest first."""
        untils = [p.until_ms for p in self._held.values() if p.until_ms is not None and not p.spare]
        return sorted(max(0.0, until - now_ms) for until in untils)

    def _expected_ms(self, position: int, now_ms: float) -> float | None:
        held_ms = self._ended_ms + sum(now_ms - place.since_ms for place in self._held.values())
        waits = []
        if self._ends and held_ms > 0 and self.total:
            waits.append((position + 1) * held_ms / (self._ends * self.total))
        waits += self._kept_ms(now_ms)[position : position + 1]
        return min(waits, default=None)

    def _full(self, now_ms: float, wait: bool) -> BridgeError:
        if wait:
            return BridgeError(
                "no_free_seat",
                "every seat is taken, and the queue is full",
                f"fewer than {self._most_waiting} players who wait",
                f"{len(self._queue)}",
                "Try again later, or watch with the role `spectator`.",
            )
        return BridgeError(
            "no_free_seat",
            "every seat is taken",
            f"fewer than {self.total} players",
            self.reason(now_ms),
            "Say hello with `wait` to queue for a seat, or watch with the role `spectator`.",
        )
