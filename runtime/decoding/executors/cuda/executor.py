"""Sampling in raster order or along wavefronts on a CUDA device.

How windows slide, and that a finished latent runs through the model once more as a whole, stays
PyTorch's work (`EagerExecutor`). Only the sampling of a latent, where nearly all the time goes, is
done by steps of kernels (`step.py`), enqueued ahead of the GPU as recorded graphs (`graphs.py`).

Tokens are those of `EagerExecutor` except where the best two scores of a token lie within the
rounding of a forward, whose sums the kernels take in another order; the same caveat that the eager
modes have among themselves. On the device row results depend neither on the other sessions nor,
apart from the shape of the matrix instruction, on the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

import torch
from torch import Tensor

from worldbridge.kernels.checks import interpreting
from worldbridge.models.progress import Progress, silent
from worldbridge.models.transformer import MedusaHeads, TransformerConfig, VideoTransformer
from worldbridge.runtime.decoding.drafts import DraftCounts
from worldbridge.runtime.decoding.executors import Batch, ContextPairs, RunLatent
from worldbridge.runtime.decoding.executors.cuda.graphs import (
    DispatchPacer,
    EagerSteps,
    GraphSteps,
    Reports,
    Steps,
)
from worldbridge.runtime.decoding.executors.cuda.layers import CudaLayers, StepShape
from worldbridge.runtime.decoding.executors.cuda.step import CudaStep, WavefrontStep
from worldbridge.runtime.decoding.executors.cuda.weights import CudaWeights
from worldbridge.runtime.decoding.executors.eager import EagerExecutor, RasterBatch
from worldbridge.runtime.decoding.options import DecodeOptions
from worldbridge.runtime.decoding.sampling import Sampling

__all__ = ["CudaExecutor"]


class CudaExecutor(EagerExecutor):
    """`EagerExecutor` whose latents are sampled by kernels, see `DecodeOptions`.

    At the 4B's size the packed weights take 4.6 GB (bfloat16) or 3.8 GB (one byte) beside the
    model's own, which feed finished latents.
    """

    clamps_rows = False

    def __init__(
        self,
        model: VideoTransformer,
        capacity: int,
        sampling: Sampling,
        options: DecodeOptions,
        heads: MedusaHeads | None = None,
        progress: Progress = silent,
    ) -> None:
        super().__init__(model, capacity, sampling, options, heads)
        if self.device.type != "cuda" and not interpreting():
            raise ValueError(
                f"expected a model on a CUDA device, got {self.device}; move it there with "
                ".to('cuda') or use EagerExecutor"
            )
        self.context_rows = _context_rows(self.config, options.context_rows)
        self._group, self._ahead = options.group, options.ahead
        shape = StepShape(
            capacity,
            self.rows,
            self.window,
            self.size,
            options.mode == "medusa",
            self.context_rows,
            options.split,
        )
        self.weights = CudaWeights.pack(model, heads, options.weight_dtype)
        self.step = self._make_step(shape)
        self.reports = Reports(self.step.state.feed.num_accepted)
        # whose context each place holds; kept alive, so that no other can be taken for it
        self._held: list[ContextPairs | None] = [None] * capacity
        self.steps: Steps = (
            GraphSteps(self.step, progress) if self.device.type == "cuda" else EagerSteps(self.step)
        )
        self.enqueued = len(self.waves) or DispatchPacer.most(self._group, self._ahead)

    @property
    def run_latent(self) -> RunLatent:
        return self._run_latent

    def update_counts(self, counts: DraftCounts) -> None:
        sums, heads = self.step.state.feed.counts.sum(0).tolist(), len(counts.accepted)
        counts.forwards, counts.tokens, counts.carried = sums[:3]
        counts.drafted, counts.accepted = sums[3 : 3 + heads], sums[3 + heads :]

    def check_context(self, context: Tensor) -> None:
        if self.config.takes_text and len(context) > self.context_rows:
            raise ValueError(
                f"expected a context of at most {self.context_rows} rows, got {len(context)}; "
                "build the decoder with more context_rows"
            )

    def _make_step(self, shape: StepShape) -> CudaLayers:
        keys, values = self.cache.keys, self.cache.values
        parts = self.config, self.weights, keys, values, self.sampling, shape
        return CudaStep(*parts) if self.schedule is None else WavefrontStep(*parts, self.schedule)

    # -- one latent -----------------------------------------------------------------------------

    def _run_latent(self, batch: Batch, on_step: Callable[[], None]) -> None:
        """Return as soon as the device is known to be done with the last step."""
        assert isinstance(batch, RasterBatch)
        count, given = len(batch.sessions), batch.line.known is not None
        bucket = next(bucket for bucket in self.steps.buckets if bucket >= count)
        self.steps.prepare(bucket, given)
        self.write_state(batch)

        def run() -> None:
            on_step()
            self.steps.run(bucket, given)

        if self.waves:
            self._run_waves(run, count)
        else:
            self._run_until_done(run, count)
        line = self.step.state.feed.tokens[:count, : 1 + self.size]
        batch.line.cells.view(line.shape).copy_(line)

    def _run_until_done(self, run: Callable[[], None], sessions: int) -> None:
        pace = DispatchPacer(self.size, self.window, group=self._group, ahead=self._ahead)
        while not pace.finished:
            if steps := pace.next_group():
                for _ in repeat(None, steps):
                    run()
                self.reports.note(sessions)
            else:
                pace.report(self.size - min(self.reports.read()))

    def _run_waves(self, run: Callable[[], None], sessions: int) -> None:
        """How many steps it takes is known, so all are enqueued before any report.

        Raises RuntimeError if the device did not do as many.
        """
        needed = len(self.waves)
        for _ in repeat(None, needed):
            run()
        self.reports.note(sessions)
        did = self.reports.read()
        if any(steps != needed for steps in did):
            raise RuntimeError(
                f"after {needed} steps of a latent, the device reports {list(did)}; expected "
                f"{needed} for each session: its memory or kernels are damaged"
            )

    def write_state(self, batch: RasterBatch) -> None:
        """Write where the sessions stand, and mark the places behind them as idle."""
        self.reports.forget()  # of a latent that was interrupted
        state, feed, sessions = self.step.state, self.step.state.feed, batch.sessions
        count = len(sessions)
        idle = [self.size] * (len(feed.num_accepted) - count)
        zeros = [0] * len(idle)
        numbers = torch.tensor(
            [
                [0] * count + idle,
                [self.next_entry(s) for s in sessions] + zeros,
                [s.latents * self.size for s in sessions] + zeros,
                [_signed(s.seed) for s in sessions] + zeros,
                [s.slot for s in sessions] + zeros,
            ]
        ).to(self.device)
        targets = (
            feed.num_accepted,
            feed.first_entries,
            feed.first_positions,
            state.seeds,
            state.slots,
        )
        for target, row in zip(targets, numbers, strict=True):
            target.copy_(row)
        tokens, known = batch.line.cells.view(count, -1), batch.line.known
        feed.tokens[:count, : 1 + self.size] = tokens
        if known is not None:
            state.given[:count, : self.size] = torch.where(known, tokens[:, 1:], -1)
        for i, (session, pairs) in enumerate(zip(sessions, batch.pairs, strict=True)):
            if state.views is not None and session.view is not None:
                state.views[i].copy_(session.view)
            self._hold(i, pairs)

    def _hold(self, place: int, pairs: ContextPairs | None) -> None:
        """Copy a session's context to its place of the batch, unless it is there already."""
        state = self.step.state
        if pairs is None or self._held[place] is pairs:
            return
        assert state.context_keys is not None and state.context_values is not None
        assert state.context_seen is not None
        length = pairs[0][0].shape[2]
        for i, (keys, values) in enumerate(pairs):
            state.context_keys[i, place, :, :length] = keys[0]
            state.context_values[i, place, :, :length] = values[0]
        state.context_seen[place] = torch.arange(self.context_rows, device=self.device) < length
        self._held[place] = pairs


def _context_rows(config: TransformerConfig, text: int) -> int:
    """The embedded action stands in as many rows as it has numbers, see `action_keys_values`."""
    if config.conditioning == "cross_attention":
        return config.condition_dim
    return text if config.takes_text else 0


def _signed(seed: int) -> int:
    """The same 64 bits as an int64."""
    bits = seed & (2**64 - 1)
    return bits - 2**64 if bits >= 2**63 else bits
