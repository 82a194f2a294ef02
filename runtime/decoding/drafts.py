"""Speculative decoding: drafted tokens, which of them are accepted, and counts of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DraftCounts", "LatentProgress", "TokenLine", "VerifyStep"]


@dataclass(frozen=True, slots=True)
class TokenLine:
    """The tokens of the latents that are being sampled: accepted, known and drafted ones.

    A token is a row of `cells` [cells, D]: its code, or its D digits. `cell_of` maps sessions
    [B, 1] and positions [B, n] of their latents to cells [B, n]. `known` [B, size] marks positions
    whose token was given; None where there are none.
    """

    cells: Tensor
    cell_of: Callable[[Tensor, Tensor], Tensor]
    known: Tensor | None = None

    def write(self, cells: Tensor, tokens: Tensor, where: Tensor | None) -> None:
        """Write tokens [n, D] to cells [B, n] where a mask [B, n] says so."""
        cells = cells.flatten()
        if where is not None:
            held = self.cells.index_select(0, cells)
            tokens = torch.where(where.flatten()[:, None], tokens, held)
        self.cells.index_copy_(0, cells, tokens)

    def sampled_at(self, owners: Tensor, positions: Tensor) -> Tensor | None:
        """Return a mask [B, n], True where a token is not a given one; None if none is given."""
        return None if self.known is None else ~self.known[owners, positions]


@dataclass(frozen=True, slots=True)
class VerifyStep:
    """One forward that verifies drafts in raster order: `rows` positions of each session.

    A session has `done` final tokens and samples behind them up to `limits`. Rows before and beyond
    these repeat what is known, so that every session of the step has as many rows.
    """

    active: tuple[int, ...]  # places in the batch
    done: tuple[int, ...]
    limits: tuple[int, ...]
    rows: int
    size: int  # tokens of a latent

    @property
    def firsts(self) -> list[int]:
        """The first position of each session."""
        return [min(done, self.size - self.rows) for done in self.done]

    def owners(self, device: torch.device) -> Tensor:
        """Return the place of each session in the batch, [A, 1]."""
        return torch.tensor(self.active, device=device)[:, None]

    def positions(self, device: torch.device) -> Tensor:
        """Return the positions [A, rows] of the rows in their latents."""
        first = torch.tensor(self.firsts, device=device)[:, None]
        return first + torch.arange(self.rows, device=device)

    def accept(self, line: TokenLine, sampled: Tensor, cells: Tensor) -> list[int]:
        """Write sampled tokens [A * rows, D] to their cells; return how many are final per session.

        A sampled token is final if every draft before it was right. The first one has none before.
        """
        drafts = line.cells.index_select(0, cells)
        new = self._new(line)
        if new is not None:
            sampled = torch.where(new[:, None], sampled, drafts)
        right = (sampled == drafts).all(-1).view(-1, self.rows).tolist()
        line.cells.index_copy_(0, cells, sampled)
        found = zip(right, self.firsts, self.done, self.limits, strict=True)
        return [
            1 + _leading(row[begin - first : limit - first - 1]) if begin < limit else 0
            for row, first, begin, limit in found
        ]

    def _new(self, line: TokenLine) -> Tensor | None:
        """Return [A * rows], True for rows whose samples count; None if all of them do."""
        spans = list(zip(self.firsts, self.done, self.limits, strict=True))
        device = line.cells.device
        if line.known is not None:
            sampled = line.sampled_at(self.owners(device), self.positions(device))
        elif all(done <= first and first + self.rows <= limit for first, done, limit in spans):
            return None
        else:
            sampled = None
        flags = [
            done <= position < limit
            for first, done, limit in spans
            for position in range(first, first + self.rows)
        ]
        new = torch.tensor(flags, device=device)
        return new if sampled is None else new & sampled.flatten()


class LatentProgress:
    """How far the sessions of a batch are with a latent that is sampled in raster order."""

    def __init__(
        self, sessions: int, size: int, window: int, known: Tensor | None, skip_tail: bool
    ) -> None:
        """`window` positions are sampled per forward. known [B, size] marks given tokens.

        `skip_tail`: a session is done when only given tokens are left.
        """
        self.size, self._window = size, window
        self.done = [0] * sessions
        self._known = None if known is None else known.tolist()
        self._last = [size] * sessions
        if self._known is not None and skip_tail:
            self._last = [
                max((i + 1 for i in range(size) if not x[i]), default=0) for x in self._known
            ]

    def next_step(self, rows: int, most: int, whole_batch: bool) -> VerifyStep | None:
        """Return the next forward, or None when all sessions are done.

        It has `rows` rows of each session, or as many up to `most` as given tokens make room for.
        `whole_batch`: sessions that are done take part, too, without effect.
        """
        places = range(len(self.done))
        active = [i for i in places if self.done[i] < self._last[i]]
        if not active:
            return None
        if whole_batch:
            active = list(places)
        limits = [self._limit(i) for i in active]
        needed = max(limit - self.done[i] for i, limit in zip(active, limits, strict=True))
        while rows < min(needed, most):
            rows = min(2 * rows, most)
        done = tuple(self.done[i] for i in active)
        limits = [min(limit, first + rows) for limit, first in zip(limits, done, strict=True)]
        return VerifyStep(tuple(active), done, tuple(limits), rows, self.size)

    def sampled(self, place: int, gain: int) -> int:
        """Return how many of a session's next `gain` tokens are not given ones."""
        if self._known is None:
            return gain
        begin = self.done[place]
        return gain - sum(self._known[place][begin : begin + gain])

    def _limit(self, place: int) -> int:
        """Return the position behind the window, given tokens not counted."""
        begin = self.done[place]
        if self._known is None:
            return min(begin + self._window, self.size)
        room, known = self._window, self._known[place]
        for position in range(begin, self.size):
            if not known[position]:
                if room == 0:
                    return position
                room -= 1
        return self.size


def _leading(right: Sequence[bool]) -> int:
    """Return how many drafts were right before the first wrong one."""
    return right.index(False) if False in right else len(right)


class DraftCounts:
    """Forwards, the tokens they gave, and how many of every head's drafts were accepted.

    Drafts are accepted up to the first wrong one, so a forward that gives g tokens accepted those
    of the first g - 1 heads. Tokens therefore are `forwards` + `carried` + the sum of `accepted`,
    where no forward sampled several tokens without drafts.
    """

    def __init__(self, heads: int = 0) -> None:
        self.forwards = 0  # one for each session that takes part
        self.tokens = 0
        self.carried = 0  # accepted drafts that were not a head's, but of earlier forwards
        self.drafted = [0] * heads  # drafts whose being right would have given one more token
        self.accepted = [0] * heads

    def add(self, gain: int, left: int, drafted: bool) -> None:
        """Count a forward of one session: `gain` of the `left` tokens that its latent lacked.

        `drafted`: its drafts were the heads'.
        """
        self.forwards += 1
        self.tokens += gain
        if not drafted:
            self.carried += gain - 1
            return
        for head in range(min(len(self.accepted), left - 1)):
            self.drafted[head] += 1
            self.accepted[head] += head + 1 < gain

    def add_undrafted(self, gain: int) -> None:
        """Count a forward of one session that gave `gain` tokens without any draft."""
        self.forwards += 1
        self.tokens += gain

    @property
    def tokens_per_forward(self) -> float:
        return self.tokens / max(1, self.forwards)

    @property
    def acceptance(self) -> list[float]:
        """Share of each head's drafts that became tokens: it and those before it were right."""
        pairs = zip(self.accepted, self.drafted, strict=True)
        return [accepted / max(1, drafted) for accepted, drafted in pairs]
