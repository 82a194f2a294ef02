"""Decoding of token grids on a CPU (and, slowly, anywhere): all sessions of a worker together.

Every forward runs the slots of one diagonal (mode `diagonal`), one slot (mode `sequential`), or the
next slots in raster order, whose inputs were guessed: by the network's heads (mode `medusa`), or by
earlier draws at the same places, at first those of the latent before (mode `jacobi`). What follows
a wrong guess is run again. All see the same keys, so they draw the same tokens.
"""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.transformer import KVCache, MedusaHeads, VideoTransformer
from worldbridge.models.transformer.layers import Block
from worldbridge.models.transformer.positions import rotary_angles
from worldbridge.models.transformer.wavefront import DigitHead, diagonal_step, digit_rows, slot_mask
from worldbridge.runtime.decoding.drafts import DraftCounts
from worldbridge.runtime.decoding.executors.cpu_packed import PackedLinear, independent_counts
from worldbridge.runtime.decoding.noise import position_noise
from worldbridge.runtime.decoding.sampling import Sampling, gumbel, sample
from worldbridge.runtime.decoding.wavefront_parts import FusedLayer, Shape, Step, row_codes, unit
from worldbridge.runtime.threads import one_thread

__all__ = ["DECODE_MODES", "WavefrontDecoder", "WavefrontSession"]

DECODE_MODES = ("diagonal", "sequential", "jacobi", "medusa")


@dataclass(slots=True, weakref_slot=True, eq=False)
class WavefrontSession:
    """What decoding remembers of one stream: its seed, its newest latents, its part of the slab.

    The part of the slab goes back when the session is forgotten, whichever way that happens.
    """

    seed: int
    slab: int
    frames: int = 0  # latents so far, the absolute position of the next one
    recent: list[Tensor] = field(default_factory=list)  # newest first, [H, W] codes


