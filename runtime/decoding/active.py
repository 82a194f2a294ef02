"""Decoding of a latent's active blocks: the cost follows what is new.

A step runs the blocks that are drawn together (`models/transformer/active.py`); a latent without
active blocks runs nothing. Keys and values live as long as the latent: what came before it is in
the guide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.transformer import VideoTransformer
from worldbridge.models.transformer.active import (
    ActiveLayout,
    draw_order,
    known_neighbours,
    neighbour_digits,
)
from worldbridge.models.transformer.layers import Block
from worldbridge.models.transformer.positions import apply_rotary
from worldbridge.models.transformer.wavefront import DigitHead
from worldbridge.runtime.decoding.executors.cpu_packed import PackedLinear
from worldbridge.runtime.decoding.sampling import Sampling, gumbel, position_noise, sample

__all__ = ["ActiveDecoder"]


@dataclass(frozen=True, slots=True)
class _Layer:
    block: Block
    qkv: PackedLinear
    out: PackedLinear
    up: PackedLinear
    down: PackedLinear

    @classmethod
    def of(cls, block: Block) -> _Layer:
        a, f = block.attention, block.feed_forward
        return cls(
            block,
            PackedLinear(torch.cat([a.wq.weight, a.wk.weight, a.wv.weight])),
            PackedLinear(a.wo.weight),
            PackedLinear(torch.cat([f.w1.weight, f.w3.weight])),
            PackedLinear(f.w2.weight),
        )


class ActiveDecoder:
    """Draw the codes of active blocks with a `VideoTransformer` that has a guide.

    A code depends on the seed, the number of the latent and the block alone, so `sequential`
    decoding, block by block, draws the same codes.
    """

    def __init__(
        self, model: VideoTransformer, sampling: Sampling, *, sequential: bool = False
    ) -> None:
        """Raises ValueError for a model without a guide."""
        grid, head = model.config.grid, model.output
        if grid is None or not grid.guide_dim or not isinstance(head, DigitHead):
            raise ValueError("this model has no guide; decode it with make_decoder")
        self.model, self.inputs, self.head = model, model.guided_input, head
        self.config, self.sampling, self.sequential = model.config, sampling, sequential
        self.levels = list(self.inputs.levels)
        self.lanes = -(-sum(self.levels) // 8) * 8
        _, self.height, self.width = self.config.latent_shape
        self.layers = [_Layer.of(cast(Block, block)) for block in model.layers]
        self.project = PackedLinear(head.project.weight)
        pieces = zip(head.weight.split(self.levels), head.bias.split(self.levels), strict=True)
        self.heads = [(weight.t().contiguous(), bias) for weight, bias in pieces]
        self.earlier = head.earlier.split(self.levels)
        self.on_step: Callable[[], None] = lambda: None  # called before every step

    @torch.inference_mode()
    def decode(
        self,
        active: Tensor,
        guide: Tensor,
        previous: Tensor,
        condition: Tensor,
        *,
        seed: int,
        latent: int,
    ) -> Tensor:
        """Return the digits of one latent, int64 [H, W, D]; -1 where a block is not active.

        active bool [H, W]; guide float [H, W, guide_dim]; previous int [H, W, D], the digits of the
        latent before; condition [condition_dim]; latent counts from 0.
        """
        digits = torch.full((self.height, self.width, len(self.levels)), -1)
        if not bool(active.any()):
            return digits
        order = draw_order(active[None])
        layout = ActiveLayout.of(order)
        slots, step = layout.slots[0], layout.step[0]
        count = self.inputs.summary_count
        base = torch.cat(
            [
                self.inputs.summaries(guide[None])[0],
                self.inputs.base(guide[None], previous[None], layout.slots)[0],
            ]
        )
        cos, sin = (part[0] for part in self.model.active_rotation(layout.slots, base))
        scales = self._scales(condition)
        noise = self._noise(seed, latent, slots)
        flat, begin = digits.flatten(0, 1), 0
        places, known = (part[:, slots] for part in known_neighbours(order))
        cache: list[tuple[Tensor, Tensor]] = [self._room(count + len(slots)) for _ in self.layers]
        self._forward(base[:count], cos[:count], sin[:count], scales, cache, 0, whole=True)
        sizes = [1] * len(slots) if self.sequential else step.bincount().tolist()
        for size in sizes:
            self.on_step()
            rows = slice(begin, begin + size)
            own = slots[rows]
            near = neighbour_digits(flat[None], places[:, rows], known[:, rows])[0]
            x = base[count:][rows] + self.inputs.drawn(near)
            at = slice(count + begin, count + begin + size)
            x = self._forward(x, cos[at], sin[at], scales, cache, at.start)
            flat[own] = self._draw(x, noise[rows])
            begin += size
        return digits

    def _room(self, rows: int) -> tuple[Tensor, Tensor]:
        shape = (self.config.n_kv_heads, rows, self.config.head_dim)
        return torch.empty(shape), torch.empty(shape)

    def _forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        scales: list[tuple[Tensor, ...]],
        cache: list[tuple[Tensor, Tensor]],
        begin: int,
        *,
        whole: bool = False,
    ) -> Tensor:
        """Run rows x [n, dim]: each sees the rows before `begin` and before itself, or `whole`."""
        config, end = self.config, begin + len(x)
        size, kv = config.head_dim, config.n_kv_heads
        heads = config.n_heads + kv
        mask = torch.ones(len(x), end, dtype=torch.bool).tril(end if whole else begin)
        for layer, (keys, values), scale in zip(self.layers, cache, scales, strict=True):
            a = layer.block.attention
            normed = torch.addcmul(scale[1], _unit(x, config.norm_eps), scale[0])
            qk, value = layer.qkv(normed).view(-1, heads + kv, size).split((heads, kv), 1)
            query, key = qk.transpose(0, 1).split((config.n_heads, kv))
            query = apply_rotary(a.q_norm(query), cos, sin)
            keys[:, begin:end] = apply_rotary(a.k_norm(key), cos, sin)
            values[:, begin:end] = value.transpose(0, 1)
            mixed = F.scaled_dot_product_attention(
                query[None], keys[None, :, :end], values[None, :, :end], mask, enable_gqa=True
            )
            x = x + layer.out(mixed[0].transpose(0, 1).flatten(1))
            normed = torch.addcmul(scale[3], _unit(x, config.norm_eps), scale[2])
            gate, up = layer.up(normed).chunk(2, -1)
            x = x + layer.down(F.silu(gate).mul_(up))
        return x

    def _scales(self, condition: Tensor) -> list[tuple[Tensor, ...]]:
        """Return norm weight times scale, and shift, for both norms of every layer."""
        hidden = self.model.condition(condition)
        result: list[tuple[Tensor, ...]] = []
        for layer in self.layers:
            block = layer.block
            assert block.modulation is not None
            a, b, c, d = block.modulation(hidden)
            result.append(
                (block.attention_norm.weight * (1 + a), b, block.ffn_norm.weight * (1 + c), d)
            )
        return result

    def _noise(self, seed: int, latent: int, slots: Tensor) -> Tensor:
        """Return Gumbel noise [n, lanes] of slots; a block's noise is its own."""
        total = self.height * self.width
        uniform = position_noise(seed, latent * total, total, self.lanes)
        return gumbel(uniform[slots])

    def _draw(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return digits [n, D] for rows x [n, dim]."""
        state = self.project(_unit(x, self.config.norm_eps) * self.model.norm.weight)
        digits: list[Tensor] = []
        parts = noise[:, : sum(self.levels)].split(self.levels, 1)
        for d, ((weight, bias), own) in enumerate(zip(self.heads, parts, strict=True)):
            if d > 0:
                state = state + self.earlier[d - 1][digits[-1]]
            logits = torch.addmm(bias, F.silu(state + self.head.place[d]), weight)
            digits.append(sample(logits, own, self.sampling))
        return torch.stack(digits, -1)


def _unit(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
