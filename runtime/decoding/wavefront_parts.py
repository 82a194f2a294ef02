"""Parts of decoding a token grid: a forward's shape and places, and a layer made for few calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worldbridge.models.transformer.layers import Block
from worldbridge.runtime.decoding.executors.cpu_packed import PackedLinear

__all__ = ["FusedLayer", "Shape", "Step", "row_codes", "unit"]


class Shape(NamedTuple):
    """Of one forward: sessions, slots of each, rows beyond these, and what it does."""

    batch: int
    slots: int
    spare: int
    kind: str


class Step(NamedTuple):
    """Which slots a forward runs, and where their inputs and results are."""

    slots: Tensor  # [B, n] of a latent
    rows: Tensor  # [rows] of all sessions' slots, session-major, padded
    owner: Tensor  # [rows] the session of each row
    near: Tensor  # [rows * 2] places of the left token and the one above in the bordered digits
    bags: Tensor  # [rows] where the digits of these two begin
    seen: Tensor  # [B, n * H / Hkv] rows of the sessions' masks
    own: Tensor  # [B * n] places of the tokens that are drawn


@dataclass(frozen=True, slots=True)
class FusedLayer:
    qkv: PackedLinear  # dim -> (H + 2 Hkv) * D
    qk_weight: Tensor  # [H + Hkv, D]
    out: PackedLinear
    up: PackedLinear  # dim -> gate and up
    down: PackedLinear
    attention_norm: Tensor
    ffn_norm: Tensor

    @classmethod
    def of(cls, block: Block) -> FusedLayer:
        """Norm weights are made for `unit`. The numbers of a head that are turned together, the
        n-th of its first and of its second half, become neighbours: one complex number. Queries
        and keys are reordered alike, so their products stay what they are."""
        a, f = block.attention, block.feed_forward
        size = a.head_dim
        order = torch.arange(size).view(2, -1).t().flatten()
        query, key = (
            layer.weight.unflatten(0, (-1, size))[:, order].flatten(0, 1) for layer in (a.wq, a.wk)
        )
        heads: list[Tensor] = [a.q_norm.weight] * (a.wq.out_features // a.head_dim)
        heads += [a.k_norm.weight] * (a.wk.out_features // a.head_dim)
        # the softmax scale is part of the query's weight
        scale = torch.ones(len(heads), 1)
        scale[: a.wq.out_features // a.head_dim] = a.head_dim**-0.5
        return cls(
            qkv=PackedLinear(torch.cat([query, key, a.wv.weight])),
            qk_weight=torch.stack(heads)[:, order] * scale.to(a.wq.weight) * size**0.5,
            out=PackedLinear(a.wo.weight),
            up=PackedLinear(torch.cat([f.w1.weight, f.w3.weight])),
            down=PackedLinear(f.w2.weight),
            attention_norm=block.attention_norm.weight * a.wq.in_features**0.5,
            ffn_norm=block.ffn_norm.weight * a.wq.in_features**0.5,
        )


def row_codes(rows: Tensor, levels: list[int]) -> Tensor:
    """Inverse of `digit_rows`: table rows [..., D] -> codes [...]."""
    offset, basis = 0, 1
    codes = torch.zeros_like(rows[..., 0])
    for d, level in enumerate(levels):
        codes += (rows[..., d] - offset) * basis
        offset, basis = offset + level, basis * level
    return codes


def unit(x: Tensor, eps: Tensor) -> Tensor:
    """x / sqrt(sum(x^2) + eps^2), in as few calls as there can be: each costs like its arithmetic.

    An RMS norm but for the root of the size, which is part of the weights that follow.
    """
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), eps)
