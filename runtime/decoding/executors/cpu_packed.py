"""Forwards of models with a token grid on a CPU (and, slowly, anywhere).

A decode step multiplies a handful of rows by every weight of the model, so it is bound by reading
the weights. Where the CPU has the instructions (x86 with AVX2), weights are packed once as float16
and multiplied in float32: half the bytes, and no packing per call (192 -> 1152 with 8 rows: 72 us
against 260 us for float32 `linear`, one thread of an AMD EPYC). Layers are fused, and steps are
recorded. Keys and values lie in rings of the newest latents, one for each slot.

Each forward samples the positions of one diagonal, one position, or the next positions in raster
order, whose inputs are drafts. All see the same keys, so they sample the same tokens.
"""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.transformer import KVCache, MedusaHeads, VideoTransformer
from worldbridge.models.transformer.layers import Block
from worldbridge.models.transformer.positions import rotary_angles
from worldbridge.models.transformer.wavefront import DigitHead, diagonal_step, digit_rows, slot_mask
from worldbridge.runtime.decoding.drafts import TokenLine, VerifyStep
from worldbridge.runtime.decoding.executors import Batch, DecodeSession, Executor, Wave
from worldbridge.runtime.decoding.options import DecodeOptions
from worldbridge.runtime.decoding.sampling import Sampling, gumbel, position_noise, sample
from worldbridge.runtime.process import one_thread

__all__ = ["PackedExecutor", "PackedLinear", "independent_counts"]


_Sampled = tuple[Tensor, Tensor]
# A forward writes keys and values. `prefill` does no more; `sample` also writes the tokens that it
# samples; `verify` returns them and leaves it to the caller which ones count.
_KINDS = ("prefill", "sample", "verify")
# On CPUs with AVX-512, batched products of fewer rows than this sum in another order.
_LEAST_ROWS = 4


