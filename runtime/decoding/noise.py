"""Sampling noise that belongs to positions, not to calls.

The uniform number for (seed, position, lane), where a lane is one code, or one value of one digit
of a code, comes from the counter-based generator
Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with key
(seed, 0) and block counter position * lanes / 8 + lane / 8 + 1. Any way of decoding uses the same
number for the same position, so drafts and batches change the speed and never the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.runtime.decoding.sampling import gumbel

__all__ = ["LatentNoise", "position_noise"]

_BLOCK = 8  # 32-bit numbers in one 256-bit block


def position_noise(seed: int, first: int, count: int, lanes: int) -> Tensor:
    """Uniform numbers in (0, 1) for positions first..first+count-1, float32 [count, lanes].

    `lanes` must be a multiple of 8.
    """
    if lanes % _BLOCK:
        raise ValueError(f"lanes must be a multiple of {_BLOCK}, got {lanes}")
    generator = np.random.Philox(key=np.array([seed & (2**64 - 1), 0], dtype=np.uint64))
    generator.advance(first * lanes // _BLOCK)
    raw = generator.random_raw(count * lanes // 2).view(np.uint32).reshape(count, lanes)
    numbers = torch.from_numpy((raw >> np.uint32(8)).astype(np.float32))
    # the largest number plus a half is rounded up to 1, whose Gumbel noise would be infinite
    return numbers.add_(0.5).mul_(2.0**-24).clamp_(max=1 - 2.0**-24)


class LatentNoise:
    """Gumbel noise of one latent's tokens, made when it is first asked for.

    That of a whole latent of a published model has 41 million numbers.
    """

    def __init__(self, seed: int, first: int, codes: int, size: int, device: torch.device) -> None:
        """For `size` positions of a stream from `first` on, with one number for each code."""
        self.seed, self.first, self.codes, self.size = seed, first, codes, size
        self.begin = 0  # the position in the latent of the first row that is kept
        self.kept = torch.empty(0, codes, device=device)

    def take(self, begin: int, count: int) -> Tensor:
        """Return the rows [count, codes] of positions from `begin` on, and forget those before.

        Rows beyond the end of the latent are zero.
        """
        if begin < self.begin:
            again = self._make(begin, self.begin - begin)
            self.kept, self.begin = torch.cat([again, self.kept]), begin
        self.kept, self.begin = self.kept[begin - self.begin :], begin
        return self.peek(begin, count)

    def peek(self, begin: int, count: int) -> Tensor:
        """As `take`, of positions that are not before the newest `take`; nothing is forgotten."""
        have = self.begin + len(self.kept)
        missing = min(begin + count, self.size) - have
        if missing > 0:
            self.kept = torch.cat([self.kept, self._make(have, missing)])
        rows = self.kept[begin - self.begin :][:count]
        return F.pad(rows, (0, 0, 0, count - len(rows)))

    def at(self, positions: Sequence[int]) -> Tensor:
        """Return the rows [n, codes] of any positions of the latent; none of them is kept."""
        return torch.cat([self._make(position, 1) for position in positions])

    def _make(self, position: int, count: int) -> Tensor:
        lanes = -(-self.codes // _BLOCK) * _BLOCK
        uniform = position_noise(self.seed, self.first + position, count, lanes)
        return gumbel(uniform[:, : self.codes].to(self.kept.device))
