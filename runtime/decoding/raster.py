"""Endless decoding of raster-causal transformers (the Cosmos sizes), several sessions together.

A latent is drawn token by token in raster order. Mode `sequential` draws one token per forward.
Mode `jacobi` forwards `width` tokens at once, of which all but the first are guesses, draws
behind each of them, and keeps the draws up to the first guess that was wrong. As noise belongs to
positions, what is kept is what `sequential` draws; the other draws are the next round's guesses.
Mode `medusa` is the same with guesses from trained heads, which draw them with the noise of the
places they are for: where head and network agree about a token's distribution, they draw one token.
A network with heads also uses them in mode `jacobi`, where no earlier draw reaches.
Mode `diagonal` draws several rows of a latent at the same time (`staircase.py`). It is the one mode
that draws other tokens than `sequential`, an approximation of what the network was trained for
(`is_exact`). All else that follows holds for it too.

What is guaranteed:

- At the border between two latents a session's keys and values are a function of the tokens in its
  window, bit for bit: a finished latent runs through the model once more, alone and as a whole.
  So neither the mode, nor the width, nor the other sessions can add up over a stream.
- Within a latent the arithmetic of a forward depends on how many rows it has. Two ways of decoding
  therefore agree except where the best two scores of a token lie within that rounding. In float32
  this was not seen. In half precision it can happen; `padding` gives all ways the same row count
  per session, and for strict equality decode the sessions one by one.
- With `reprefill` a session that is rebuilt from its snapshot continues with the same tokens. It
  slides when its number of latents has a certain value (`window_start`), and sliding feeds the
  kept latents exactly as `open` does.
- With `rotate` a restored session continues sensibly but not identically: below the first layer,
  the kept keys still know of latents that are no longer in the window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.conditioning.camera import check_poses, pluecker_rays
from worldbridge.models.transformer import (
    CacheRows,
    KVCache,
    MedusaHeads,
    TransformerConfig,
    VideoTransformer,
)
from worldbridge.models.transformer.positions import (
    absolute_table,
    apply_rotary,
    rotary_angles,
    rotary_table,
)
from worldbridge.runtime.decoding.drafts import DraftCounts
from worldbridge.runtime.decoding.latent_noise import LatentNoise
from worldbridge.runtime.decoding.options import (
    DEFAULT_DIAGONAL,
    RASTER_MODES,
    SLIDES,
    check_heads,
    check_options,
    is_exact,
)
from worldbridge.runtime.decoding.sampling import Sampling, sample
from worldbridge.runtime.decoding.schedule import Wave, WavefrontSchedule

__all__ = [
    "DEFAULT_DIAGONAL",
    "RASTER_MODES",
    "SLIDES",
    "is_exact",
    "RasterDecoder",
    "RasterSession",
    "RasterSnapshot",
    "rotate_time",
]

_Context = list[tuple[Tensor, Tensor]]  # per layer: keys, values [B, Hkv, m, head_dim]


@dataclass(slots=True, weakref_slot=True, eq=False)
class RasterSession:
    """What decoding remembers of one stream. Its slab goes back when the session is forgotten.

    The cache holds every token of the window except the newest one, which is fed when the next
    latent begins, under the condition of that latent.
    """

    seed: int
    slab: int
    latents: int = 0  # so far, the absolute position of the next one
    window: list[Tensor] = field(default_factory=list)  # [h, w] codes, oldest first
    conditions: list[Tensor] = field(default_factory=list)  # [condition_dim], of the same latents
    poses: list[Tensor] = field(default_factory=list)  # [8], the cameras of the same latents
    pose: Tensor | None = None  # [8], of the latent that is being fed
    view: Tensor | None = None  # [h * w, dim], what that adds to the latent's tokens
    context: Tensor | None = None  # [m, context_dim]
    context_pairs: _Context | None = None  # the same as keys and values


@dataclass(frozen=True, slots=True)
class RasterSnapshot:
    """All that a session can be rebuilt from."""

    seed: int
    latents: int
    codes: Tensor  # [F, h, w], the latents that the next one is drawn from
    context: Tensor | None = None  # [m, context_dim]
    conditions: Tensor | None = None  # [F, condition_dim]
    poses: Tensor | None = None  # [F, 8]


class RasterDecoder:
    """Decodes latents of a `VideoTransformer` without a token grid.

    Keys and values live in one slab of `capacity` windows of `max_latents` latents. When a window
    is full, it slides to its newest `keep` latents (default: half of it): `slide` "reprefill" feeds
    them again from position 0; "rotate" keeps their keys and turns them back in time, which costs
    no forward but leaves in them what they saw of dropped latents. On a random model of three
    layers, from three latents to one, that moved the logits by 5 % of their standard deviation
    (root mean square; worst single logit 35 %), and 93 % of the tokens kept their likeliest code.

    `width` is how many tokens a forward of mode `jacobi` feeds per session; mode `medusa` feeds one
    more than there are `heads`. In mode `diagonal` a row of a latent begins once the row above has
    `diagonal` tokens; from the width of a latent on, that is `sequential`. `padding` is the least
    number of rows per session of any drawing forward; rows beyond those in use are ignored.
    """

    def __init__(
        self,
        model: VideoTransformer,
        capacity: int,
        sampling: Sampling,
        mode: str = "jacobi",
        max_latents: int | None = None,
        slide: str = "reprefill",
        *,
        keep: int | None = None,
        width: int = 16,
        padding: int = 1,
        heads: MedusaHeads | None = None,
        diagonal: int = DEFAULT_DIAGONAL,
    ) -> None:
        config = model.config
        trained, self.height, self.width_of_latent = config.latent_shape
        self.max_latents = trained if max_latents is None else max_latents
        self.keep = max(1, self.max_latents // 2) if keep is None else keep
        check_options(config, mode, slide, self.max_latents, self.keep, min(width, padding))
        self.model, self.config, self.sampling = model, config, sampling
        self.mode, self.slide = mode, slide
        self.size = self.height * self.width_of_latent  # tokens of a latent
        self.heads = check_heads(config, mode, heads)
        reach = 1 if self.heads is None else 1 + self.heads.count
        self.width = width if mode == "jacobi" else reach
        self.staircase: WavefrontSchedule | None = None
        if mode == "diagonal":
            self.staircase = WavefrontSchedule(self.height, self.width_of_latent, diagonal, padding)
            self.width = self.staircase.rows
        self.rows = max(self.width, padding)  # per session, of a drawing forward
        self.between: Callable[[], None] = lambda: None  # called before every forward
        self._counts = DraftCounts(self.heads.count if self.heads and mode == "medusa" else 0)
        self.device = model.norm.weight.device
        self.lead = int(config.begin_of_video_token is not None)
        # rows beyond the end of the last latent write to places that nothing ever looks at
        places = self.lead + self.max_latents * self.size + self.rows
        self.cache = KVCache.allocate(config, capacity, places, model.norm.weight)
        self.keys, self.values = self.cache.keys, self.cache.values
        self._newest_context: tuple[Tensor, _Context] | None = None
        self._make_tables()

    @property
    def counts(self) -> DraftCounts:
        """Of drawing forwards; the one that ends a latent is not counted."""
        return self._counts

    @property
    def tokens_per_forward(self) -> float:
        """Mean of all latents so far; the one forward that ends a latent is not counted."""
        return self.counts.tokens_per_forward

    @property
    def least_forwards(self) -> int:
        """A latent takes no fewer, however good the guesses are."""
        if self.staircase is not None:
            return len(self.staircase.stairs)
        return -(-self.size // self.width)

    @property
    def enqueued(self) -> int:
        """How many forwards may be enqueued ahead of the device; those here are waited for."""
        return 0

    def window_start(self, latents: int) -> int:
        """The oldest latent that latent number `latents` is drawn from.

        A function of the number alone, so a rebuilt session slides where the first one did.
        """
        if latents < self.max_latents:
            return 0
        step = self.max_latents - self.keep
        return ((latents - self.max_latents) // step + 1) * step

    # -- sessions -------------------------------------------------------------------------------

    @torch.inference_mode()
    def open(
        self,
        seed: int,
        codes: Tensor,
        *,
        latents: int | None = None,
        context: Tensor | None = None,
        conditions: Tensor | None = None,
        poses: Tensor | None = None,
    ) -> RasterSession:
        """A stream that continues codes [P, h, w], which are its newest latents.

        `latents` is how many it has had (default: P). `context` [m, context_dim] stays the same
        for the whole stream; `conditions` [P, condition_dim] and camera `poses` [P, 8] (see
        `models/conditioning/camera.py`) belong to the latents of the prompt.
        Raises RuntimeError when all places are taken, ValueError when the prompt does not fit.
        """
        count = len(codes) if latents is None else latents
        needed = count - self.window_start(count)
        self._check_prompt(codes, count, needed)
        self._check_condition(conditions, len(codes))
        self._check_poses(poses, len(codes))
        if (context is not None) != self._wants_context:
            wanted = "a context" if self._wants_context else "no context"
            raise ValueError(f"this model takes {wanted} [m, {self.config.context_dim}] per stream")
        session = RasterSession(seed, self.cache.take_slot(), count - needed, context=context)
        self.cache.return_with(session, session.slab)
        if context is not None:
            session.context_pairs = self._context_pairs(context)
        for t in range(len(codes) - needed, len(codes)):
            self._look(session, None if poses is None else poses[t])
            self._append(session, codes[t], None if conditions is None else conditions[t])
        return session

    def snapshot(self, session: RasterSession) -> RasterSnapshot:
        """What `restore` needs, and no more."""
        needed = session.latents - self.window_start(session.latents)
        conditions = torch.stack(session.conditions[-needed:]) if session.conditions else None
        poses = torch.stack(session.poses[-needed:]) if session.poses else None
        codes = torch.stack(session.window[-needed:])
        return RasterSnapshot(
            session.seed, session.latents, codes, session.context, conditions, poses
        )

    def restore(self, snapshot: RasterSnapshot) -> RasterSession:
        """Rebuild a session; the module's docstring says how exactly."""
        return self.open(
            snapshot.seed,
            snapshot.codes,
            latents=snapshot.latents,
            context=snapshot.context,
            conditions=snapshot.conditions,
            poses=snapshot.poses,
        )

    @torch.inference_mode()
    def force(
        self,
        session: RasterSession,
        codes: Tensor,
        condition: Tensor | None = None,
        pose: Tensor | None = None,
    ) -> None:
        """Append a known latent, codes [h, w], condition [condition_dim], camera pose [8]."""
        self._check_condition(None if condition is None else condition[None], 1)
        self._check_poses(None if pose is None else pose[None], 1)
        self._make_room(session)
        self._look(session, pose)
        self._append(session, codes, condition)

    @torch.inference_mode()
    def decode(
        self,
        sessions: Sequence[RasterSession],
        condition: Tensor | None = None,
        poses: Tensor | None = None,
    ) -> Tensor:
        """The next latent of every session: condition [B, condition_dim] -> codes [B, h, w].

        The condition and the camera poses [B, 8] are those of the latents to be drawn. Sessions
        may be at different places of their streams.
        """
        self._check_condition(condition, len(sessions))
        self._check_poses(poses, len(sessions))
        for session in sessions:
            self._make_room(session)
        for i, session in enumerate(sessions):
            self._look(session, None if poses is None else poses[i])
        lengths = {len(s.context) for s in sessions if s.context is not None}
        if len(lengths) > 1:
            raise ValueError(
                f"contexts of {sorted(lengths)} rows cannot be decoded together; pad them to one "
                "length or decode these sessions one by one"
            )
        own = [None] * len(sessions) if condition is None else list(condition)
        pairs = [self._pairs(s, c) for s, c in zip(sessions, own, strict=True)]
        if self.staircase is None:
            codes = self._draw(list(sessions), pairs)
        else:
            codes = self._draw_diagonals(self.staircase, list(sessions), pairs)
        for i, session in enumerate(sessions):
            self._append(session, codes[i], own[i], pairs[i])
        return codes

    @torch.inference_mode()
    def logits(
        self,
        sessions: Sequence[RasterSession],
        tokens: Tensor,
        offsets: Sequence[int],
        pairs: Sequence[_Context | None] | None = None,
    ) -> Tensor:
        """Float32 logits [B, S, vocab] behind tokens [B, S], which continue what the cache holds.

        Offset 0 is the place of the newest token of the window. What is fed here is forgotten when
        a later call feeds the same places. `pairs` are the sessions' contexts.
        """
        known = [s.context_pairs for s in sessions] if pairs is None else pairs
        logits: Tensor = self.model.output(self._hidden(sessions, tokens, offsets, known))
        return logits.float()

    def _hidden(
        self,
        sessions: Sequence[RasterSession],
        tokens: Tensor,
        offsets: Sequence[int],
        pairs: Sequence[_Context | None],
    ) -> Tensor:
        """As `logits`, but the last hidden states [B, S, dim]."""
        firsts = [self._next_place(s) + o for s, o in zip(sessions, offsets, strict=True)]
        views = self._views(sessions, [range(o, o + tokens.shape[1]) for o in offsets])
        return self._features([s.slab for s in sessions], tokens, firsts, pairs, views)

    # -- one latent -----------------------------------------------------------------------------

    def _draw(self, sessions: list[RasterSession], pairs: list[_Context | None]) -> Tensor:
        """Codes [B, h, w]. A guess starts as the token at the same place of the latent before."""
        # what is fed, in order: the newest token, the latent's tokens or guesses, and padding
        feed = torch.zeros(
            (len(sessions), 1 + self.size + self.rows), dtype=torch.long, device=self.device
        )
        for i, session in enumerate(sessions):
            previous = session.window[-1].flatten()
            feed[i, 0], feed[i, 1 : 1 + self.size] = previous[-1], previous
        noise = [self._noise(session) for session in sessions]
        done = [0] * len(sessions)
        while active := [i for i, count in enumerate(done) if count < self.size]:
            self.between()
            rows = feed[active]
            gains = self._round(
                [sessions[i] for i in active],
                [pairs[i] for i in active],
                rows,
                [done[i] for i in active],
                [noise[i] for i in active],
            )
            feed[active] = rows
            for i, gain in zip(active, gains, strict=True):
                drafted = self.mode == "medusa" and done[i] > 0
                self.counts.add(gain, self.size - done[i], drafted)
                done[i] += gain
        shape = (len(sessions), self.height, self.width_of_latent)
        return feed[:, 1 : 1 + self.size].reshape(shape)

    def _round(
        self,
        sessions: list[RasterSession],
        pairs: list[_Context | None],
        feed: Tensor,
        done: list[int],
        noise: list[LatentNoise],
    ) -> list[int]:
        """One forward: writes the draws into feed [B, 1 + size + rows]; how many are final."""
        start = torch.tensor(done, device=self.device)[:, None]
        places = start + torch.arange(self.rows, device=self.device)
        hidden = self._hidden(sessions, feed.gather(1, places), done, pairs)
        logits = self.model.output(hidden)[:, : self.width]
        drawn = sample(
            logits.flatten(0, 1).float(),
            torch.cat([n.take(d, self.width) for n, d in zip(noise, done, strict=True)]),
            self.sampling,
        ).view(len(sessions), self.width)
        behind = places[:, : self.width] + 1
        guesses, inside = feed.gather(1, behind), behind <= self.size
        feed.scatter_(1, behind, torch.where(inside, drawn, guesses))
        # a draw is final if every guess before it was right; the first one has no guess before it
        right = ((drawn == guesses) & inside).long().cumprod(-1).sum(-1)
        final = (right + 1).clamp(max=self.width).minimum(self.size - start[:, 0])
        gains = [int(gain) for gain in final.tolist()]
        if self.heads is not None:
            self._guess(self.heads, hidden, feed, done, gains, noise)
        return gains

    def _guess(
        self,
        heads: MedusaHeads,
        hidden: Tensor,
        feed: Tensor,
        done: list[int],
        gains: list[int],
        noise: list[LatentNoise],
    ) -> None:
        """Write the heads' drafts into `feed` after a forward that left hidden [B, rows, dim].

        In mode `medusa` they follow the last final token. In mode `jacobi` they follow the window:
        up to there, this forward's own draws are the better guesses.
        """
        rows = [gain - 1 if self.mode == "medusa" else self.width - 1 for gain in gains]
        states = heads(torch.stack([hidden[i, row] for i, row in enumerate(rows)]))
        logits = self.model.output(states).float()  # [B, heads, vocab]
        for i, (count, row, gain) in enumerate(zip(done, rows, gains, strict=True)):
            begin = count + row + 1  # the first head's place in the latent
            inside = min(heads.count, self.size - begin)
            if inside <= 0:
                continue
            ahead = begin - (count + gain)
            mine = noise[i].take(count + gain, ahead + inside)[ahead:]
            drafts = sample(logits[i, :inside], mine, self.sampling)
            feed[i, 1 + begin : 1 + begin + inside] = drafts

    def _draw_diagonals(
        self,
        staircase: WavefrontSchedule,
        sessions: list[RasterSession],
        pairs: list[_Context | None],
    ) -> Tensor:
        """Codes [B, h, w]. Nothing is guessed, so all sessions are always at the same step."""
        feed = torch.zeros((len(sessions), 1 + self.size), dtype=torch.long, device=self.device)
        feed[:, :1] = torch.stack([self._newest(session) for session in sessions])
        noise = [self._noise(session) for session in sessions]
        for stair in staircase.stairs:
            self.between()
            drawing = len(stair.drawn)
            hidden = self._climb(sessions, feed[:, stair.sources.to(self.device)], stair, pairs)
            logits = self.model.output(hidden[:, :drawing]).flatten(0, 1).float()
            own = torch.cat([n.at(stair.drawn) for n in noise])
            drawn = sample(logits, own, self.sampling).view(len(sessions), drawing)
            feed[:, [1 + token for token in stair.drawn]] = drawn
            for _ in sessions:
                self.counts.add_undrafted(drawing)
        return feed[:, 1:].reshape(len(sessions), self.height, self.width_of_latent)

    def _climb(
        self,
        sessions: list[RasterSession],
        tokens: Tensor,
        stair: Wave,
        pairs: list[_Context | None],
    ) -> Tensor:
        """The last hidden states [B, rows, dim] of tokens [B, rows] at the places of a step."""
        firsts = [self._next_place(session) for session in sessions]
        own = torch.tensor(firsts, device=self.device)[:, None] + stair.places.to(self.device)
        mask = stair.mask.to(self.device)
        reach = [
            CacheRows(session.slab, own[i], first + stair.end, F.pad(mask, (first, 0), value=True))
            for i, (session, first) in enumerate(zip(sessions, firsts, strict=True))
        ]
        views = self._views(sessions, [stair.places.tolist()] * len(sessions))
        return self._forward(tokens, own, reach, pairs, views)

    def _append(
        self,
        session: RasterSession,
        codes: Tensor,
        condition: Tensor | None,
        pairs: _Context | None = None,
    ) -> None:
        """Feed all but the newest token of a latent, in one forward of this session alone."""
        first = self._next_place(session)
        codes = codes.to(self.device)
        tokens = torch.cat([self._newest(session), codes.flatten()[:-1]])
        if len(tokens):
            self.between()
            pairs = self._pairs(session, condition) if pairs is None else pairs
            # the first latent of a window lacks the token that leads to it, unless a video begins
            views = self._views([session], [range(self.size - len(tokens), self.size)])
            self._features([session.slab], tokens[None], [max(first, 0)], [pairs], views)
        session.window.append(codes)
        if condition is not None:
            session.conditions.append(condition)
        if session.pose is not None:
            session.poses.append(session.pose)
        session.latents += 1

    def _newest(self, session: RasterSession) -> Tensor:
        """The token that a latent begins behind, [1], or [0] where there is none."""
        if session.window:
            return session.window[-1].flatten()[-1:]
        begin = self.config.begin_of_video_token
        return torch.tensor([] if begin is None else [begin], dtype=torch.long, device=self.device)

    def _next_place(self, session: RasterSession) -> int:
        return self.lead + len(session.window) * self.size - 1

    def _pairs(self, session: RasterSession, condition: Tensor | None) -> _Context | None:
        if condition is None:
            return session.context_pairs
        return self.model.action_keys_values(condition[None].to(self.keys))

    def _noise(self, session: RasterSession) -> LatentNoise:
        first = session.latents * self.size
        return LatentNoise(session.seed, first, self.config.vocab_size, self.size, self.device)

    # -- sliding --------------------------------------------------------------------------------

    def _make_room(self, session: RasterSession) -> None:
        """Slide a full window to its newest `keep` latents."""
        if len(session.window) < self.max_latents:
            return
        codes, conditions = session.window[-self.keep :], session.conditions[-self.keep :]
        poses = session.poses[-self.keep :]
        if self.slide == "rotate":
            self._rotate(session.slab, self.max_latents - self.keep)
            session.window, session.conditions = codes, conditions
            return
        session.window, session.conditions, session.poses = [], [], []
        session.latents -= self.keep
        for i, latent in enumerate(codes):
            self._look(session, poses[i] if poses else None)
            self._append(session, latent, conditions[i] if conditions else None)

    def _rotate(self, slab: int, shift: int) -> None:
        """Move the kept latents' keys and values to the front, `shift` latents earlier."""
        count = self.keep * self.size - 1
        source = self.lead + shift * self.size
        for memory in (self.keys, self.values):
            kept = memory[:, slab, :, source : source + count].clone()
            if memory is self.keys:
                kept = rotate_time(self.config, kept, -shift)
            memory[:, slab, :, self.lead : self.lead + count] = kept

    # -- the model ------------------------------------------------------------------------------

    def _features(
        self,
        slabs: list[int],
        tokens: Tensor,
        firsts: list[int],
        pairs: Sequence[_Context | None],
        views: Tensor | None,
    ) -> Tensor:
        """tokens [B, S] at places firsts[b].. of their windows -> features [B, S, dim].

        `views` [B, S, dim] is what the cameras add to the tokens.

        Weights are read once for all sessions; attention runs session by session over what each
        has, so a short window costs little and never sees its neighbours.
        """
        steps = torch.arange(tokens.shape[1], device=self.device)
        places = torch.tensor(firsts, device=self.device)[:, None] + steps
        count = tokens.shape[1]
        rows = [
            CacheRows.continuing(s, f, count, self.device)
            for s, f in zip(slabs, firsts, strict=True)
        ]
        return self._forward(tokens, places, rows, pairs, views)

    def _forward(
        self,
        tokens: Tensor,
        places: Tensor,
        rows: Sequence[CacheRows],
        pairs: Sequence[_Context | None],
        views: Tensor | None,
    ) -> Tensor:
        """tokens [B, S] at any places [B, S] of their windows -> features [B, S, dim]."""
        # places beyond the last latent occur in rows that are ignored
        known = places.clamp(max=len(self.cos) - 1)
        h: Tensor = self.model.tok_embeddings(tokens)
        return self.model.hidden(
            h if views is None else h + views,
            self.cos[known],
            self.sin[known],
            self.cache.attend(rows),
            context=_together(pairs),
            absolute=None if self.absolute is None else self.absolute[known],
        )

    def _context_pairs(self, context: Tensor) -> _Context:
        """Keys and values; those of the newest context are kept, as most streams share one."""
        if self._newest_context is None or self._newest_context[0] is not context:
            pairs = self.model.context_keys_values(context[None].to(self.keys))
            self._newest_context = context, pairs
        return self._newest_context[1]

    def _look(self, session: RasterSession, pose: Tensor | None) -> None:
        """Turn a session's camera to the latent that is fed next.

        Rays are relative to the oldest latent of the window, which stands where the first one of
        a clip stood in training. So they stay as small as they were there, however far a stream
        goes, and a rebuilt session, which has the same window, gets the same ones.
        """
        if pose is None:
            return
        session.pose, first = pose, session.poses[0] if session.poses else pose
        rays = pluecker_rays(pose, first, self.height, self.width_of_latent)
        session.view = self.model.camera_embedding(rays.flatten(0, 1).to(self.keys))

    def _views(
        self, sessions: Sequence[RasterSession], rows: Sequence[Sequence[int]]
    ) -> Tensor | None:
        """What the cameras add to tokens at S offsets of each session, [B, S, dim].

        Offset 0 leads to the latent's first token. Rows beyond its end are ignored later.
        """
        found = [
            session.view[[min(i, self.size - 1) for i in own]]
            for session, own in zip(sessions, rows, strict=True)
            if session.view is not None
        ]
        return torch.stack(found) if found else None

    def _make_tables(self) -> None:
        """cos and sin [places, head_dim/2] and, where used, absolute positions [places, dim]."""
        angles = rotary_table(self.config)
        self.cos, self.sin = angles.cos().to(self.keys), angles.sin().to(self.keys)
        self.absolute: Tensor | None = None
        if self.config.apply_abs_pos_emb:
            self.absolute = absolute_table(self.config).to(self.keys)

    # -- what callers may get wrong -------------------------------------------------------------

    @property
    def _wants_conditions(self) -> bool:
        return self.config.conditioning == "cross_attention"

    @property
    def _wants_context(self) -> bool:
        return self.config.context_dim is not None and not self._wants_conditions

    def _check_prompt(self, codes: Tensor, latents: int, needed: int) -> None:
        shape = (self.height, self.width_of_latent)
        if codes.ndim != 3 or tuple(codes.shape[1:]) != shape:
            raise ValueError(f"expected codes [latents, {shape[0]}, {shape[1]}], got {codes.shape}")
        if not 1 <= needed <= len(codes) <= latents:
            raise ValueError(
                f"a stream of {latents} latents continues from its newest {needed} (at least 1), "
                f"got {len(codes)}"
            )
        if int(codes.min()) < 0 or int(codes.max()) >= self.config.vocab_size:
            raise ValueError(
                f"codes must be in 0..{self.config.vocab_size - 1}, "
                f"got {int(codes.min())}..{int(codes.max())}"
            )

    def _check_poses(self, poses: Tensor | None, count: int) -> None:
        if self.config.takes_camera:
            check_poses(poses, count)
        elif poses is not None:
            raise ValueError("this model takes no camera; pass None for its poses")

    def _check_condition(self, condition: Tensor | None, count: int) -> None:
        if not self._wants_conditions:
            if condition is not None:
                raise ValueError("this model takes no condition per latent; pass None")
            return
        shape = (count, self.config.condition_dim)
        if condition is None or tuple(condition.shape) != shape:
            got = None if condition is None else tuple(condition.shape)
            raise ValueError(f"expected one condition per latent, {shape}, got {got}")


def rotate_time(config: TransformerConfig, keys: Tensor, shift: int) -> Tensor:
    """Rotated keys [..., head_dim] as they would be `shift` latents later.

    A rotation by the sum of two angles is one rotation after the other, so no key has to be
    computed again. Only what a key has learned from latents before it stays as it was.
    """
    zero = torch.zeros((), dtype=torch.long, device=keys.device)
    angles = rotary_angles(config, zero + shift, zero, zero)
    cos, sin = angles.cos().float(), angles.sin().float()
    return apply_rotary(keys.float(), cos, sin).to(keys)


def _together(pairs: Sequence[_Context | None]) -> _Context | None:
    """Per layer, keys and values of the contexts of all sessions, [B, Hkv, m, D] each."""
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return None
    if all(pair is known[0] for pair in known):  # one context for all, such as a server's prompt
        size = (len(known), -1, -1, -1)
        return [(keys.expand(size), values.expand(size)) for keys, values in known[0]]
    return [
        (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer]))
        for layer in zip(*known, strict=True)
    ]
