"""What a stream of the tokenizer keeps between steps.

Every temporal layer is written once, for a chunk of frames after some past. A whole video is one
chunk without a past, so streams and whole videos run the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.errors import require

__all__ = ["SEEN", "FixedPass", "Pass", "StreamState"]

SEEN = "seen"  # int32 [1, 1]: how many latents of the attention's cache are real


@dataclass(frozen=True, slots=True)
class StreamState:
    """The caches of `batch` streams with one grid; every tensor in `cache` is [batch, ...].

    A step returns a new state and leaves the old one usable. The streams of one state are either
    all fresh (nothing seen) or all started, because a first latent makes fewer frames.
    """

    batch: int
    height: int  # of the latent grid
    width: int
    window: int | None  # past latents that the temporal attention sees; None = all
    counts: tuple[int, ...]  # latents seen, per stream
    cache: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, batch: int, height: int, width: int, window: int | None) -> StreamState:
        """Return fresh streams. Raises InputError for sizes below 1 and a negative window."""
        for name, size in (("batch", batch), ("height", height), ("width", width)):
            require(size >= 1, name, "at least 1", size)
        require(window is None or window >= 0, "window", "at least 0", window)
        return cls(batch, height, width, window, (0,) * batch)

    @property
    def fresh(self) -> bool:
        return self.counts[0] == 0

    def check(self, batch: int, height: int, width: int) -> None:
        """Raise InputError unless the state is of that many streams with that latent grid."""
        ours = (self.batch, self.height, self.width)
        got = (batch, height, width)
        require(ours == got, "state", f"input of batch, height, width {ours} in latents", got)

    def select(self, rows: Sequence[int]) -> StreamState:
        """Return the streams `rows`, in that order. Raises InputError for a missing row."""
        rows = list(rows)
        fits = bool(rows) and min(rows) >= 0 and max(rows) < self.batch
        require(fits, "rows", f"at least one number in 0..{self.batch - 1}", rows)
        return replace(
            self,
            batch=len(rows),
            counts=tuple(self.counts[row] for row in rows),
            cache={key: value[rows] for key, value in self.cache.items()},
        )

    @staticmethod
    def concat(states: Sequence[StreamState]) -> StreamState:
        """Return all streams as one batch. Raises InputError where they do not fit together."""
        require(bool(states), "states", "at least one stream state", "none")
        first = states[0]
        for state in states:
            for name in ("height", "width", "window", "fresh"):
                ours, theirs = getattr(first, name), getattr(state, name)
                remedy = "step fresh streams once by themselves" if name == "fresh" else ""
                expected = f"the same {name} everywhere"
                require(ours == theirs, "states", expected, f"{ours} and {theirs}", remedy)
        return replace(
            first,
            batch=sum(state.batch for state in states),
            counts=tuple(count for state in states for count in state.counts),
            cache={key: _stack([s.cache[key] for s in states]) for key in first.cache},
        )


def _stack(parts: list[Tensor]) -> Tensor:
    """Concatenate along the batch, padding shorter attention caches on the left."""
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
        """Return what the layer `key` kept at the end of the last chunk; only after the first."""
        assert self._state is not None
        return self._state.cache[key]

    def keep(self, key: str, value: Tensor) -> None:
        """Keep `value` [B, ...] for the next chunk, if there will be one."""
        if self._state is not None:
            # A copy: a view would hold the whole chunk in memory.
            self._written[key] = value.clone()

    def mask(self, new: int, total: int, device: torch.device) -> Tensor | None:
        """Return which latents the newest see, [1 or B, 1, new, total]; None: all."""
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
        """Return the state after this chunk of `latents` latents."""
        assert self._state is not None
        counts = tuple(count + latents for count in self._state.counts)
        return replace(self._state, counts=counts, cache=self._written)


class FixedPass(Pass):
    """`Pass` of one latent of one stream whose caches keep their shapes, as fixed graphs need.

    The temporal attention's cache always holds `window` latents. Until as many have been seen, it
    begins with zeros that no query sees. The result is that of a stream with this window.
    """

    def __init__(self, window: int | None, past: Mapping[str, Tensor] | None) -> None:
        super().__init__(1)
        self.first = past is None
        self.window = window
        self.past = past or {}

    def recall(self, key: str) -> Tensor:
        return self.past[key]

    def keep(self, key: str, value: Tensor) -> None:
        if key.endswith((".k", ".v")):  # of the temporal attention, [1, latents, pixels, C]
            assert self.window is not None
            value = F.pad(value, (0, 0, 0, 0, self.window - value.shape[1], 0))
        self._written[key] = value

    def mask(self, new: int, total: int, device: torch.device) -> Tensor | None:
        assert new == 1
        if self.first:
            return None
        slot = torch.arange(total, dtype=torch.int32, device=device)
        return (slot >= total - 1 - self.past[SEEN]).view(1, 1, 1, total)

    def memory(self) -> dict[str, Tensor]:
        """Return the next step's `past`; it has a count only where attention needs it."""
        if not any(key.endswith(".k") for key in self._written):
            return self._written
        if self.first:
            device = next(iter(self._written.values())).device
            seen = torch.ones(1, 1, dtype=torch.int32, device=device)
        else:
            seen = (self.past[SEEN] + 1).clamp(max=self.window)
        return {**self._written, SEEN: seen}
