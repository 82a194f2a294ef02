"""Decoding of token grids on a CPU (and, slowly, anywhere): all sessions of a worker together.

Every forward runs the slots of one diagonal (mode `diagonal`), one slot (mode `sequential`), or the
next slots in raster order, whose inputs were guessed: by the network's heads (mode `medusa`), or by
earlier draws at the same places, at first those of the latent before (mode `jacobi`). What follows
a wrong guess is run again. All see the same keys, so they draw the same tokens.
"""

from __future__ import annotations

import bisect
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.transformer import MedusaHeads, VideoTransformer
from worldbridge.models.transformer.grid import DigitHead, diagonal_step, digit_rows, slot_mask
from worldbridge.models.transformer.layers import Block
from worldbridge.models.transformer.positions import rotary_angles
from worldbridge.runtime.decoding.drafts import DraftCounts
from worldbridge.runtime.decoding.noise import position_noise
from worldbridge.runtime.decoding.packed import PackedLinear, independent_counts
from worldbridge.runtime.decoding.sampler import Sampling, gumbel, sample
from worldbridge.runtime.threads import one_thread

__all__ = ["DECODE_MODES", "GridDecoder", "GridSession"]

DECODE_MODES = ("diagonal", "sequential", "jacobi", "medusa")


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
    Mode `medusa` needs the model's `heads`; `counts` tells how good guesses were. A forward of mode
    `jacobi` runs `width` slots.
    """

    def __init__(
        self,
        model: VideoTransformer,
        capacity: int,
        sampling: Sampling,
        mode: str = "diagonal",
        heads: MedusaHeads | None = None,
        width: int = 16,
    ) -> None:
        config = model.config
        if config.grid is None:
            raise ValueError("this model has no token grid; it cannot be decoded along diagonals")
        if mode not in DECODE_MODES:
            raise ValueError(f"unknown decode mode {mode!r}; expected one of {DECODE_MODES}")
        if mode == "medusa" and heads is None:
            raise ValueError("mode 'medusa' needs the model's heads, got none; use 'diagonal'")
        if heads is not None and heads.dim != config.dim:
            raise ValueError(f"expected heads for a model {config.dim} wide, got {heads.dim}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.model, self.config, self.grid = model, config, config.grid
        self.sampling, self.mode = sampling, mode
        self.between: Callable[[], None] = lambda: None  # called before every forward
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
        self.begins = torch.arange(self.window, device=self.device)[:, None] * self.slots
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._step_lists: dict[int, list[_Step]] = {}
        self._programs: dict[tuple[int, int, str], Callable[..., _Drawn]] = {}
        self.guesses = mode in ("jacobi", "medusa")
        # In mode `jacobi` heads do harm: tokens of the latent before are the better guesses (8.0
        # tokens a forward with the embedded world, 6.1 with its heads behind the draws).
        self.heads = heads if mode == "medusa" else None
        self.counts = DraftCounts(self.heads.count if self.heads else 0)
        # slots of a forward with guesses
        self.reach = min(self.slots, width if mode == "jacobi" else 1 + len(self.counts.kept))
        layers = [
            self.layers[0].qkv,
            self.layers[0].out,
            self.layers[0].up,
            self.layers[0].down,
            self.project,
        ]
        if self.heads is not None:
            self.merged_heads = PackedLinear(self.heads.weight)
        widest = max(self.reach, *(len(slots) for slots in self.schedule))
        self.row_counts = independent_counts(layers, capacity * widest + 8)
        self.together = bool(self.row_counts) and self.row_counts[-1] >= capacity * widest

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

    # With two threads its small steps take up to sixteen times as long.
    @one_thread()
    @torch.inference_mode()
    def _latent(
        self, sessions: list[GridSession], condition: Tensor, forced: Tensor | None
    ) -> Tensor:
        batch = len(sessions)
        hidden = torch.cat([self.model.condition(c[None].to(self.device)) for c in condition])
        base = torch.cat([self._base(s, hidden[i]) for i, s in enumerate(sessions)])
        scales, (cos, sin) = self._scales(hidden), self._rotations(sessions)
        # the digits of every token as rows of the embedding tables, with a border of blanks
        shape = (batch, self.height + 1, self.width + 1, len(self.levels))
        digits = torch.full(shape, self.blank, device=self.device)
        noise = None
        if forced is not None:
            digits[:, 1:, 1:] = digit_rows(forced, tuple(self.levels))
        else:
            noise = torch.cat([self._noise(s) for s in sessions])
        flat = digits.flatten(0, 2)
        memory = [part for session in sessions for part in self._memory(session)]
        # without noise nothing is drawn, but a recording takes tensors only
        inputs = (base, flat, cos, sin, scales, base if noise is None else noise)
        if self.guesses and noise is not None:
            self._speculate(sessions, inputs, memory)
        else:
            for step in self._steps(batch):
                self._run("force" if noise is None else "draw", (*inputs, *step, *memory))
        result = row_codes(digits[:, 1:, 1:], self.levels)
        for i, session in enumerate(sessions):
            session.recent = [result[i], *session.recent][: self.grid.previous_latents]
            session.frames += 1
        return result

    def _run(self, kind: str, arguments: tuple[Tensor, ...]) -> _Drawn:
        """One forward, of `_KINDS`.

        A step is some two hundred small operations. They are recorded once for each shape, because
        replaying them costs a third of calling them from Python. Sequential decoding, which is
        there to be compared with, is not recorded.
        """
        self.between()
        batch, count = arguments[_SLOTS].shape
        shape = (batch, count, kind)
        if shape not in self._programs:
            program = _Program(self, batch, kind)
            self._programs[shape] = program
            if self.mode != "sequential":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # shapes become constants, on purpose
                    recorded = torch.jit.trace(program, arguments, check_trace=False)
                self._programs[shape] = recorded
        return self._programs[shape](*arguments)

    def _speculate(
        self, sessions: list[GridSession], inputs: tuple[Tensor, ...], memory: list[Tensor]
    ) -> None:
        """Draw a latent in raster order, `reach` slots a forward, into the digits of `inputs`.

        Every session is at its own place. One that is ahead, and the end of a latent, run slots
        again that have been drawn: with the same inputs these only write the same keys once more.
        """
        flat, noise = inputs[1], inputs[5]
        done = [0] * len(sessions)
        self._carry(sessions, flat)
        while min(done) < self.slots:
            first = torch.tensor([min(d, self.slots - self.reach) for d in done])
            slots = first[:, None] + torch.arange(self.reach)
            step = self._step(slots.to(self.device))
            features, drawn = self._run("window", (*inputs, *step, *memory))
            guessed = flat.index_select(0, step.own)
            right = (drawn == guessed).all(-1).view(slots.shape).tolist()
            known = (slots < torch.tensor(done)[:, None]).flatten()[:, None].to(self.device)
            flat.index_copy_(0, step.own, torch.where(known, guessed, drawn))
            ahead = []  # session, its next slot, row of the slot before that
            for i, begin in enumerate(first.tolist()):
                if done[i] == self.slots:
                    continue
                place, left = done[i] - begin, self.slots - done[i]
                gain = min(left, 1 + _leading(right[i][place:-1]))
                self.counts.add(gain, left, drafted=self.heads is not None and done[i] > 0)
                done[i] += gain
                if done[i] < self.slots:
                    ahead.append((i, done[i], i * self.reach + done[i] - begin - 1))
            if self.heads is not None and ahead:
                self._guess(self.heads, features, ahead, flat, noise)

    def _carry(self, sessions: list[GridSession], flat: Tensor) -> None:
        """Guess the tokens of a latent: those at the same places of the latent before."""
        slots = torch.arange(self.slots, device=self.device).expand(len(sessions), -1)
        own = self._step(slots).own.view(slots.shape)
        for i, session in enumerate(sessions):
            if session.recent:
                codes = session.recent[0].flatten()
                flat.index_copy_(0, own[i], digit_rows(codes, tuple(self.levels)))

    def _guess(
        self,
        heads: MedusaHeads,
        features: Tensor,
        ahead: list[tuple[int, int, int]],
        flat: Tensor,
        noise: Tensor,
    ) -> None:
        """Write the heads' drafts to `flat`; `ahead`: session, next slot, row of the last one.

        A draft is drawn with the noise of the slot it is for.
        """
        rows = torch.tensor([row for _, _, row in ahead], device=self.device)
        x = features.index_select(0, rows)
        owner = torch.tensor([[i] for i, _, _ in ahead])
        slots = torch.tensor([[slot] for _, slot, _ in ahead]) + torch.arange(heads.count)
        inside = (slots < self.slots).flatten().to(self.device)
        slots = slots.clamp(max=self.slots - 1)
        states = heads.join(x, self.merged_heads(x)).flatten(0, 1)
        theirs = noise.index_select(0, (owner * self.slots + slots).flatten().to(self.device))
        drafts = self._draw(states, theirs)
        places = self._places(owner, slots).flatten().to(self.device)
        flat.index_copy_(0, places[inside], drafts[inside])

    def forward_step(
        self,
        batch: int,
        kind: str,
        base: Tensor,
        digits: Tensor,
        cos: Tensor,
        sin: Tensor,
        scales: Tensor,
        noise: Tensor,
        step: _Step,
        memory: Sequence[Tensor],
    ) -> _Drawn:
        """Run the slots of one step, as `kind` says (see `_KINDS`).

        base [B * slots, dim]; digits [B * bordered, D]; cos, sin [B * slots, 1, head_dim]; scales
        [layers, 4, B, dim]; noise [B * slots, lanes]; memory: per session keys and values [layers,
        Hkv, window, head_dim], where the latent begins in them, and its mask. Returns the last
        hidden states [B * n, dim] and the tokens drawn from them as table rows [B * n, D].
        """
        rows, heads = step.rows, self.config.n_heads + self.config.n_kv_heads
        size = self.config.head_dim
        x = base.index_select(0, rows)
        for table, near in ((self.left, step.left), (self.above, step.above)):
            x = x + F.embedding_bag(digits.index_select(0, near), table, mode="sum")
        cos, sin = cos.index_select(0, rows), sin.index_select(0, rows)
        if batch > 1:
            scales = scales.index_select(2, step.owner)
        # per session: keys, values, where the slots' own go, and what the slots may see
        reach = []
        for i, (keys, values, begin, mask) in enumerate(zip(*[iter(memory)] * 4, strict=True)):
            seen = mask.index_select(0, step.slots[i])[:, None]
            reach.append((keys, values, step.slots[i] + begin, seen))
        for index, layer in enumerate(self.layers):
            weight, shift, ffn_weight, ffn_shift = scales[index].unbind(0)
            qkv = layer.qkv(torch.addcmul(shift, self._norm(x), weight))
            qkv = qkv.view(rows.shape[0], -1, size)
            qk = self._norm(qkv[:, :heads]) * layer.qk_weight
            qk = torch.addcmul(qk * cos, qk.roll(size // 2, -1), sin)
            mixed = self._attend(index, reach, qk, qkv[:, heads:])
            x = layer.out(mixed).add_(x)
            gate, up = layer.up(torch.addcmul(ffn_shift, self._norm(x), ffn_weight)).chunk(2, -1)
            x = layer.down(F.silu(gate).mul_(up)).add_(x)
        if kind == "force":
            return x, digits
        x, count = self._norm(x).mul_(self.final), step.own.shape[0]
        drawn = self._draw(x, noise.index_select(0, rows))[:count]
        if kind == "draw":
            digits.index_copy_(0, step.own, drawn)
        return x[:count], drawn

    def _draw(self, x: Tensor, noise: Tensor) -> Tensor:
        """Features [rows, dim] -> the digits of their tokens as table rows [rows, D]."""
        state = self.project(x) + self.head.place[0]
        drawn: list[Tensor] = []
        for d, (weight, bias) in enumerate(self.digit_heads):
            if d > 0:
                state = state + self.head.earlier[drawn[-1]] + self.place_steps[d]
            logits = torch.addmm(bias, F.silu(state), weight)
            block = slice(self.offsets[d], self.offsets[d] + self.levels[d])
            drawn.append(sample(logits, noise[:, block], self.sampling) + self.offsets[d])
        return torch.stack(drawn, dim=-1)

    def _norm(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps), in few passes: a call costs as much as its arithmetic."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * length.square_().mul_(1 / x.shape[-1]).add_(self.eps).rsqrt_()

    def _attend(
        self,
        index: int,
        reach: list[tuple[Tensor, Tensor, Tensor, Tensor]],
        qk: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Write keys and values of the slots, then attend, session by session -> [rows, H * D]."""
        heads, shared = self.config.n_heads, self.config.n_kv_heads
        count, size = reach[0][2].shape[0], self.config.head_dim
        parts = []
        for i, (all_keys, all_values, place, seen) in enumerate(reach):
            mine = slice(i * count, (i + 1) * count)
            keys, values = all_keys[index], all_values[index]
            keys.index_copy_(1, place, qk[mine, heads:].transpose(0, 1))
            values.index_copy_(1, place, value[mine].transpose(0, 1))
            # query heads that share a key head become rows of one product
            query = qk[mine, :heads].unflatten(1, (shared, -1)).transpose(0, 1)
            score = query.reshape(shared, -1, size) @ keys.transpose(1, 2)
            score = score.view(shared, count, -1, score.shape[-1]).add_(seen)
            mixed = score.softmax(-1).flatten(1, 2) @ values
            parts.append(mixed.view(shared, count, -1, size).transpose(0, 1).reshape(count, -1))
        spare = qk.shape[0] - len(reach) * count
        if spare:
            parts.append(qk.new_zeros(spare, heads * size))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    # -- once per latent ------------------------------------------------------------------------

    def _base(self, session: GridSession, hidden: Tensor) -> Tensor:
        """What a slot's input has of the past and of its place: [slots, dim]."""
        nothing = torch.full((self.height, self.width), -1, device=self.device)
        missing = self.grid.previous_latents - len(session.recent)
        previous = torch.stack([*session.recent, *[nothing] * missing])
        base = self.model.grid_input.neighbourhood(previous[None], hidden[None])[0].clone()
        base[:, 0] += self.model.grid_input.row_start
        return base.flatten(0, 1)

    def _memory(self, session: GridSession) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys, values, where the next latent begins in them, and what its slots may see."""
        ring = session.frames % self.window
        keys, values = self.keys[:, session.slab], self.values[:, session.slab]
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
        uniform = position_noise(session.seed, first, self.slots, self.blank)
        return gumbel(uniform).to(self.device)

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

    def _steps(self, batch: int) -> list[_Step]:
        """The steps of a latent for `batch` sessions; made once."""
        if batch not in self._step_lists:
            steps = [self._step(slots.expand(batch, -1)) for slots in self.schedule]
            self._step_lists[batch] = steps
        return self._step_lists[batch]

    def _step(self, slots: Tensor) -> _Step:
        """Of slots [B, n] of as many sessions."""
        owners = torch.arange(len(slots), device=slots.device)[:, None]
        own = self._places(owners, slots)
        rows = self._pad((owners * self.slots + slots).flatten())
        return _Step(
            slots=slots,
            rows=rows,
            owner=rows // self.slots,
            left=self._pad((own - 1).flatten()),
            above=self._pad((own - (self.width + 1)).flatten()),
            own=own.flatten(),
        )

    def _places(self, owners: Tensor, slots: Tensor) -> Tensor:
        """Where the tokens of slots [B, n] of sessions [B, 1] are in the bordered digits."""
        border = self.width + 1
        row, column = slots // self.width, slots % self.width
        return (owners * (self.height + 1) + row + 1) * border + column + 1

    def _pad(self, rows: Tensor) -> Tensor:
        """Repeat the first row up to a count that keeps rows apart (see `independent_counts`)."""
        place = bisect.bisect_left(self.row_counts, len(rows))
        if place == len(self.row_counts):
            return rows
        return torch.cat([rows, rows[:1].expand(self.row_counts[place] - len(rows))])

    # -- at construction ------------------------------------------------------------------------

    def _schedule(self) -> list[Tensor]:
        """The slots of every forward."""
        step = diagonal_step(self.height, self.width, self.grid.diagonal).flatten()
        order = torch.arange(self.slots, device=self.device)
        step = step.to(self.device)
        if self.mode == "sequential":
            return list(order.split(1))
        return [order[step == s] for s in range(int(step.max()) + 1)]

    @torch.no_grad()
    def _fuse(self) -> None:
        blank = torch.zeros(1, self.config.dim, device=self.device)
        self.model.requires_grad_(False)
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


class _Step(NamedTuple):
    """Which slots a forward runs, and where their inputs and results are."""

    slots: Tensor  # [B, n] of a latent
    rows: Tensor  # [rows] of all sessions' slots, session-major, padded
    owner: Tensor  # [rows] the session of each row
    left: Tensor  # [rows] places of the left tokens in the bordered digits
    above: Tensor  # [rows]
    own: Tensor  # [B * n] places of the tokens that are drawn


_Drawn = tuple[Tensor, Tensor]
_SLOTS = 6  # place of a step's slots among the arguments of a program
# A forward writes keys and values. `force` does no more; `draw` also writes the tokens it draws;
# `window` returns them and leaves it to the caller which ones count.
_KINDS = ("force", "draw", "window")


class _Program(nn.Module):
    """`GridDecoder.forward_step` for one shape, recorded with its first arguments."""

    def __init__(self, decoder: GridDecoder, batch: int, kind: str) -> None:
        super().__init__()
        assert kind in _KINDS
        self.run_step = partial(decoder.forward_step, batch, kind)
        # a recording finds packed weights only where they are parts of the recorded module
        parts = [
            m for layer in decoder.layers for m in (layer.qkv, layer.out, layer.up, layer.down)
        ]
        self.packed = nn.ModuleList([*parts, decoder.project])

    def forward(
        self,
        base: Tensor,
        digits: Tensor,
        cos: Tensor,
        sin: Tensor,
        scales: Tensor,
        noise: Tensor,
        *rest: Tensor,
    ) -> _Drawn:
        step, memory = _Step(*rest[: len(_Step._fields)]), rest[len(_Step._fields) :]
        return self.run_step(base, digits, cos, sin, scales, noise, step, memory)


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


def _leading(right: list[bool]) -> int:
    """How many guesses were right before the first wrong one."""
    return right.index(False) if False in right else len(right)