class PackedLinear(nn.Module):
    """x [rows, in] -> x @ weight.T [rows, out]; the fastest way that this machine has."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().contiguous())
        self.packed: torch.ScriptObject | None = None
        if weight.device.type == "cpu" and _has_float16_products():
            self.packed = torch.ops.quantized.linear_prepack_fp16(self.weight, None)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight)
        result: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return result


def _has_float16_products() -> bool:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX")


@torch.inference_mode()
def independent_counts(layers: list[PackedLinear], most: int) -> list[int]:
    """Row counts for which no row's result depends on how many rows there are, ascending.

    Kernels for odd remainders sum in another order. By padding to one of these counts, a player's
    world never depends on who else is playing, nor on the way of decoding. Empty when there is no
    such set on this machine; then sessions have to be decoded one by one.
    """
    generator = torch.Generator().manual_seed(0)
    good = set(range(1, most + 1))
    for layer in layers:
        x = torch.randn(most + 8, layer.weight.shape[1], generator=generator)
        x = x.to(layer.weight)
        whole = layer(x)
        good = {n for n in good if torch.equal(layer(x[:n].contiguous()), whole[:n])}
    return sorted(good)


class Shape(NamedTuple):
    """Of one forward: sessions, positions of each, rows beyond these, and what it does."""

    batch: int
    positions: int
    spare: int
    kind: str


class Step(NamedTuple):
    """Which positions a forward runs, and where their inputs and results are."""

    positions: Tensor  # [B, n] of a latent
    rows: Tensor  # [rows] of all sessions' positions, session-major, padded
    owner: Tensor  # [rows] the session of each row
    near: Tensor  # [rows * 2] places of the left token and the one above in the bordered digits
    bags: Tensor  # [rows] where the digits of these two begin
    seen: Tensor  # [B, n * H / Hkv] rows of the sessions' masks
    own: Tensor  # [B * n] places of the tokens that are sampled


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


@dataclass(frozen=True, slots=True)
class PositionsWave:
    """One forward that samples some positions of a latent, and runs `fed` positions for that."""

    sampled: tuple[int, ...]
    fed: Tensor  # [n]


@dataclass(slots=True)
class GridBatch(Batch):
    """And what the forwards of a latent need, see `PackedExecutor.forward_step`."""

    inputs: tuple[Tensor, ...]  # base, digits, turns, scales, noise
    memory: list[Tensor]


class PackedExecutor(Executor):
    """Executor of models with a token grid.

    Weights are copied into fused matrices; keys and values lie in one ring per slot.
    """

    keeps_sampled = True
    whole_batch = True  # a recorded forward has one shape

    def __init__(
        self,
        model: VideoTransformer,
        capacity: int,
        sampling: Sampling,
        options: DecodeOptions,
        heads: MedusaHeads | None = None,
    ) -> None:
        config = model.config
        assert config.grid is not None, "this model has no token grid"
        self.model, self.config, self.grid = model, config, config.grid
        self.sampling, self.mode, self.heads = sampling, options.mode or "", heads
        _, self.height, self.width = config.latent_shape
        self.size = self.height * self.width
        self.device = model.norm.weight.device
        self.ring = self.grid.window_frames
        entries, like = self.ring * self.size, torch.empty(0, device=self.device)
        self.cache = KVCache.allocate(config, capacity, entries, like)
        self.levels = list(self.grid.fsq_levels)
        self.blank = sum(self.levels)  # a row of zeros after the digits'
        self._fuse()
        self.begins = torch.arange(self.ring, device=self.device)[:, None] * self.size
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._fixed_steps: dict[tuple[int, PositionsWave], Step] = {}
        self._programs: dict[Shape, Callable[..., _Sampled]] = {}
        window = options.jacobi_window if self.mode == "jacobi" else 1
        self.rows = min(self.size, window if heads is None else 1 + heads.count)
        parts = self._parts()
        layers = [
            self.layers[0].qkv,
            self.layers[0].out,
            self.layers[0].up,
            self.layers[0].down,
            self.project,
        ]
        if heads is not None:
            self.merged_heads = PackedLinear(heads.weight)
        widest = max(self.rows, *(len(part) for part in parts))
        self.row_counts = independent_counts(layers, capacity * widest + 8)
        self.together = bool(self.row_counts) and self.row_counts[-1] >= capacity * widest
        self.known_waves = [PositionsWave(tuple(p.tolist()), self._pad(p)) for p in parts]
        self.waves: Sequence[Wave] = [] if self.mode in ("jacobi", "medusa") else self.known_waves
        self.enqueued = 0 if self.device.type == "cpu" else len(self.waves)

    def exclusive(self) -> AbstractContextManager[None]:
        """With two threads its small steps take up to sixteen times as long."""
        return one_thread()

    def groups(self, sessions: Sequence[DecodeSession]) -> Sequence[range]:
        count = len(sessions)
        return [range(count)] if self.together else [range(i, i + 1) for i in range(count)]

    def most_rows(self, sessions: int) -> int:
        """More rows would let a row's sums depend on how many there are."""
        return min(self.size, self.row_counts[-1] // sessions if self.row_counts else self.rows)

    def prefill(self, session: DecodeSession, codes: Tensor, condition: Tensor | None) -> None:
        """Write a latent's keys and values by the arithmetic of sampling."""
        batch = self._begin([session], [condition], codes.flatten()[None], sampling=False)
        for wave in self.known_waves:
            self._run("prefill", batch, self._fixed(1, wave))

    # -- one latent -----------------------------------------------------------------------------

    def begin(
        self,
        sessions: Sequence[DecodeSession],
        conditions: Sequence[Tensor | None],
        known: Tensor | None,
    ) -> GridBatch:
        return self._begin(sessions, conditions, known, sampling=True)

    def _begin(
        self,
        sessions: Sequence[DecodeSession],
        conditions: Sequence[Tensor | None],
        known: Tensor | None,
        sampling: bool,
    ) -> GridBatch:
        given = [c for c in conditions if c is not None]
        hidden = torch.cat([self.model.condition(c[None].to(self.device)) for c in given])
        base = torch.cat([self._base(s, hidden[i]) for i, s in enumerate(sessions)])
        # the digits of every token as rows of the embedding tables, with a border of blanks
        shape = (len(sessions), self.height + 1, self.width + 1, len(self.levels))
        digits = torch.full(shape, self.blank, device=self.device)
        if not self.waves and sampling:
            self._carry(sessions, digits)
        if known is not None:
            rows = digit_rows(known.clamp_min(0), tuple(self.levels)).view_as(digits[:, 1:, 1:])
            where = (known >= 0).view(*rows.shape[:3], 1)
            digits[:, 1:, 1:] = torch.where(where, rows, digits[:, 1:, 1:])
        # without noise nothing is sampled, but a recording takes tensors only
        noise = torch.cat([self._noise(s) for s in sessions]) if sampling else base
        flat = digits.flatten(0, 2)
        line = TokenLine(flat, self._cells, None if known is None else known >= 0)
        inputs = (base, flat, self._rotations(sessions), self._scales(hidden), noise)
        memory = [part for session in sessions for part in self._memory(session)]
        return GridBatch(sessions, line, inputs, memory)

    def codes(self, batch: Batch) -> Tensor:
        shape = (len(batch.sessions), self.height + 1, self.width + 1, len(self.levels))
        return row_codes(batch.line.cells.view(shape)[:, 1:, 1:], self.levels)

    def verify(self, batch: Batch, step: VerifyStep) -> tuple[Tensor, Tensor, Tensor]:
        own = self._step(step.positions(self.device))
        return (*self._run("verify", batch, own), own.own)

    def draft(self, batch: Batch, hidden: Tensor, owners: Tensor, positions: Tensor) -> Tensor:
        assert isinstance(batch, GridBatch) and self.heads is not None
        states = self.heads.join(hidden, self.merged_heads(hidden)).flatten(0, 1)
        rows = (owners * self.size + positions).flatten()
        return self._sample(states, batch.inputs[4].index_select(0, rows))

    def plan(self, batch: Batch) -> Sequence[Wave]:
        """Positions of given tokens alone are run with the next wave that samples."""
        known, count = batch.line.known, len(batch.sessions)
        if known is None:
            return self.waves
        given, most = known.all(0).tolist(), self.most_rows(count)
        waves: list[PositionsWave] = []
        waiting: list[int] = []
        for wave in self.known_waves:
            own = list(wave.sampled)
            sampled = tuple(position for position in own if not given[position])
            if waiting and len(waiting) + len(own) > most:
                waves.append(self._merged((), waiting))
                waiting = []
            waiting += own
            if sampled:
                waves.append(self._merged(sampled, waiting))
                waiting = []
        return [*waves, self._merged((), waiting)] if waiting else waves

    def wave(self, batch: Batch, wave: Wave) -> None:
        assert isinstance(wave, PositionsWave)
        count, known = len(batch.sessions), batch.line.known
        if known is None:
            self._run("sample", batch, self._fixed(count, wave))
            return
        fed = wave.fed.expand(count, -1)
        step = self._step(fed)
        if not wave.sampled:
            self._run("prefill", batch, step)
            return
        _, sampled = self._run("verify", batch, step)
        owners = torch.arange(count, device=self.device)[:, None]
        batch.line.write(step.own, sampled, batch.line.sampled_at(owners, fed))

    def _merged(self, sampled: tuple[int, ...], fed: list[int]) -> PositionsWave:
        """Few shapes are recorded: rows repeat the first position, which changes nothing."""
        rows = 1 << (len(fed) - 1).bit_length()
        padded = [fed[0]] * (rows - len(fed)) + fed
        return PositionsWave(sampled, torch.tensor(padded, device=self.device))

    def _run(self, kind: str, batch: Batch, step: Step) -> _Sampled:
        """Run one forward, of `_KINDS`.

        A step is some two hundred small operations. They are recorded once for each shape, because
        replaying them costs a third of calling them from Python. Sequential decoding, which is
        there to be compared with, is not recorded.
        """
        assert isinstance(batch, GridBatch)
        arguments = (*batch.inputs, *step, *batch.memory)
        sessions, count = step.positions.shape
        shape = Shape(sessions, count, len(step.rows) - sessions * count, kind)
        if shape not in self._programs:
            program = _Program(self, shape)
            self._programs[shape] = program
            if self.mode != "sequential":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # shapes become constants, on purpose
                    recorded = torch.jit.trace(program, arguments, check_trace=False)
                self._programs[shape] = recorded
        return self._programs[shape](*arguments)

    def _carry(self, sessions: Sequence[DecodeSession], digits: Tensor) -> None:
        """Draft the tokens of a latent: those at the same places of the latent before."""
        for i, session in enumerate(sessions):
            if session.window:
                digits[i, 1:, 1:] = digit_rows(session.window[-1], tuple(self.levels))

    def forward_step(
        self,
        shape: Shape,
        base: Tensor,
        digits: Tensor,
        turns: Tensor,
        scales: Tensor,
        noise: Tensor,
        step: Step,
        memory: Sequence[Tensor],
    ) -> _Sampled:
        """Run `positions` positions of each of `batch` sessions, as `kind` says (see `_KINDS`).

        base [B * positions, dim]; digits [B * bordered, D]; turns complex
        [B * positions, 1, head_dim / 2]; scales [layers, 4, B, dim]; noise [B * positions, lanes];
        memory: per session keys and values [layers, Hkv, window, head_dim], where the latent begins
        in them, and its mask. Returns the last hidden states [B * n, dim] and the tokens sampled
        from them as table rows [B * n, D].

        Nothing in here asks for a shape: every question would be replayed as operations.
        """
        config, rows = self.config, step.rows
        size, kv = config.head_dim, config.n_kv_heads
        heads = config.n_heads + kv
        near = digits.index_select(0, step.near).view(-1, 2 * len(self.levels)) + self.sides
        x = F.embedding_bag(near.flatten(), self.neighbours, step.bags, mode="sum")
        x = x + base.index_select(0, rows)
        turn = turns.index_select(0, rows)
        if shape.batch > 1:
            scales = scales.index_select(2, step.owner)
        # per session: keys, values, where the positions' own go, and what the positions may see
        reach = []
        for i, (keys, values, begin, mask) in enumerate(zip(*[iter(memory)] * 4, strict=True)):
            seen = mask.index_select(0, step.seen[i])
            reach.append((keys, values, step.positions[i] + begin, seen))
        for index, layer in enumerate(self.layers):
            weight, shift, ffn_weight, ffn_shift = scales[index].unbind(0)
            qkv = layer.qkv(torch.addcmul(shift, unit(x, self.eps_of_rows), weight))
            found, value = qkv.view(-1, heads + kv, size).split((heads, kv), 1)
            qk = unit(found, self.eps_of_heads) * layer.qk_weight
            pairs = torch.view_as_complex(qk.view(-1, heads, size // 2, 2)) * turn
            qk = torch.view_as_real(pairs).view(-1, heads, size)
            mixed = self._attend(shape, index, reach, qk, value)
            x = layer.out(mixed).add_(x)
            normed = torch.addcmul(ffn_shift, unit(x, self.eps_of_rows), ffn_weight)
            gate, up = layer.up(normed).chunk(2, -1)
            x = layer.down(F.silu(gate).mul_(up)).add_(x)
        if shape.kind == "prefill":
            return x, digits
        x = unit(x, self.eps_of_rows).mul_(self.final)
        sampled = self._sample(x, noise.index_select(0, rows))
        if shape.spare:
            x, sampled = x[: -shape.spare], sampled[: -shape.spare]
        if shape.kind == "sample":
            digits.index_copy_(0, step.own, sampled)
        return x, sampled

    def _sample(self, x: Tensor, noise: Tensor) -> Tensor:
        """Features [rows, dim] -> the digits of their tokens as table rows [rows, D].

        noise [rows, lanes]: see `_noise`.
        """
        state = self.project(x) + self.head.place[0]
        sampled: list[Tensor] = []
        parts = noise.split(self.levels, 1)
        for d, ((weight, bias), own) in enumerate(zip(self.digit_heads, parts, strict=True)):
            if d > 0:
                state = state + self.earlier[d].index_select(0, sampled[-1])
            if self.prepared:
                sampled.append(torch.addmm(own, F.silu(state), weight).argmax(-1))
            else:
                logits = torch.addmm(bias, F.silu(state), weight)
                sampled.append(sample(logits, own, self.sampling))
        return torch.stack(sampled, dim=-1) + self.first_rows

    def _attend(
        self,
        shape: Shape,
        index: int,
        reach: list[tuple[Tensor, Tensor, Tensor, Tensor]],
        qk: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Write keys and values, then attend, session by session -> [rows, H * D]."""
        heads, shared = self.config.n_heads, self.config.n_kv_heads
        count, size = shape.positions, self.config.head_dim
        together = heads // shared  # query heads that share a key head are rows of one product
        rows = [count] * shape.batch + [shape.spare] * bool(shape.spare)
        parts = []
        for (all_keys, all_values, place, seen), mine, own in zip(
            reach, qk.split(rows), value.split(rows), strict=False
        ):
            keys, values = all_keys[index], all_values[index]
            query, key = mine.split((heads, shared), 1)
            keys.index_copy_(1, place, key.transpose(0, 1))
            values.index_copy_(1, place, own.transpose(0, 1))
            query = query.unflatten(1, (shared, together)).transpose(0, 1)
            query = query.reshape(shared, count * together, size)
            if (spare := _LEAST_ROWS - count * together) > 0:
                query, seen = F.pad(query, (0, 0, 0, spare)), F.pad(seen, (0, 0, 0, spare))
            score = torch.baddbmm(seen, query, keys.transpose(1, 2))
            mixed = (score.softmax(-1) @ values)[:, : count * together]
            mixed = mixed.reshape(shared, count, together, size)
            parts.append(mixed.transpose(0, 1).reshape(count, heads * size))
        if shape.spare:
            parts.append(qk.new_zeros(shape.spare, heads * size))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    # -- once per latent ------------------------------------------------------------------------

    def _base(self, session: DecodeSession, hidden: Tensor) -> Tensor:
        """What a position's input has of the past and of its place: [positions, dim]."""
        nothing = torch.full((self.height, self.width), -1, device=self.device)
        missing = self.grid.previous_latents - len(session.window)
        previous = torch.stack([*reversed(session.window), *[nothing] * missing])
        base = self.model.grid_input.neighbourhood(previous[None], hidden[None])[0].clone()
        base[:, 0] += self.model.grid_input.row_start
        return base.flatten(0, 1)

    def _memory(self, session: DecodeSession) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys, values, where the next latent begins in them, and what its positions may see."""
        ring = session.latents % self.ring
        keys, values = self.cache.keys[:, session.slot], self.cache.values[:, session.slot]
        return keys, values, self.begins[ring], self._mask(session)

    def _scales(self, hidden: Tensor) -> Tensor:
        """[layers, 4, B, dim]: norm weight times scale, and shift, for both norms of a layer."""
        result = []
        for layer, block in zip(self.layers, self.model.layers, strict=True):
            modulation = cast(Block, block).modulation
            if modulation is None:
                parts = torch.zeros(4, len(hidden), self.config.dim, device=self.device)
            else:
                rows = [modulation.project(h[None]) for h in hidden]
                parts = torch.cat(rows).unflatten(-1, (4, -1)).transpose(0, 1).clone()
            parts[0] = layer.attention_norm * (1 + parts[0])
            parts[2] = layer.ffn_norm * (1 + parts[2])
            result.append(parts)
        return torch.stack(result)

    def _rotations(self, sessions: Sequence[DecodeSession]) -> Tensor:
        """cos + i sin [B * positions, 1, head_dim / 2] at the sessions' absolute positions."""
        t = torch.tensor([s.latents for s in sessions]).repeat_interleave(self.size)
        h = torch.arange(self.height).repeat_interleave(self.width).repeat(len(sessions))
        w = torch.arange(self.width).repeat(self.height * len(sessions))
        angles = rotary_angles(self.config, t, h, w)
        turns = torch.complex(angles.cos().float(), angles.sin().float())
        return turns[:, None].to(self.device)

    def _noise(self, session: DecodeSession) -> Tensor:
        """Gumbel noise of a latent [positions, lanes]. If `prepared`, in the scale of the logits.

        Where any level may be sampled, the largest of logits / temperature + noise is that of
        logits without bias + (bias + temperature * noise).
        """
        first = session.latents * self.size
        uniform = position_noise(session.seed, first, self.size, self.blank)
        noise = gumbel(uniform).to(self.device)
        if self.prepared:
            noise = torch.add(self.head.bias, noise, alpha=self.sampling.temperature)
        return noise

    def _mask(self, session: DecodeSession) -> Tensor:
        """Return [positions * H / Hkv, window * positions]: 0 = see, -inf = not.

        A row for each of the query heads that share a key head.
        """
        ring, past = session.latents % self.ring, min(session.latents, self.ring - 1)
        if (ring, past) not in self._masks:
            mask = torch.zeros(self.size, self.ring, self.size, dtype=torch.bool)
            for age in range(1, past + 1):
                mask[:, (ring - age) % self.ring] = True
            mask[:, ring] = slot_mask(self.height, self.width, self.grid.diagonal)
            hidden = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
            hidden = hidden.flatten(1).repeat_interleave(self.per_key_head, dim=0)
            self._masks[ring, past] = hidden.to(self.device)
        return self._masks[ring, past]

    def _fixed(self, batch: int, wave: PositionsWave) -> Step:
        """Return the step of a wave for `batch` sessions; made once."""
        key = batch, wave
        if key not in self._fixed_steps:
            self._fixed_steps[key] = self._step(wave.fed.expand(batch, -1))
        return self._fixed_steps[key]

    def _step(self, positions: Tensor) -> Step:
        """Of positions [B, n] of as many sessions."""
        owners = torch.arange(len(positions), device=positions.device)[:, None]
        own = self._cells(owners, positions)
        rows = self._pad((owners * self.size + positions).flatten())
        near = torch.stack([own - 1, own - (self.width + 1)], dim=-1).flatten(0, 1)
        heads = torch.arange(self.per_key_head, device=positions.device)
        return Step(
            positions=positions,
            rows=rows,
            owner=rows // self.size,
            near=self._pad(near).flatten(),
            bags=torch.arange(len(rows), device=positions.device) * 2 * len(self.levels),
            seen=(positions[..., None] * self.per_key_head + heads).flatten(1),
            own=own.flatten(),
        )

    def _cells(self, owners: Tensor, positions: Tensor) -> Tensor:
        """Return the cells of positions [B, n] of sessions [B, 1] in the bordered digits."""
        border = self.width + 1
        row, column = positions // self.width, positions % self.width
        return (owners * (self.height + 1) + row + 1) * border + column + 1

    def _pad(self, rows: Tensor) -> Tensor:
        """Repeat the first row up to a count that keeps rows apart (see `independent_counts`)."""
        place = bisect.bisect_left(self.row_counts, len(rows))
        if place == len(self.row_counts):
            return rows
        spare = rows[:1].expand(self.row_counts[place] - len(rows), *rows.shape[1:])
        return torch.cat([rows, spare])

    # -- at construction ------------------------------------------------------------------------

    def _parts(self) -> list[Tensor]:
        """Return the positions of every forward; with drafts, of those that feed a known latent."""
        order = torch.arange(self.size, device=self.device)
        if self.mode in ("jacobi", "medusa"):  # of the one shape that sampling has, too
            firsts = [min(b, self.size - self.rows) for b in range(0, self.size, self.rows)]
            return [order[first : first + self.rows] for first in firsts]
        if self.mode == "sequential":
            return list(order.split(1))
        step = diagonal_step(self.height, self.width, self.grid.diagonal).flatten()
        step = step.to(self.device)
        return [order[step == s] for s in range(int(step.max()) + 1)]

    @torch.no_grad()
    def _fuse(self) -> None:
        blank = torch.zeros(1, self.config.dim, device=self.device)
        self.model.requires_grad_(False)
        grid_input, head = self.model.grid_input, self.model.output
        assert isinstance(head, DigitHead)
        self.neighbours = torch.cat([grid_input.left.weight, blank, grid_input.above.weight, blank])
        above = torch.arange(2, device=self.device).repeat_interleave(len(self.levels))
        self.sides = above * (self.blank + 1)  # where the table of a neighbour begins
        self.head, self.project = head, PackedLinear(head.project.weight)
        self.offsets = [sum(self.levels[:d]) for d in range(len(self.levels))]
        self.first_rows = torch.tensor(self.offsets, device=self.device)
        pieces = zip(head.weight.split(self.levels), head.bias.split(self.levels), strict=True)
        self.digit_heads = [(weight.t().contiguous(), bias) for weight, bias in pieces]
        # what the digit before adds to the head's state, with the change of place
        steps = head.place.diff(dim=0, prepend=torch.zeros_like(head.place[:1]))
        earlier = head.earlier.split(self.levels)
        self.earlier = [torch.empty(0), *(e + s for e, s in zip(earlier, steps[1:], strict=False))]
        whole = self.sampling.keeps_all(max(self.levels))
        self.prepared = self.sampling.temperature == 0 or whole  # see `_noise`
        # see `unit`
        self.per_key_head = self.config.n_heads // self.config.n_kv_heads
        self.eps_of_rows = self._root(self.config.dim)
        self.eps_of_heads = self._root(self.config.head_dim)
        self.final = self.model.norm.weight * self.config.dim**0.5
        self.layers = [FusedLayer.of(cast(Block, block)) for block in self.model.layers]

    def _root(self, size: int) -> Tensor:
        return torch.tensor((size * self.config.norm_eps) ** 0.5, device=self.device)


class _Program(nn.Module):
    """`PackedExecutor.forward_step` for one shape, recorded with its first arguments."""

    def __init__(self, executor: PackedExecutor, shape: Shape) -> None:
        super().__init__()
        assert shape.kind in _KINDS
        self.run_step = partial(executor.forward_step, shape)
        # a recording finds packed weights only where they are parts of the recorded module
        parts = [
            m for layer in executor.layers for m in (layer.qkv, layer.out, layer.up, layer.down)
        ]
        self.packed = nn.ModuleList([*parts, executor.project])

    def forward(
        self,
        base: Tensor,
        digits: Tensor,
        turns: Tensor,
        scales: Tensor,
        noise: Tensor,
        *rest: Tensor,
    ) -> _Sampled:
        step, memory = Step(*rest[: len(Step._fields)]), rest[len(Step._fields) :]
        return self.run_step(base, digits, turns, scales, noise, step, memory)
