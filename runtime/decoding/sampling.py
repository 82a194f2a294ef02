"""Top-k, top-p and temperature with Gumbel-argmax: no random state, no host synchronisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Sampling", "gumbel", "sample"]


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
