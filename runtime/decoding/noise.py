"""Sampling noise that belongs to positions, not to calls.

The uniform number for (seed, position, lane), where a lane is one code, or one value of one digit
of a code, comes from the counter-based generator
Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with key
(seed, 0) and block counter position * lanes / 8 + lane / 8 + 1. Any way of decoding draws the same
number for the same position, so drafts and batches change the speed and never the tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["position_noise"]

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
