"""What runs forward passes for `Decoder`: eager PyTorch, packed matrices on a CPU, or CUDA graphs.

Every executor is an `Executor`; the loop over a latent is `Decoder`'s, and a step kernel's
where an executor has a `run_latent` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from worldbridge.models.transformer import KVCache
from worldbridge.runtime.decoding.drafts import DraftCounts, TokenLine, VerifyStep

__all__ = ["Batch", "ContextPairs", "DecodeSession", "Executor", "RunLatent", "Wave"]

RunLatent = Callable[["Batch", Callable[[], None]], None]  # and what to call before each step
ContextPairs = list[tuple[Tensor, Tensor]]  # per layer: keys, values [1, Hkv, m, head_dim]


@dataclass(slots=True, weakref_slot=True, eq=False)
class DecodeSession:
    """What decoding remembers of one stream. Its slot is free again when the session is forgotten.

    The cache holds every token of the window except, for models in raster order, the newest one.
    """

    seed: int
    slot: int
    latents: int = 0  # so far, the absolute position of the next one
    window: list[Tensor] = field(default_factory=list)  # [h, w] codes, oldest first
    conditions: list[Tensor] = field(default_factory=list)  # [condition_dim], of the same latents
    poses: list[Tensor] = field(default_factory=list)  # [8], the cameras of the same latents
    pose: Tensor | None = None  # [8], of the latent that is being fed
    view: Tensor | None = None  # [h * w, dim], what that adds to the latent's tokens
    context: Tensor | None = None  # [m, context_dim]
    context_pairs: ContextPairs | None = None  # keys and values of `context` or `condition`
    condition: Tensor | None = None  # of the newest latent that was fed


@dataclass(slots=True)
class Batch:
    """The latents that are sampled together. Executors add what their forwards need."""

    sessions: Sequence[DecodeSession]
    line: TokenLine


class Wave(Protocol):
    """One forward of a schedule whose steps are known beforehand."""

    @property
    def sampled(self) -> Sequence[int]:
        """The positions of the latent that it samples."""


class Executor:
    """Runs forwards over a KV cache, and samples behind them; the defaults are eager PyTorch's."""

    cache: KVCache
    size: int  # tokens of a latent
    rows: int  # per session, of a forward that samples
    waves: Sequence[Wave]  # empty: verify drafts in raster order
    enqueued = 0  # forwards that may be enqueued ahead of the device; 0: each is waited for
    keeps_sampled = False  # sampling a latent leaves its keys and values as `prefill` would
    whole_batch = False  # sessions that are done take part in every forward

    @property
    def run_latent(self) -> RunLatent | None:
        """What samples a whole latent in place of `Decoder`'s loop."""
        return None

    def exclusive(self) -> AbstractContextManager[None]:
        """Return a context to sample or prefill in."""
        return nullcontext()

    def groups(self, sessions: Sequence[DecodeSession]) -> Sequence[range]:
        """Return which sessions may be decoded together."""
        return [range(len(sessions))]

    def most_rows(self, sessions: int) -> int:
        """Return how many rows of each session a forward may have."""
        return self.size

    def check_context(self, context: Tensor) -> None:
        """Raise ValueError for a text context [m, context_dim] that is too long."""

    def update_counts(self, counts: DraftCounts) -> None:
        """Write what a device has counted itself into `counts`."""

    def look(self, session: DecodeSession, pose: Tensor, first: Tensor) -> None:
        """Turn a session's camera to a pose [8]; `first` is that of its oldest latent."""
        raise ValueError("this model takes no camera")

    def plan(self, batch: Batch) -> Sequence[Wave]:
        """Return the waves of this batch: those of given tokens alone may join later ones."""
        return self.waves

    def prefill(self, session: DecodeSession, codes: Tensor, condition: Tensor | None) -> None:
        """Fill the cache with a known latent, codes [h, w]."""
        raise NotImplementedError

    def begin(
        self,
        sessions: Sequence[DecodeSession],
        conditions: Sequence[Tensor | None],
        known: Tensor | None,
    ) -> Batch:
        """Return the batch of the sessions' next latents; known [B, size], -1 = to be sampled."""
        raise NotImplementedError

    def verify(self, batch: Batch, step: VerifyStep) -> tuple[Tensor, Tensor, Tensor]:
        """Return hidden states [A * rows, dim], what is sampled from them [A * rows, D], and the
        cells of that in the batch's line [A * rows]."""
        raise NotImplementedError

    def wave(self, batch: Batch, wave: Wave) -> None:
        """Sample the positions of a wave into the batch's line."""
        raise NotImplementedError

    def draft(self, batch: Batch, hidden: Tensor, owners: Tensor, positions: Tensor) -> Tensor:
        """Return the heads' drafts [n * heads, D] from hidden states [n, dim].

        `owners` [n, 1] are places in the batch, `positions` [n, heads] what is drafted.
        """
        raise NotImplementedError

    def codes(self, batch: Batch) -> Tensor:
        """Return the batch's tokens as codes [B, h, w]."""
        raise NotImplementedError
