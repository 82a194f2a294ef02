"""Medusa heads: drafts of the tokens that come after the next one, from one hidden state.

Structure of arXiv 2501.03575, section 5.2.4 (after "Medusa", Cai et al. 2024): each head is one
layer with SiLU and a residual connection on the last hidden state, every head shares the
unembedding of its network, and the layers of all heads are one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MedusaHeads"]


class MedusaHeads(nn.Module):
    """Head k, from 1 to `count`, drafts the token k places behind the one its network predicts.

    h_k = x + silu(W_k x), where x is the network's last hidden state (after its final norm); the
    network's own unembedding makes a distribution of h_k. Begins as h_k = x.
    """

    def __init__(self, dim: int, count: int = 9) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"expected at least one head, got {count}")
        self.dim, self.count = dim, count
        self.weight = nn.Parameter(torch.zeros(count * dim, dim))  # W_1 above W_2 above ...

    @classmethod
    def merged(cls, matrices: Sequence[Tensor]) -> Self:
        """From the matrices [dim, dim] of single heads, the first head first."""
        heads = cls(matrices[0].shape[-1], len(matrices))
        with torch.no_grad():
            heads.weight.copy_(torch.cat(list(matrices)))
        return heads

    def matrices(self) -> tuple[Tensor, ...]:
        """The matrix [dim, dim] of every head; inverse of `merged`."""
        return self.weight.split(self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] -> hidden states of the heads [..., count, dim]."""
        return self.join(x, F.linear(x, self.weight))

    def join(self, x: Tensor, product: Tensor) -> Tensor:
        """What `forward` gives, from the product [..., count * dim] of x and `weight`."""
        return x[..., None, :] + F.silu(product.unflatten(-1, (self.count, self.dim)))
