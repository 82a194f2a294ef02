"""Decoding of token grids on a CPU (and, slowly, anywhere): all sessions of a worker together.

Every forward runs the slots of one diagonal (mode `diagonal`) or one slot (mode `sequential`).
Both see the same keys, so they draw the same tokens.
"""

from __future__ import annotations

import bisect
import weakref
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.transformer import VideoTransformer
from worldbridge.models.transformer.grid import DigitHead, diagonal_step, digit_rows, slot_mask
from worldbridge.models.transformer.layers import Block
from worldbridge.models.transformer.positions import rotary_angles
from worldbridge.runtime.decoding.noise import position_noise
from worldbridge.runtime.decoding.packed import PackedLinear, independent_counts
from worldbridge.runtime.decoding.sampler import Sampling, sample

__all__ = ["DECODE_MODES", "GridDecoder", "GridSession"]

DECODE_MODES = ("diagonal", "sequential")


@dataclass(slots=True, weakref_slot=True, eq=False)
class GridSession:
    """What decoding remembers of one stream: its seed, its newest latents, its part of the slab.

    The part of the slab goes back when the session is forgotten, whichever way that happens.
    """

    seed: int
    slab: int
    frames: int = 0  # latents so far, the absolute position of the next one
    recent: list[Tensor] = field(default_factory=list)  # newest first, [H, W] codes


