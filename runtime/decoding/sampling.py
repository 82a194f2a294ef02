"""Top-k, top-p and temperature with Gumbel-argmax: no random state, no host synchronisation.

The noise belongs to positions, not to calls. The uniform number for (seed, position, lane), where
a lane is one code, or one value of one digit of a code, comes from the counter-based generator
Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with key
(seed, 0) and block counter position * lanes / 8 + lane / 8 + 1. Any way of decoding uses the same
number for the same position, so drafts and batches change the speed and never the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LatentNoise", "Sampling", "gumbel", "position_noise", "sample"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. temperature 0 takes the most likely code."""

    temperature: float = 1.0
    top_p: float = 0.9
    top_k: int = 32

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 1:
            raise ValueError(f"top_k must be >= 1, got {self.top_k}")

    def keeps_all(self, codes: int) -> bool:
        """Return whether no code of `codes` is filtered out, so that only the noise decides."""
        return self.top_p == 1 and self.top_k >= codes


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise from uniform numbers in (0, 1); for a whole latent at once."""
    return -(-uniform.log()).log()


def sample(logits: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
    """logits [N, codes], Gumbel noise [N, codes] -> codes [N].

    First the `top_k` most likely codes are kept, then the nucleus of what is left, the code that
    crosses top_p included (as published). Gumbel-argmax with the given noise samples from the rest.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scaled = logits if sampling.temperature == 1 else logits / sampling.temperature
    if sampling.keeps_all(scaled.shape[-1]):
        return (scaled + noise).argmax(-1)
    best, codes = scaled.topk(min(sampling.top_k, scaled.shape[-1]), dim=-1)
    probability = best.softmax(-1)
    before = probability.cumsum(-1) - probability
    score = (best + noise.gather(-1, codes)).masked_fill_(before > sampling.top_p, -torch.inf)
    return codes.gather(-1, score.argmax(-1, keepdim=True))[:, 0]


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
