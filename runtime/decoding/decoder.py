"""One decoder for every model: a schedule, a drafter and an executor around one KV cache.

The schedule says which positions of a latent a forward samples: in raster order, or as a wavefront.
The drafter proposes the tokens behind the first of them: what earlier forwards sampled there (mode
`jacobi`), or what Medusa heads propose (mode `medusa`). The executor runs the forwards. As noise
belongs to positions, an accepted token is the one that `sequential` samples.

Models in raster order (the Cosmos sizes) have a window of latents that slides; models with a token
grid have a ring of latents, absolute positions, and a mask for which wavefronts are exact.

What is guaranteed:

- At the border between two latents the cache is a function of the tokens in a session's window, bit
  for bit. In raster order a finished latent runs through the model once more, alone and as a whole;
  on a token grid rows are padded to counts at which a row's sums do not depend on the others.
- Within a latent in raster order, the arithmetic of a forward depends on how many rows it has. Two
  ways of decoding therefore agree except where the best two scores of a token lie within that
  rounding. In float32 this was not seen. In half precision it can happen; `padding` gives all ways
  the same row count per session, and for strict equality decode the sessions one by one.
- With `reprefill` a session that is rebuilt continues with the same tokens: it slides when its
  number of latents has a certain value (`window_start`), and sliding feeds the kept latents as
  `open` does. With `rotate` it continues sensibly but not identically: below the first layer, the
  kept keys still know of latents that are no longer in the window. On a random model of three
  layers, from three latents to one, that moved the logits by 5 % of their standard deviation (root
  mean square; worst single logit 35 %), and 93 % of the tokens kept their likeliest code.
- Mode `diagonal` of models in raster order samples other tokens (`is_exact`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from worldbridge.models.conditioning.camera import check_poses
from worldbridge.models.progress import Progress, silent
from worldbridge.models.transformer import MedusaHeads, VideoTransformer
from worldbridge.runtime.decoding.drafts import DraftCounts, LatentProgress, VerifyStep
from worldbridge.runtime.decoding.executors import Batch, DecodeSession, Executor
from worldbridge.runtime.decoding.executors.cpu_packed import PackedExecutor
from worldbridge.runtime.decoding.executors.eager import EagerExecutor
from worldbridge.runtime.decoding.options import DecodeOptions, WeightDtype
from worldbridge.runtime.decoding.sampling import Sampling
from worldbridge.runtime.errors import WeightDtypeError

__all__ = [
    "DecodeSession",
    "Decoder",
    "ExecutorName",
    "SavedTokens",
    "make_decoder",
    "pack_weights",
]

ExecutorName = Literal["eager", "cpu_packed", "cuda"]
_DEFAULT = DecodeOptions()
_LEAST_HEAD = 16  # channels of a head that the attention kernel can take


@dataclass(frozen=True, slots=True)
class SavedTokens:
    """All that a decode session can be rebuilt from."""

    seed: int
    latents: int
    codes: Tensor  # [F, h, w], the latents that the next one is sampled from
    context: Tensor | None = None  # [m, context_dim]
    conditions: Tensor | None = None  # [F, condition_dim]
    poses: Tensor | None = None  # [F, 8]


class Decoder:
    """Decodes latents of a `VideoTransformer` for up to `executor.cache` slots of sessions.

    `make_decoder` builds one. `options` are resolved ones. `on_step` is called before each forward.
    """

    def __init__(
        self,
        model: VideoTransformer,
        executor: Executor,
        options: DecodeOptions,
        heads: MedusaHeads | None = None,
    ) -> None:
        self.model, self.config, self.executor = model, model.config, executor
        self.options, self.mode = options, options.mode or ""
        assert options.max_latents is not None and options.keep is not None
        self.max_latents, self.keep = options.max_latents, options.keep
        _, self.height, self.width = self.config.latent_shape
        self.size = self.height * self.width  # tokens of a latent
        self.heads, self.device = heads, model.norm.weight.device
        self.cache, self.rows = executor.cache, executor.rows
        reach = 1 if heads is None else 1 + heads.count
        self.window = options.jacobi_window if self.mode == "jacobi" else reach  # of raster order
        self.on_step: Callable[[], None] = lambda: None
        self._counts = DraftCounts(heads.count if heads and self.mode == "medusa" else 0)

    @property
    def counts(self) -> DraftCounts:
        """Counts of forwards that sample. Waits for the device."""
        self.executor.update_counts(self._counts)
        return self._counts

    @property
    def tokens_per_forward(self) -> float:
        """Mean of all latents so far; a forward that feeds a finished latent is not counted."""
        return self.counts.tokens_per_forward

    @property
    def least_forwards(self) -> int:
        """A latent takes no fewer, however good the drafts are."""
        return len(self.executor.waves) or -(-self.size // self.window)

    @property
    def enqueued(self) -> int:
        """How many forwards may be enqueued ahead of the device."""
        return self.executor.enqueued

    def window_start(self, latents: int) -> int:
        """Return the oldest latent that latent number `latents` is sampled from.

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
        codes: Tensor | None = None,
        *,
        latents: int | None = None,
        context: Tensor | None = None,
        conditions: Tensor | None = None,
        poses: Tensor | None = None,
    ) -> DecodeSession:
        """Return a session that continues codes [P, h, w], which are its newest latents.

        `latents` is how many it has had (default: P). `context` [m, context_dim] stays the same
        for the whole stream; `conditions` [P, condition_dim] and camera `poses` [P, 8] (see
        `models/conditioning/camera.py`) belong to the latents of the prompt. On a token grid a
        stream may begin with no latent; where older ones are missing, the first
        `previous_latents` codes only lead to those behind them.
        Raises RuntimeError when no slot is free, ValueError when the prompt does not fit.
        """
        if codes is None:
            codes = torch.empty((0, self.height, self.width), dtype=torch.long)
        count = len(codes) if latents is None else latents
        self._check_codes(codes)
        self._check_condition(conditions, len(codes))
        self._check_poses(poses, len(codes))
        if (context is not None) != self.config.takes_text:
            wanted = "a context" if self.config.takes_text else "no context"
            raise ValueError(f"this model takes {wanted} [m, {self.config.context_dim}] per stream")
        if context is not None:
            self.executor.check_context(context)
        lead, fed = self._split(len(codes), count)
        session = DecodeSession(seed, self.cache.take_slot(), count - fed, context=context)
        self.cache.return_with(session, session.slot)
        session.window = list(codes[len(codes) - fed - lead : len(codes) - fed].to(self.device))
        for t in range(len(codes) - fed, len(codes)):
            own = None if conditions is None else conditions[t]
            self._append(session, codes[t], own, None if poses is None else poses[t])
        return session

    def snapshot(self, session: DecodeSession) -> SavedTokens:
        """Return what `restore` needs, and no more; of models in raster order."""
        needed = session.latents - self.window_start(session.latents)
        conditions = torch.stack(session.conditions[-needed:]) if session.conditions else None
        poses = torch.stack(session.poses[-needed:]) if session.poses else None
        codes = torch.stack(session.window[-needed:])
        return SavedTokens(session.seed, session.latents, codes, session.context, conditions, poses)

    def restore(self, saved: SavedTokens) -> DecodeSession:
        """Return a rebuilt session; the module's docstring says how exact it is."""
        return self.open(
            saved.seed,
            saved.codes,
            latents=saved.latents,
            context=saved.context,
            conditions=saved.conditions,
            poses=saved.poses,
        )

    @torch.inference_mode()
    def prefill(
        self,
        session: DecodeSession,
        codes: Tensor,
        condition: Tensor | None = None,
        pose: Tensor | None = None,
    ) -> None:
        """Append a known latent, codes [h, w], condition [condition_dim], camera pose [8]."""
        self._check_condition(None if condition is None else condition[None], 1)
        self._check_poses(None if pose is None else pose[None], 1)
        self.make_room(session)
        self._append(session, codes, condition, pose)

    @torch.inference_mode()
    def decode(
        self,
        sessions: Sequence[DecodeSession],
        condition: Tensor | None = None,
        poses: Tensor | None = None,
        forced: Tensor | None = None,
    ) -> Tensor:
        """Sample the next latent of every session: condition [B, condition_dim] -> codes [B, h, w].

        The condition and the camera poses [B, 8] are those of the latents to be sampled. Sessions
        may be at different places of their streams. `forced` [B, h, w] gives the tokens of some
        positions, -1 = sample: the others are sampled as if these had been. A forward in raster
        order has to sample something, so few positions take few forwards.
        """
        self._check_condition(condition, len(sessions))
        self._check_poses(poses, len(sessions))
        self._check_forced(forced, len(sessions))
        lengths = {len(s.context) for s in sessions if s.context is not None}
        if len(lengths) > 1:
            raise ValueError(
                f"contexts of {sorted(lengths)} rows cannot be decoded together; pad them to one "
                "length or decode these sessions one by one"
            )
        for i, session in enumerate(sessions):
            self.make_room(session)
            if poses is not None:
                self._look(session, poses[i])
        own = [None] * len(sessions) if condition is None else list(condition)
        known = None if forced is None else forced.flatten(1).to(self.device)
        parts = []
        for group in self.executor.groups(sessions):
            part = slice(group.start, group.stop)
            some = None if known is None else known[part]
            parts.append(self._sample(sessions[part], own[part], some))
        codes = torch.cat(parts)
        for i, session in enumerate(sessions):
            if not self.executor.keeps_sampled:
                self._feed(session, codes[i], own[i])
            self._advance(session, codes[i], own[i])
        return codes

    def make_room(self, session: DecodeSession) -> None:
        """Slide a full window to its newest `keep` latents."""
        if self.config.grid is not None or len(session.window) < self.max_latents:
            return
        codes, conditions = session.window[-self.keep :], session.conditions[-self.keep :]
        poses = session.poses[-self.keep :]
        if self.options.slide == "rotate":
            first = int(self.config.begin_of_video_token is not None)
            entries = slice(first, first + self.keep * self.size - 1)
            shift = self.max_latents - self.keep
            self.cache.rotate(self.config, session.slot, entries, shift)
            session.window, session.conditions = codes, conditions
            return
        session.window, session.conditions, session.poses = [], [], []
        session.latents -= self.keep
        for i, latent in enumerate(codes):
            own = conditions[i] if conditions else None
            self._append(session, latent, own, poses[i] if poses else None)

    # -- one latent -----------------------------------------------------------------------------

    def _sample(
        self,
        sessions: Sequence[DecodeSession],
        conditions: Sequence[Tensor | None],
        known: Tensor | None,
    ) -> Tensor:
        """Return codes [B, h, w]."""
        executor = self.executor
        with executor.exclusive():
            batch = executor.begin(sessions, conditions, known)
            if (run_latent := executor.run_latent) is not None:
                run_latent(batch, self.on_step)
            elif executor.waves:
                self._follow_waves(batch)
            else:
                self._verify_drafts(batch)
            return executor.codes(batch)

    def _follow_waves(self, batch: Batch) -> None:
        """Nothing is drafted, so all sessions are always at the same wave."""
        for wave in self.executor.plan(batch):
            self.on_step()
            self.executor.wave(batch, wave)
            for i in range(len(batch.sessions)):
                known = None if batch.line.known is None else batch.line.known[i]
                given = 0 if known is None else int(known[list(wave.sampled)].sum())
                self._counts.add_undrafted(len(wave.sampled) - given)

    def _verify_drafts(self, batch: Batch) -> None:
        """Sample in raster order; a draft begins as the token of the latent before."""
        executor, known = self.executor, batch.line.known
        sessions, skip = len(batch.sessions), not executor.keeps_sampled
        progress = LatentProgress(sessions, self.size, self.window, known, skip)
        most = max(self.rows, executor.most_rows(sessions))
        while step := progress.next_step(self.rows, most, executor.whole_batch):
            self.on_step()
            hidden, sampled, cells = executor.verify(batch, step)
            gains = step.accept(batch.line, sampled, cells)
            if self.heads is not None:
                self._draft(self.heads, batch, step, hidden, gains)
            for place, done, gain in zip(step.active, step.done, gains, strict=True):
                if known is not None:
                    self._counts.add_undrafted(progress.sampled(place, gain))
                elif gain > 0:
                    drafted = self.mode == "medusa" and done > 0
                    self._counts.add(gain, self.size - done, drafted)
                progress.done[place] = done + gain

    def _draft(
        self,
        heads: MedusaHeads,
        batch: Batch,
        step: VerifyStep,
        hidden: Tensor,
        gains: Sequence[int],
    ) -> None:
        """Write the heads' drafts to the line.

        In mode `medusa` they follow the last final token. In mode `jacobi` they follow the rows:
        up to there, what this forward sampled are the better drafts.
        """
        rows, owners, begins = [], [], []
        for i, (place, first) in enumerate(zip(step.active, step.firsts, strict=True)):
            begin = step.done[i] + gains[i] if self.mode == "medusa" else step.limits[i]
            if gains[i] > 0 and begin < self.size:
                rows.append(i * step.rows + begin - 1 - first)
                owners.append([place])
                begins.append([begin])
        if not rows:
            return
        owner, device = torch.tensor(owners, device=self.device), self.device
        positions = torch.tensor(begins, device=device) + torch.arange(heads.count, device=device)
        inside, positions = positions < self.size, positions.clamp(max=self.size - 1)
        states = hidden.index_select(0, torch.tensor(rows, device=device))
        drafts = self.executor.draft(batch, states, owner, positions)
        sampled = batch.line.sampled_at(owner, positions)
        inside = inside if sampled is None else inside & sampled
        cells = batch.line.cell_of(owner, positions)[inside]
        batch.line.cells.index_copy_(0, cells, drafts[inside.flatten()])

    # -- what a session remembers ---------------------------------------------------------------

    def _append(
        self,
        session: DecodeSession,
        codes: Tensor,
        condition: Tensor | None,
        pose: Tensor | None = None,
    ) -> None:
        if pose is not None:
            self._look(session, pose)
        self._feed(session, codes, condition)
        self._advance(session, codes, condition)

    def _look(self, session: DecodeSession, pose: Tensor) -> None:
        """Turn a session's camera to the latent that is fed next.

        Rays are relative to the oldest latent of the window, which stands where the first one of
        a clip stood in training. So they stay as small as they were there, however far a stream
        goes, and a rebuilt session, which has the same window, gets the same ones.
        """
        session.pose, first = pose, session.poses[0] if session.poses else pose
        self.executor.look(session, pose, first)

    def _feed(self, session: DecodeSession, codes: Tensor, condition: Tensor | None) -> None:
        self.on_step()
        with self.executor.exclusive():
            self.executor.prefill(session, codes.to(self.device), condition)

    def _advance(self, session: DecodeSession, codes: Tensor, condition: Tensor | None) -> None:
        session.latents += 1
        session.window = [*session.window, codes.to(self.device)]
        if self.config.grid is not None:
            session.window = session.window[-self.config.grid.previous_latents :]
            return
        if condition is not None:
            session.conditions = [*session.conditions, condition]
        if session.pose is not None:
            session.poses = [*session.poses, session.pose]

    def _split(self, known: int, latents: int) -> tuple[int, int]:
        """Return how many of `known` newest latents only lead to the others, and how many are fed.

        Raises ValueError.
        """
        if self.config.grid is not None:
            lead = min(known, self.config.grid.previous_latents) if latents > known else 0
            return lead, known - lead
        needed = latents - self.window_start(latents)
        if not 1 <= needed <= known <= latents:
            raise ValueError(
                f"a stream of {latents} latents continues from its newest {needed} (at least 1), "
                f"got {known}"
            )
        return 0, needed

    # -- what callers may get wrong -------------------------------------------------------------

    def _check_codes(self, codes: Tensor) -> None:
        shape = (self.height, self.width)
        if codes.ndim != 3 or tuple(codes.shape[1:]) != shape:
            raise ValueError(f"expected codes [latents, {shape[0]}, {shape[1]}], got {codes.shape}")
        self._check_range(codes, 0)

    def _check_forced(self, forced: Tensor | None, count: int) -> None:
        if forced is None:
            return
        shape = (count, self.height, self.width)
        if tuple(forced.shape) != shape or forced.is_floating_point():
            raise ValueError(f"expected forced codes {shape}, got {forced.dtype} {forced.shape}")
        self._check_range(forced, -1)

    def _check_range(self, codes: Tensor, least: int) -> None:
        if not codes.numel():
            return
        low, high = int(codes.min()), int(codes.max())
        if low < least or high >= self.config.vocab_size:
            raise ValueError(
                f"codes must be in {least}..{self.config.vocab_size - 1}, got {low}..{high}"
            )

    def _check_poses(self, poses: Tensor | None, count: int) -> None:
        if self.config.takes_camera:
            check_poses(poses, count)
        elif poses is not None:
            raise ValueError("this model takes no camera; pass None for its poses")

    def _check_condition(self, condition: Tensor | None, count: int) -> None:
        if not self.config.takes_actions:
            if condition is not None:
                raise ValueError("this model takes no condition per latent; pass None")
            return
        shape = (count, self.config.condition_dim)
        if condition is None and count == 0:
            return
        if condition is None or tuple(condition.shape) != shape:
            got = None if condition is None else tuple(condition.shape)
            raise ValueError(f"expected one condition per latent, {shape}, got {got}")


