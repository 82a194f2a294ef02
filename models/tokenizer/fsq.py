"""Finite scalar quantization (arXiv 2309.15505): round each latent channel to a few levels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FSQ"]


class FSQ(nn.Module):
    """Map D channels to one index in [0, prod(levels)); channel 0 is the fastest digit.

    A code of a channel with L levels is n // (L // 2) steps in [-1, 1]: digit n stands for
    (n - L // 2) / (L // 2). The buffers are constants and not part of the state dict.
    """

    _levels: Tensor
    _basis: Tensor
    _half_width: Tensor
    _extent: Tensor
    _offset: Tensor
    _shift: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.size = math.prod(self.levels)
        counts = torch.tensor(self.levels, device="cpu")
        places = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
        basis = torch.tensor(places, device="cpu")
        # The bound is a hair wider than the outermost levels, so that they can be attained.
        extent = (counts - 1).double() * 1.001 / 2
        offset = torch.where(counts % 2 == 0, 0.5, 0.0).double()
        buffers = {
            "_levels": counts,
            "_basis": basis,
            "_half_width": counts // 2,
            "_extent": extent.float(),
            "_offset": offset.float(),
            "_shift": torch.atanh(offset / extent).float(),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def quantize(self, z: Tensor) -> Tensor:
        """Return the codes of z [..., D] in z's dtype; the gradient passes the rounding unchanged.

        Computed in float32: bfloat16 cannot resolve the borders between levels.
        """
        bounded = self._bound(z)
        rounded = bounded + (bounded.round() - bounded).detach()
        return (rounded / self._half_width).to(z.dtype)

    def perturb(self, z: Tensor) -> Tensor:
        """Return codes of z [..., D] with uniform noise of one step's width instead of rounding.

        Training begins with them: a network that is rounded from its first step may never use
        some of its codes.
        """
        bounded = self._bound(z)
        noise = torch.rand_like(bounded) - 0.5
        return ((bounded + noise) / self._half_width).to(z.dtype)

    def _bound(self, z: Tensor) -> Tensor:
        value = z.float()
        shift, extent, offset = self._shift.float(), self._extent.float(), self._offset.float()
        return torch.tanh(value + shift) * extent - offset

    def codes_to_indices(self, codes: Tensor) -> Tensor:
        """Return the indices, int64 [...], of codes [..., D]."""
        digits = (codes.detach().float() * self._half_width).round().long() + self._half_width
        return (digits * self._basis).sum(-1)

    def digits(self, indices: Tensor) -> Tensor:
        """Return the level of each channel, int64 [..., D], digit d in [0, levels[d])."""
        return (indices.long().unsqueeze(-1) // self._basis) % self._levels

    def indices_to_codes(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the codes [..., D] of indices [...]."""
        return ((self.digits(indices) - self._half_width) / self._half_width).to(dtype)
