"""Gumbel noise of the tokens of one latent, made when a token is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.runtime.decoding.noise import position_noise
from worldbridge.runtime.decoding.sampling import gumbel

__all__ = ["LatentNoise"]

_LANES = 8  # the noise of a position comes in blocks of so many codes


class LatentNoise:
    """Made when first asked for: that of a whole published latent has 41 million numbers."""

    def __init__(self, seed: int, first: int, codes: int, size: int, device: torch.device) -> None:
        """Of the `size` positions from `first` on of a stream, with one number for each code."""
        self.seed, self.first, self.codes, self.size = seed, first, codes, size
        self.begin = 0  # which position of the latent the first kept row belongs to
        self.kept = torch.empty(0, codes, device=device)

    def take(self, begin: int, count: int) -> Tensor:
        """Rows of positions begin..begin+count-1, [count, codes]; `begin` never goes back.

        Rows behind the end of the latent are zero.
        """
        self.kept, self.begin = self.kept[begin - self.begin :], begin
        have = begin + len(self.kept)
        missing = min(begin + count, self.size) - have
        if missing > 0:
            self.kept = torch.cat([self.kept, self._make(have, missing)])
        return F.pad(self.kept, (0, 0, 0, count - len(self.kept)))

    def at(self, positions: Sequence[int]) -> Tensor:
        """Rows of any positions of the latent, [n, codes]; none of them is kept."""
        return torch.cat([self._make(position, 1) for position in positions])

    def _make(self, position: int, count: int) -> Tensor:
        lanes = -(-self.codes // _LANES) * _LANES
        uniform = position_noise(self.seed, self.first + position, count, lanes)
        return gumbel(uniform[:, : self.codes].to(self.kept.device))