def make_decoder(
    model: VideoTransformer,
    capacity: int,
    sampling: Sampling,
    options: DecodeOptions = _DEFAULT,
    *,
    heads: MedusaHeads | None = None,
    executor: ExecutorName | None = None,
    progress: Progress = silent,
) -> Decoder:
    """Return a decoder with slots for `capacity` sessions, on the fastest executor for the model.

    That is `cpu_packed` for a token grid, `cuda` for a model on a CUDA device where Triton is
    installed and the kernels can take the model, and `eager` elsewhere. All sample the same tokens;
    with a `weight_dtype` of one byte, `cuda` samples others. `heads` draft in mode `medusa`, and
    with `jacobi_heads` in mode `jacobi`. `progress` hears what is compiled and recorded, which
    takes a minute or two the first time.

    Raises WeightDtypeError for a `weight_dtype` that no kernels read, ValueError for options that
    do not fit the model.
    """
    if model.config.grid is not None and model.config.grid.guide_dim:
        raise ValueError("this model has a guide; decode it with ActiveDecoder")
    options = options.resolve(model.config, heads)
    uses_heads = options.mode == "medusa" or (options.mode == "jacobi" and options.jacobi_heads)
    heads = heads if uses_heads else None
    name = executor or _fastest(model)
    if name != "cuda" and options.weight_dtype != "model":
        raise WeightDtypeError.no_kernels(options.weight_dtype, _why_not(model))
    parts = model, capacity, sampling, options, heads
    if name == "cpu_packed":
        return Decoder(model, PackedExecutor(*parts), options, heads)
    if name == "eager":
        return Decoder(model, EagerExecutor(*parts), options, heads)
    # not above: only machines with a GPU need Triton
    from worldbridge.runtime.decoding.executors.cuda.executor import CudaExecutor

    return Decoder(model, CudaExecutor(*parts, progress), options, heads)


def pack_weights(model: VideoTransformer, heads: MedusaHeads | None, dtype: WeightDtype) -> None:
    """Pack the weights that the decoders of a model are going to share, where kernels run.

    What is free of the memory then is free for sessions.
    """
    if _fastest(model) == "cuda":
        from worldbridge.runtime.decoding.executors.cuda.weights import CudaWeights

        CudaWeights.pack(model, heads, dtype)


def _fastest(model: VideoTransformer) -> ExecutorName:
    if model.config.grid is not None:
        return "cpu_packed"
    has_triton = importlib.util.find_spec("triton") is not None
    fits = model.norm.weight.is_cuda and model.config.head_dim >= _LEAST_HEAD
    return "cuda" if has_triton and fits else "eager"


def _why_not(model: VideoTransformer) -> str:
    device, channels = model.norm.weight.device, model.config.head_dim
    triton = "" if importlib.util.find_spec("triton") is not None else "no "
    return f"the device {device}, {triton}Triton, and heads of {channels} channels"
