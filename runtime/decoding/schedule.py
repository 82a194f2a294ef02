"""Diagonals of a latent for models that were trained in raster order: what each forward feeds.

Row r+1 begins once row r has `k` tokens, so token (r, c) is drawn in step c + r * k and a latent
takes W + (H - 1) k forwards. An approximation: a token is drawn without having seen the ends of the
rows above it. The rule is that of spatial diagonal decoding (Ye et al. 2025, "Fast autoregressive
video generation with diagonal decoding", arXiv 2503.14070).

A token is fed to the place before the one that it helps to draw; place 0 holds the newest token of
the latent before, place i the latent's token i - 1. What leads to the first token of a row is the
last one of the row above, which does not exist yet. The newest token of the row above stands in for
it (as in He et al. 2024, "ZipAR", arXiv 2412.04062): at that place, for this one draw. Nothing else
ever sees it, and once the last token is there it is fed to its own place, as every token is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["WavefrontSchedule", "Wave"]


@dataclass(frozen=True, slots=True)
class Wave:
    """One forward: n rows, of which the first `len(drawn)` draw a token each."""

    places: Tensor  # [n] where each row is fed; `size` and beyond: rows that are there for padding
    sources: Tensor  # [n] the places of the tokens that are fed there: their own but of stand-ins
    drawn: tuple[int, ...]  # the tokens of the latent that are drawn
    end: int  # the places below this one are all that any row sees
    mask: Tensor  # [n, end] bool, True = see; everything before the latent is seen as well


class WavefrontSchedule:
    """The forwards of a latent of height x width tokens, each `rows` wide or wider."""

    def __init__(self, height: int, width: int, k: int, least_rows: int = 1) -> None:
        if k < 1:
            raise ValueError(f"diagonal must be at least 1, got {k}")
        self.height, self.width = height, width
        self.k = min(k, width)  # then a row is finished before the next one begins
        count = width + (height - 1) * self.k
        fed = [self._fed(step) for step in range(count)]
        self.rows = max(least_rows, *(len(places) for places, _ in fed))
        self.stairs = [self._stair(step, *found) for step, found in enumerate(fed)]

    def written(self) -> Tensor:
        """[size] The step in which each place gets the token that belongs there."""
        row = torch.arange(self.height)[:, None]
        step = torch.arange(self.width)[None, :] + self.k * row
        # place 0 of a row holds the last token of the row above
        step[1:, 0] = self.k * (row[1:, 0] - 1) + self.width
        return step.flatten()

    def _fed(self, step: int) -> tuple[list[int], int]:
        """The places that a step feeds, and how many of them, the first ones, draw."""
        draw, finished = [], []
        for row in range(self.height):
            column = step - row * self.k
            if 0 <= column < self.width:
                draw.append(row * self.width + column)
            elif column == self.width and row < self.height - 1 and self.k < self.width:
                finished.append((row + 1) * self.width)
        return draw + finished, len(draw)

    def _stair(self, step: int, fed: list[int], drawing: int) -> Wave:
        size, spare = self.height * self.width, self.rows - len(fed)
        places = torch.tensor([*fed, *range(size, size + spare)])
        # a padded row is fed any token and sees any place that was written
        sources = torch.tensor([*(self._source(step, place) for place in fed), *[0] * spare])
        end = max(fed) + 1
        others = torch.arange(end)
        there = (self.written()[:end] <= step) & (others <= places[:, None])
        mask = there | (others == places[:, None])
        return Wave(places, sources, tuple(fed[:drawing]), end, mask)

    def _source(self, step: int, place: int) -> int:
        row, column = divmod(place, self.width)
        if column == 0 and step < self.written()[place]:
            return (row - 1) * self.width + self.k  # the newest token of the row above
        return place
