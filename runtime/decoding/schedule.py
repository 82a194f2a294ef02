"""Wavefronts for models that were trained in raster order: what each forward feeds.

Row r+1 begins once row r has k tokens (`row_lag`), so token (r, c) is sampled in step c + r * k and
a latent takes W + (H - 1) k forwards. An approximation: a token is sampled without having seen the
ends of the rows above it. The rule is that of spatial diagonal decoding (Ye et al. 2025, "Fast
autoregressive video generation with diagonal decoding", arXiv 2503.14070).

A token is fed to the place before the one that it helps to sample: offset 0 holds the newest token
of the latent before, offset i the latent's token i - 1. What leads to the first token of a row is
the last one of the row above, which does not exist yet. The newest token of the row above stands in
for it (as in He et al. 2024, "ZipAR", arXiv 2412.04062): at that offset, for this one token.
Nothing else ever sees it, and once the last token is there it is fed to its own offset, as every
token is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RowLagWave", "WavefrontSchedule"]


@dataclass(frozen=True, slots=True)
class RowLagWave:
    """One forward: n rows, of which the first `len(sampled)` sample a token each."""

    offsets: Tensor  # [n] where each row is fed; `size` and beyond: rows that are there for padding
    sources: Tensor  # [n] the offsets of the tokens that are fed: their own but of stand-ins
    sampled: tuple[int, ...]  # the tokens of the latent that are sampled
    end: int  # the offsets below this one are all that any row sees
    mask: Tensor  # [n, end] bool, True = see; everything before the latent is seen as well


class WavefrontSchedule:
    """The forwards of a latent of height x width tokens, each `rows` wide or wider."""

    def __init__(self, height: int, width: int, row_lag: int, least_rows: int = 1) -> None:
        if row_lag < 1:
            raise ValueError(f"row_lag must be at least 1, got {row_lag}")
        self.height, self.width = height, width
        self.row_lag = min(row_lag, width)  # then a row is finished before the next one begins
        count = width + (height - 1) * self.row_lag
        fed = [self._fed(step) for step in range(count)]
        self.rows = max(least_rows, *(len(offsets) for offsets, _ in fed))
        self.waves = [self._wave(step, *found) for step, found in enumerate(fed)]

    def written(self) -> Tensor:
        """Return [size], the step in which each offset gets the token that belongs there."""
        row = torch.arange(self.height)[:, None]
        step = torch.arange(self.width)[None, :] + self.row_lag * row
        # offset 0 of a row holds the last token of the row above
        step[1:, 0] = self.row_lag * (row[1:, 0] - 1) + self.width
        return step.flatten()

    def _fed(self, step: int) -> tuple[list[int], int]:
        """Return the offsets that a step feeds, and how many of them, the first ones, sample."""
        sampling, finished = [], []
        for row in range(self.height):
            column = step - row * self.row_lag
            if 0 <= column < self.width:
                sampling.append(row * self.width + column)
            elif column == self.width and row < self.height - 1 and self.row_lag < self.width:
                finished.append((row + 1) * self.width)
        return sampling + finished, len(sampling)

    def _wave(self, step: int, fed: list[int], sampling: int) -> RowLagWave:
        size, spare = self.height * self.width, self.rows - len(fed)
        offsets = torch.tensor([*fed, *range(size, size + spare)])
        # a padding row is fed any token and sees any offset that was written
        sources = torch.tensor([*(self._source(step, offset) for offset in fed), *[0] * spare])
        end = max(fed) + 1
        others = torch.arange(end)
        there = (self.written()[:end] <= step) & (others <= offsets[:, None])
        mask = there | (others == offsets[:, None])
        return RowLagWave(offsets, sources, tuple(fed[:sampling]), end, mask)

    def _source(self, step: int, offset: int) -> int:
        row, column = divmod(offset, self.width)
        if column == 0 and step < self.written()[offset]:
            return (row - 1) * self.width + self.row_lag  # the newest token of the row above
        return offset
