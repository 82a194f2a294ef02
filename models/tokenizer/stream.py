"""What a stream remembers between steps.

Every temporal layer is written once, for a chunk of frames after some past. A whole video is one
chunk without a past, so a stream and a whole video run the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Pass", "StreamState"]


@dataclass(frozen=True, slots=True)
class StreamState:
    """Memory of `batch` streams of one grid; every tensor in `cache` is [batch, ...].

    A step returns a new state and leaves the old one usable. All streams of one state are
    either fresh (nothing seen) or started, because a first latent gives other frames.
    """

    kind: Literal["encode", "decode"]
    batch: int
    height: int  # of the latent grid
    width: int
    window: int | None  # earlier latents that the temporal attention may see; None = all
    counts: tuple[int, ...]  # latents seen, per stream
    cache: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def fresh(self) -> bool:
        return self.counts[0] == 0

    def select(self, rows: Sequence[int]) -> StreamState:
        """The streams `rows`, in that order; raises ValueError for a row that is not there."""
        rows = list(rows)
        if not rows or min(rows) < 0 or max(rows) >= self.batch:
            raise ValueError(
                f"rows: expected at least one number in 0..{self.batch - 1}, got {rows}"
            )
        return StreamState(
            kind=self.kind,
            batch=len(rows),
            height=self.height,
            width=self.width,
            window=self.window,
            counts=tuple(self.counts[row] for row in rows),
            cache={key: value[rows] for key, value in self.cache.items()},
        )

    @staticmethod
    def concat(states: Sequence[StreamState]) -> StreamState:
        """All streams of `states` as one batch; raises ValueError where they do not fit."""
        if not states:
            raise ValueError("states: expected at least one stream state, got none")
        first = states[0]
        for state in states:
            for name in ("kind", "height", "width", "window", "fresh"):
                ours, theirs = getattr(first, name), getattr(state, name)
                if ours != theirs:
                    raise ValueError(
                        f"states: expected the same {name} everywhere, got {ours} and {theirs}"
                        + ("; step fresh streams once by themselves" if name == "fresh" else "")
                    )
        return StreamState(
            kind=first.kind,
            batch=sum(state.batch for state in states),
            height=first.height,
            width=first.width,
            window=first.window,
            counts=tuple(count for state in states for count in state.counts),
            cache={key: _stack([s.cache[key] for s in states]) for key in first.cache},
        )


def _stack(parts: list[Tensor]) -> Tensor:
    """Concatenate along the batch; attention memories of other lengths are padded on the left."""
    longest = max(part.shape[1] for part in parts)
    padded = [
        torch.cat([part.new_zeros(len(part), longest - part.shape[1], *part.shape[2:]), part], 1)
        if part.shape[1] < longest
        else part
        for part in parts
    ]
    return torch.cat(padded)


class Pass:
    """One run of the encoder or decoder over a chunk: what it reads and what it leaves."""

    def __init__(self, batch: int, state: StreamState | None = None) -> None:
        self.batch = batch
        self.first = state is None or state.fresh
        self.window = state.window if state else None
        self.counts = state.counts if state else (0,) * batch
        self._state = state
        self._written: dict[str, Tensor] = {}

    def recall(self, key: str) -> Tensor:
        """What the layer `key` kept at the end of the last chunk; only after the first."""
        assert self._state is not None
        return self._state.cache[key]

    def keep(self, key: str, value: Tensor) -> None:
        """Remember `value`, [B, ...], for the next chunk; nothing if there is none."""
        if self._state is not None:
            # A copy: a view would hold the whole chunk in memory.
            self._written[key] = value.clone()

    def mask(self, new: int, total: int, device: torch.device) -> Tensor | None:
        """Which latents the newest `new` of `total` see, [1 or B, 1, new, total]; None = all."""
        even = len(set(self.counts)) == 1
        if new == 1 and even and (self.window is None or total <= self.window + 1):
            return None
        slot = torch.arange(total, device=device)
        now = torch.arange(total - new, total, device=device)[:, None]
        seen = slot <= now
        if self.window is not None:
            seen &= slot >= now - self.window
        # Streams that have seen less than the longest have padding on the left.
        past = torch.tensor(self.counts, device=device).clamp(max=total - new)
        real = slot >= (total - new - past)[:, None]
        return (seen[None] & real[:, None])[:, None]

    def next_state(self, latents: int) -> StreamState:
        state = self._state
        assert state is not None
        return StreamState(
            kind=state.kind,
            batch=state.batch,
            height=state.height,
            width=state.width,
            window=state.window,
            counts=tuple(count + latents for count in state.counts),
            cache=self._written,
        )