class GridDecoder:
    """Decodes latents of a `VideoTransformer` with a token grid.

    Weights are copied into fused matrices; keys and values live in one slab of `capacity` rings.
    """

    def __init__(
        self, model: VideoTransformer, capacity: int, sampling: Sampling, mode: str = "diagonal"
    ) -> None:
        config = model.config
        if config.grid is None:
            raise ValueError("this model has no token grid; it cannot be decoded along diagonals")
        if mode not in DECODE_MODES:
            raise ValueError(f"unknown decode mode {mode!r}; expected one of {DECODE_MODES}")
        self.model, self.config, self.grid = model, config, config.grid
        self.sampling, self.mode = sampling, mode
        _, self.height, self.width = config.latent_shape
        self.slots = self.height * self.width
        self.device = model.norm.weight.device
        self.window = self.grid.window_frames
        self.free = list(range(capacity))[::-1]
        shape = (
            config.n_layers,
            capacity,
            config.n_kv_heads,
            self.window * self.slots,
            config.head_dim,
        )
        self.keys = torch.zeros(shape, device=self.device)
        self.values = torch.zeros(shape, device=self.device)
        self.levels = list(self.grid.fsq_levels)
        self.blank = sum(self.levels)  # a row of zeros after the digits'
        self._fuse()
        self.schedule = self._schedule()
        self._masks: dict[tuple[int, int], Tensor] = {}
        layers = [
            self.layers[0].qkv,
            self.layers[0].out,
            self.layers[0].up,
            self.layers[0].down,
            self.project,
        ]
        widest = max(len(slots) for slots, *_ in self.schedule)
        self.counts = independent_counts(layers, capacity * widest + 8)
        self.together = bool(self.counts) and self.counts[-1] >= capacity * widest

    # -- sessions -------------------------------------------------------------------------------

    def open(self, seed: int) -> GridSession:
        """Take a place of the slab. Raises RuntimeError when all are taken."""
        if not self.free:
            raise RuntimeError(
                f"no free place for another session: all {self.keys.shape[1]} are taken; "
                "forget one, or build the decoder with a larger capacity"
            )
        session = GridSession(seed=seed, slab=self.free.pop())
        weakref.finalize(session, self.free.append, session.slab)
        return session

    def force(self, session: GridSession, codes: Tensor, condition: Tensor) -> None:
        """Append a known latent, codes [H, W], condition [C], by the arithmetic of decoding."""
        self._latent([session], condition[None], codes[None])

    def decode(self, sessions: list[GridSession], condition: Tensor) -> Tensor:
        """The next latent of every session: condition [B, C] -> codes [B, H, W]."""
        if self.together or len(sessions) == 1:
            return self._latent(sessions, condition, None)
        parts = [self._latent([s], condition[i : i + 1], None) for i, s in enumerate(sessions)]
        return torch.cat(parts)

    # -- one latent -----------------------------------------------------------------------------

    @torch.inference_mode()
    def _latent(
        self, sessions: list[GridSession], condition: Tensor, forced: Tensor | None
    ) -> Tensor:
        batch = len(sessions)
        hidden = torch.cat([self.model.condition(c[None].to(self.device)) for c in condition])
        base = torch.cat([self._base(s, hidden[i]) for i, s in enumerate(sessions)])
        scales = self._scales(hidden)
        rotations = self._rotations(sessions)
        # the digits of every token as rows of the embedding tables, with a border of blanks
        shape = (batch, self.height + 1, self.width + 1, len(self.levels))
        digits = torch.full(shape, self.blank, device=self.device)
        if forced is not None:
            digits[:, 1:, 1:] = digit_rows(forced, tuple(self.levels))
        noise = None if forced is not None else torch.cat([self._noise(s) for s in sessions])
        flat = digits.flatten(0, 2)
        stride = (self.height + 1) * (self.width + 1)
        for slots, left, above, own in self.schedule:
            rows = self._rows(slots, batch, self.slots)
            x = base[rows]
            x += F.embedding_bag(flat[self._rows(left, batch, stride)], self.left, mode="sum")
            x += F.embedding_bag(flat[self._rows(above, batch, stride)], self.above, mode="sum")
            x = self._layers(x, sessions, slots, rows, scales, rotations)
            if noise is not None:
                count = batch * len(slots)
                drawn = self._draw(x, noise[rows])[:count]
                flat[self._rows(own, batch, stride)[:count]] = drawn
        result = row_codes(digits[:, 1:, 1:], self.levels)
        for i, session in enumerate(sessions):
            session.recent = [result[i], *session.recent][: self.grid.previous_latents]
            session.frames += 1
        return result

    def _draw(self, x: Tensor, uniform: Tensor) -> Tensor:
        """Features [rows, dim] -> the digits of their tokens as table rows [rows, D]."""
        state = self.project(x) + self.head.place[0]
        drawn: list[Tensor] = []
        for d, (weight, bias) in enumerate(self.digit_heads):
            if d > 0:
                state = state + self.head.earlier[drawn[-1]] + self.place_steps[d]
            logits = torch.addmm(bias, F.silu(state), weight)
            block = slice(self.offsets[d], self.offsets[d] + self.levels[d])
            drawn.append(sample(logits, uniform[:, block], self.sampling) + self.offsets[d])
        return torch.stack(drawn, dim=-1)

    def _layers(
        self,
        x: Tensor,
        sessions: list[GridSession],
        slots: Tensor,
        rows: Tensor,
        scales: list[list[Tensor]],
        rotations: tuple[Tensor, Tensor],
    ) -> Tensor:
        """x [rows, dim] through all layers and the norm. Rows: session-major, then padding."""
        heads, size = self.config.n_heads + self.config.n_kv_heads, self.config.head_dim
        owner = rows // self.slots
        cos, sin = rotations[0][rows], rotations[1][rows]  # [rows, 1, head_dim]
        places = [slots + s.frames % self.window * self.slots for s in sessions]
        masks = [self._mask(s)[slots] for s in sessions]
        for index, layer in enumerate(self.layers):
            weight, shift, ffn_weight, ffn_shift = (part[owner] for part in scales[index])
            qkv = layer.qkv(torch.addcmul(shift, self._norm(x), weight)).view(len(rows), -1, size)
            qk = self._norm(qkv[:, :heads]) * layer.qk_weight
            qk = torch.addcmul(qk * cos, qk.roll(size // 2, -1), sin)
            x = layer.out(self._attend(index, sessions, places, masks, qk, qkv[:, heads:])).add_(x)
            gate, up = layer.up(torch.addcmul(ffn_shift, self._norm(x), ffn_weight)).chunk(2, -1)
            x = layer.down(F.silu(gate).mul_(up)).add_(x)
        return self._norm(x).mul_(self.final)

    def _norm(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps), in few passes: a call costs as much as its arithmetic."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * length.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()

    def _attend(
        self,
        index: int,
        sessions: list[GridSession],
        places: list[Tensor],
        masks: list[Tensor],
        qk: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Write keys and values of the slots, then attend, session by session -> [rows, H * D]."""
        heads, shared = self.config.n_heads, self.config.n_kv_heads
        count, size = len(places[0]), self.config.head_dim
        out = qk.new_zeros(len(qk), heads * size)
        for i, session in enumerate(sessions):
            mine = slice(i * count, (i + 1) * count)
            keys, values = self.keys[index, session.slab], self.values[index, session.slab]
            keys.index_copy_(1, places[i], qk[mine, heads:].transpose(0, 1))
            values.index_copy_(1, places[i], value[mine].transpose(0, 1))
            # query heads that share a key head become rows of one product
            query = qk[mine, :heads].unflatten(1, (shared, -1)).transpose(0, 1)
            score = query.reshape(shared, -1, size) @ keys.transpose(1, 2)
            score = score.view(shared, count, -1, score.shape[-1]).add_(masks[i][:, None])
            mixed = score.softmax(-1).flatten(1, 2) @ values
            mixed = mixed.view(shared, count, -1, size).transpose(0, 1)
            out[mine] = mixed.reshape(count, -1)
        return out

    # -- once per latent ------------------------------------------------------------------------

    def _base(self, session: GridSession, hidden: Tensor) -> Tensor:
        """What a slot's input has of the past and of its place: [slots, dim]."""
        nothing = torch.full((self.height, self.width), -1, device=self.device)
        missing = self.grid.previous_latents - len(session.recent)
        previous = torch.stack([*session.recent, *[nothing] * missing])
        base = self.model.grid_input.neighbourhood(previous[None], hidden[None])[0].clone()
        base[:, 0] += self.model.grid_input.row_start
        return base.flatten(0, 1)

    def _scales(self, hidden: Tensor) -> list[list[Tensor]]:
        """Per layer, four tensors [B, dim]: norm weight times scale, and shift, for both norms."""
        result = []
        for layer, block in zip(self.layers, self.model.layers, strict=True):
            modulation = getattr(block, "modulation", None)
            if modulation is None:
                parts = torch.zeros(len(hidden), 4, self.config.dim, device=self.device)
            else:
                rows = [modulation.project(h[None]) for h in hidden]
                parts = torch.cat(rows).unflatten(-1, (4, -1))
            a, b, c, d = parts.unbind(1)
            scales = [layer.attention_norm * (1 + a), b, layer.ffn_norm * (1 + c), d]
            result.append([x.contiguous() for x in scales])
        return result

    def _rotations(self, sessions: list[GridSession]) -> tuple[Tensor, Tensor]:
        """cos and signed sin [B * slots, 1, head_dim] at the sessions' absolute positions."""
        t = torch.tensor([s.frames for s in sessions]).repeat_interleave(self.slots)
        h = torch.arange(self.height).repeat_interleave(self.width).repeat(len(sessions))
        w = torch.arange(self.width).repeat(self.height * len(sessions))
        angles = rotary_angles(self.config, t, h, w)
        cos, sin = angles.cos().float(), angles.sin().float()
        cos, sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
        return cos[:, None].to(self.device), sin[:, None].to(self.device)

    def _noise(self, session: GridSession) -> Tensor:
        first = session.frames * self.slots
        return position_noise(session.seed, first, self.slots, self.blank).to(self.device)

    def _mask(self, session: GridSession) -> Tensor:
        """[slots, window * slots], 0 = see and -inf = not, for the ring place the session is at."""
        ring, past = session.frames % self.window, min(session.frames, self.window - 1)
        if (ring, past) not in self._masks:
            mask = torch.zeros(self.slots, self.window, self.slots, dtype=torch.bool)
            for age in range(1, past + 1):
                mask[:, (ring - age) % self.window] = True
            mask[:, ring] = slot_mask(self.height, self.width, self.grid.diagonal)
            hidden = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
            self._masks[ring, past] = hidden.flatten(1).to(self.device)
        return self._masks[ring, past]

    def _rows(self, index: Tensor, batch: int, stride: int) -> Tensor:
        """The index of every session, session-major, padded (see `independent_counts`)."""
        rows = (torch.arange(batch, device=self.device)[:, None] * stride + index).flatten()
        place = bisect.bisect_left(self.counts, len(rows))
        if place == len(self.counts):
            return rows
        return torch.cat([rows, rows[:1].expand(self.counts[place] - len(rows))])

    # -- at construction ------------------------------------------------------------------------

    def _schedule(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Per forward: slots, and their left, above and own places in the bordered token buffer."""
        step = diagonal_step(self.height, self.width, self.grid.diagonal).flatten()
        order = torch.arange(self.slots)
        if self.mode == "sequential":
            groups = list(order.split(1))
        else:
            groups = [order[step == s] for s in range(int(step.max()) + 1)]
        border = self.width + 1
        result = []
        for slots in groups:
            row, column = slots // self.width, slots % self.width
            left = (row + 1) * border + column
            above = row * border + column + 1
            places = (slots, left, above, left + 1)
            result.append(tuple(x.to(self.device) for x in places))
        return cast(list[tuple[Tensor, Tensor, Tensor, Tensor]], result)

    @torch.no_grad()
    def _fuse(self) -> None:
        blank = torch.zeros(1, self.config.dim, device=self.device)
        grid_input, head = self.model.grid_input, self.model.output
        assert isinstance(head, DigitHead)
        self.left = torch.cat([grid_input.left.weight, blank])
        self.above = torch.cat([grid_input.above.weight, blank])
        self.head, self.project = head, PackedLinear(head.project.weight)
        self.offsets = [sum(self.levels[:d]) for d in range(len(self.levels))]
        pieces = zip(head.weight.split(self.levels), head.bias.split(self.levels), strict=True)
        self.digit_heads = [(weight.t().contiguous(), bias) for weight, bias in pieces]
        self.place_steps = head.place.diff(dim=0, prepend=torch.zeros_like(head.place[:1]))
        self.final = self.model.norm.weight
        self.eps = self.config.norm_eps
        self.layers = [_FusedLayer.of(cast(Block, block)) for block in self.model.layers]


@dataclass(frozen=True, slots=True)
class _FusedLayer:
    qkv: PackedLinear  # dim -> (H + 2 Hkv) * D
    qk_weight: Tensor  # [H + Hkv, D]
    out: PackedLinear
    up: PackedLinear  # dim -> gate and up
    down: PackedLinear
    attention_norm: Tensor
    ffn_norm: Tensor

    @classmethod
    def of(cls, block: Block) -> _FusedLayer:
        a, f = block.attention, block.feed_forward
        heads: list[Tensor] = [a.q_norm.weight] * (a.wq.out_features // a.head_dim)
        heads += [a.k_norm.weight] * (a.wk.out_features // a.head_dim)
        # the softmax scale is part of the query's weight
        scale = torch.ones(len(heads), 1)
        scale[: a.wq.out_features // a.head_dim] = a.head_dim**-0.5
        return cls(
            qkv=PackedLinear(torch.cat([a.wq.weight, a.wk.weight, a.wv.weight])),
            qk_weight=torch.stack(heads) * scale.to(a.wq.weight),
            out=PackedLinear(a.wo.weight),
            up=PackedLinear(torch.cat([f.w1.weight, f.w3.weight])),
            down=PackedLinear(f.w2.weight),
            attention_norm=block.attention_norm.weight,
            ffn_norm=block.ffn_norm.weight,
        )


def row_codes(rows: Tensor, levels: list[int]) -> Tensor:
    """Inverse of `digit_rows`: table rows [..., D] -> codes [...]."""
    offset, basis = 0, 1
    codes = torch.zeros_like(rows[..., 0])
    for d, level in enumerate(levels):
        codes += (rows[..., d] - offset) * basis
        offset, basis = offset + level, basis * level
    return codes