class WavefrontDecoder:
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
        entries = self.window * self.slots
        self.cache = KVCache.allocate(config, capacity, entries, torch.empty(0, device=self.device))
        self.keys, self.values = self.cache.keys, self.cache.values
        self.levels = list(self.grid.fsq_levels)
        self.blank = sum(self.levels)  # a row of zeros after the digits'
        self._fuse()
        self.begins = torch.arange(self.window, device=self.device)[:, None] * self.slots
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._step_lists: dict[int, list[Step]] = {}
        self._programs: dict[Shape, Callable[..., _Drawn]] = {}
        self.guesses = mode in ("jacobi", "medusa")
        # In mode `jacobi` heads do harm: tokens of the latent before are the better guesses (8.0
        # tokens a forward with the embedded world, 6.1 with its heads behind the draws).
        self.heads = heads if mode == "medusa" else None
        self.counts = DraftCounts(self.heads.count if self.heads else 0)
        # slots of a forward with guesses
        self.reach = min(self.slots, width if mode == "jacobi" else 1 + len(self.counts.kept))
        self.schedule = self._schedule()
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
        self.schedule = [self._pad(slots) for slots in self.schedule]

    @property
    def least_forwards(self) -> int:
        """A latent takes no fewer, however good the guesses are."""
        return -(-self.slots // self.reach) if self.guesses else len(self.schedule)

    @property
    def enqueued(self) -> int:
        """How many forwards may be enqueued ahead of the device: guesses are waited for."""
        return 0 if self.device.type == "cpu" or self.guesses else len(self.schedule)

    # -- sessions -------------------------------------------------------------------------------

    def open(self, seed: int) -> WavefrontSession:
        """Take a place of the slab. Raises RuntimeError when all are taken."""
        session = WavefrontSession(seed=seed, slab=self.cache.take_slot())
        self.cache.return_with(session, session.slab)
        return session

    def force(self, session: WavefrontSession, codes: Tensor, condition: Tensor) -> None:
        """Append a known latent, codes [H, W], condition [C], by the arithmetic of decoding."""
        self._latent([session], condition[None], codes[None])

    def decode(self, sessions: list[WavefrontSession], condition: Tensor) -> Tensor:
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
        self, sessions: list[WavefrontSession], condition: Tensor, forced: Tensor | None
    ) -> Tensor:
        batch = len(sessions)
        hidden = torch.cat([self.model.condition(c[None].to(self.device)) for c in condition])
        base = torch.cat([self._base(s, hidden[i]) for i, s in enumerate(sessions)])
        scales, turns = self._scales(hidden), self._rotations(sessions)
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
        inputs = (base, flat, turns, scales, base if noise is None else noise)
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
        shape = Shape(batch, count, len(arguments[_ROWS]) - batch * count, kind)
        if shape not in self._programs:
            program = _Program(self, shape)
            self._programs[shape] = program
            if self.mode != "sequential":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # shapes become constants, on purpose
                    recorded = torch.jit.trace(program, arguments, check_trace=False)
                self._programs[shape] = recorded
        return self._programs[shape](*arguments)

    def _speculate(
        self, sessions: list[WavefrontSession], inputs: tuple[Tensor, ...], memory: list[Tensor]
    ) -> None:
        """Draw a latent in raster order, `reach` slots a forward, into the digits of `inputs`.

        Every session is at its own place. One that is ahead, and the end of a latent, run slots
        again that have been drawn: with the same inputs these only write the same keys once more.
        """
        flat, noise = inputs[1], inputs[4]
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

    def _carry(self, sessions: list[WavefrontSession], flat: Tensor) -> None:
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
        shape: Shape,
        base: Tensor,
        digits: Tensor,
        turns: Tensor,
        scales: Tensor,
        noise: Tensor,
        step: Step,
        memory: Sequence[Tensor],
    ) -> _Drawn:
        """Run `slots` slots of each of `batch` sessions, as `kind` says (see `_KINDS`).

        base [B * slots, dim]; digits [B * bordered, D]; turns complex [B * slots, 1, head_dim / 2];
        scales [layers, 4, B, dim]; noise [B * slots, lanes]; memory: per session keys and values
        [layers, Hkv, window, head_dim], where the latent begins in them, and its mask. Returns the
        last hidden states [B * n, dim] and the tokens drawn from them as table rows [B * n, D].

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
        # per session: keys, values, where the slots' own go, and what the slots may see
        reach = []
        for i, (keys, values, begin, mask) in enumerate(zip(*[iter(memory)] * 4, strict=True)):
            seen = mask.index_select(0, step.seen[i])
            reach.append((keys, values, step.slots[i] + begin, seen))
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
        if shape.kind == "force":
            return x, digits
        x = unit(x, self.eps_of_rows).mul_(self.final)
        drawn = self._draw(x, noise.index_select(0, rows))
        if shape.spare:
            x, drawn = x[: -shape.spare], drawn[: -shape.spare]
        if shape.kind == "draw":
            digits.index_copy_(0, step.own, drawn)
        return x, drawn

    def _draw(self, x: Tensor, noise: Tensor) -> Tensor:
        """Features [rows, dim] -> the digits of their tokens as table rows [rows, D].

        noise [rows, lanes]: see `_noise`.
        """
        state = self.project(x) + self.head.place[0]
        drawn: list[Tensor] = []
        parts = noise.split(self.levels, 1)
        for d, ((weight, bias), own) in enumerate(zip(self.digit_heads, parts, strict=True)):
            if d > 0:
                state = state + self.earlier[d].index_select(0, drawn[-1])
            if self.prepared:
                drawn.append(torch.addmm(own, F.silu(state), weight).argmax(-1))
            else:
                logits = torch.addmm(bias, F.silu(state), weight)
                drawn.append(sample(logits, own, self.sampling))
        return torch.stack(drawn, dim=-1) + self.first_rows

    def _attend(
        self,
        shape: Shape,
        index: int,
        reach: list[tuple[Tensor, Tensor, Tensor, Tensor]],
        qk: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Write keys and values of the slots, then attend, session by session -> [rows, H * D]."""
        heads, shared = self.config.n_heads, self.config.n_kv_heads
        count, size = shape.slots, self.config.head_dim
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

    def _base(self, session: WavefrontSession, hidden: Tensor) -> Tensor:
        """What a slot's input has of the past and of its place: [slots, dim]."""
        nothing = torch.full((self.height, self.width), -1, device=self.device)
        missing = self.grid.previous_latents - len(session.recent)
        previous = torch.stack([*session.recent, *[nothing] * missing])
        base = self.model.grid_input.neighbourhood(previous[None], hidden[None])[0].clone()
        base[:, 0] += self.model.grid_input.row_start
        return base.flatten(0, 1)

    def _memory(self, session: WavefrontSession) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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

    def _rotations(self, sessions: list[WavefrontSession]) -> Tensor:
        """cos + i sin [B * slots, 1, head_dim / 2] at the sessions' absolute positions."""
        t = torch.tensor([s.frames for s in sessions]).repeat_interleave(self.slots)
        h = torch.arange(self.height).repeat_interleave(self.width).repeat(len(sessions))
        w = torch.arange(self.width).repeat(self.height * len(sessions))
        angles = rotary_angles(self.config, t, h, w)
        turns = torch.complex(angles.cos().float(), angles.sin().float())
        return turns[:, None].to(self.device)

    def _noise(self, session: WavefrontSession) -> Tensor:
        """Gumbel noise of a latent [slots, lanes]. If `prepared`, in the scale of the logits.

        Where any level may be drawn, the largest of logits / temperature + noise is that of logits
        without bias + (bias + temperature * noise).
        """
        first = session.frames * self.slots
        uniform = position_noise(session.seed, first, self.slots, self.blank)
        noise = gumbel(uniform).to(self.device)
        if self.prepared:
            noise = torch.add(self.head.bias, noise, alpha=self.sampling.temperature)
        return noise

    def _mask(self, session: WavefrontSession) -> Tensor:
        """[slots * H / Hkv, window * slots], 0 = see and -inf = not, for the session's ring place.

        A row for each of the query heads that share a key head.
        """
        ring, past = session.frames % self.window, min(session.frames, self.window - 1)
        if (ring, past) not in self._masks:
            mask = torch.zeros(self.slots, self.window, self.slots, dtype=torch.bool)
            for age in range(1, past + 1):
                mask[:, (ring - age) % self.window] = True
            mask[:, ring] = slot_mask(self.height, self.width, self.grid.diagonal)
            hidden = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
            hidden = hidden.flatten(1).repeat_interleave(self.per_key_head, dim=0)
            self._masks[ring, past] = hidden.to(self.device)
        return self._masks[ring, past]

    def _steps(self, batch: int) -> list[Step]:
        """The steps of a latent for `batch` sessions; made once."""
        if batch not in self._step_lists:
            steps = [self._step(slots.expand(batch, -1)) for slots in self.schedule]
            self._step_lists[batch] = steps
        return self._step_lists[batch]

    def _step(self, slots: Tensor) -> Step:
        """Of slots [B, n] of as many sessions."""
        owners = torch.arange(len(slots), device=slots.device)[:, None]
        own = self._places(owners, slots)
        rows = self._pad((owners * self.slots + slots).flatten())
        near = torch.stack([own - 1, own - (self.width + 1)], dim=-1).flatten(0, 1)
        heads = torch.arange(self.per_key_head, device=slots.device)
        return Step(
            slots=slots,
            rows=rows,
            owner=rows // self.slots,
            near=self._pad(near).flatten(),
            bags=torch.arange(len(rows), device=slots.device) * 2 * len(self.levels),
            seen=(slots[..., None] * self.per_key_head + heads).flatten(1),
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
        spare = rows[:1].expand(self.row_counts[place] - len(rows), *rows.shape[1:])
        return torch.cat([rows, spare])

    # -- at construction ------------------------------------------------------------------------

    def _schedule(self) -> list[Tensor]:
        """The slots of every forward; in modes that guess, of those that feed a known latent."""
        order = torch.arange(self.slots, device=self.device)
        if self.guesses:  # of the one shape that drawing has, too
            begins = range(0, self.slots, self.reach)
            firsts = [min(begin, self.slots - self.reach) for begin in begins]
            return [order[first : first + self.reach] for first in firsts]
        step = diagonal_step(self.height, self.width, self.grid.diagonal).flatten()
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
        told = self.sampling
        whole = told.top_p == 1 and told.top_k >= max(self.levels)
        self.prepared = told.temperature == 0 or whole  # see `_noise`
        # see `unit`
        self.per_key_head = self.config.n_heads // self.config.n_kv_heads
        self.eps_of_rows = self._root(self.config.dim)
        self.eps_of_heads = self._root(self.config.head_dim)
        self.final = self.model.norm.weight * self.config.dim**0.5
        self.layers = [FusedLayer.of(cast(Block, block)) for block in self.model.layers]

    def _root(self, size: int) -> Tensor:
        return torch.tensor((size * self.config.norm_eps) ** 0.5, device=self.device)


_Drawn = tuple[Tensor, Tensor]
# On CPUs with AVX-512, batched products of fewer rows than this sum in another order.
_LEAST_ROWS = 4
_SLOTS, _ROWS = 5, 6  # places of a step's slots and rows among the arguments of a program
# A forward writes keys and values. `force` does no more; `draw` also writes the tokens it draws;
# `window` returns them and leaves it to the caller which ones count.
_KINDS = ("force", "draw", "window")


class _Program(nn.Module):
    """`WavefrontDecoder.forward_step` for one shape, recorded with its first arguments."""

    def __init__(self, decoder: WavefrontDecoder, shape: Shape) -> None:
        super().__init__()
        assert shape.kind in _KINDS
        self.run_step = partial(decoder.forward_step, shape)
        # a recording finds packed weights only where they are parts of the recorded module
        parts = [
            m for layer in decoder.layers for m in (layer.qkv, layer.out, layer.up, layer.down)
        ]
        self.packed = nn.ModuleList([*parts, decoder.project])

    def forward(
        self,
        base: Tensor,
        digits: Tensor,
        turns: Tensor,
        scales: Tensor,
        noise: Tensor,
        *rest: Tensor,
    ) -> _Drawn:
        step, memory = Step(*rest[: len(Step._fields)]), rest[len(Step._fields) :]
        return self.run_step(base, digits, turns, scales, noise, step, memory)


def _leading(right: list[bool]) -> int:
    """How many guesses were right before the first wrong one."""
    return right.index(False) if False in right else len(right)
