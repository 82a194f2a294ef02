"""The newest controller state of one seat: late packets are ignored, silence releases it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from worldbridge.bridge.protocol import ControllerState, FrameHeader

SILENCE_MS: Final = 250.0


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where one client's counters begin on the session's scale."""

    seq: int = 0
    pointer: tuple[float, float] | None = (0.0, 0.0)  # None: the next snapshot fixes it


class SequenceRebaser:
    """Keeps the newest snapshot by `seq`, on a scale that outlives the client's connection.

    A page that is loaded again counts from 0 once more. The worker must see one sequence and one
    pointer per session, so each connection is given an origin; `to_client` takes it off again.
    """

    def __init__(self) -> None:
        self._origin = _Origin()
        self._newest: ControllerState | None = None
        self._heard_ms = 0.0

    def attach(self) -> None:
        """A client begins to steer: its counters continue where the last one's ended."""
        if self._newest is not None:
            self._origin = _Origin(self._newest.seq + 1, None)
            # the one who left may have held a key
            self._newest = replace(self._newest, axes=(0.0,) * 4, buttons=0, keys=())

    def offer(self, snapshots: Iterable[ControllerState], now_ms: float) -> ControllerState | None:
        """The newest of `snapshots` on the session's scale, None if all of them are old."""
        newest = max(snapshots, key=lambda snapshot: snapshot.seq)
        if self._newest is not None and newest.seq + self._origin.seq <= self._newest.seq:
            return None
        x0, y0 = self._pointer_origin(newest)
        x, y = newest.pointer
        self._newest = replace(newest, seq=newest.seq + self._origin.seq, pointer=(x + x0, y + y0))
        self._heard_ms = now_ms
        return self._newest

    def _pointer_origin(self, first: ControllerState) -> tuple[float, float]:
        if self._origin.pointer is None:
            last = self._newest.pointer if self._newest is not None else (0.0, 0.0)
            origin = (last[0] - first.pointer[0], last[1] - first.pointer[1])
            self._origin = replace(self._origin, pointer=origin)
            return origin
        return self._origin.pointer

    def read(self, now_ms: float) -> ControllerState | None:
        """The state that counts now: neutral after 250 ms of silence, None before any input."""
        if self._newest is None or now_ms - self._heard_ms <= SILENCE_MS:
            return self._newest
        return replace(self._newest, axes=(0.0,) * 4, buttons=0, keys=())

    def to_client(self, header: FrameHeader) -> FrameHeader:
        """The header with the input's number as its client counted, -1 for an earlier client's."""
        if header.input_seq < 0:
            return header
        seq = header.input_seq - self._origin.seq
        if seq < 0:
            return replace(header, input_seq=-1, input_time=0.0, t_input=0.0)
        return replace(header, input_seq=seq)
