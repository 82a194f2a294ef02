"""`RasterDecoder` with its drawing on the device: same sessions, same rings, same tokens.

What a stream is, how windows slide, and that a finished latent runs through the model once more as
a whole, is `RasterDecoder`'s, in PyTorch. Only the drawing of a latent, where nearly all the time
goes, is done by steps of kernels (`device_step.py`, along diagonals `device_diagonal.py`), enqueued
ahead of the GPU (`device_pace.py`) as recorded graphs (`device_graph.py`).

Tokens are those of `RasterDecoder` except where the best two scores of a token lie within the
rounding of a forward, whose sums the kernels take in another order; the same caveat that
`RasterDecoder` has between its own modes. On the device row results depend neither on the other
sessions nor, apart from the shape of the matrix instruction, on the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from worldbridge.kernels.checks import interpreting
from worldbridge.models.progress import Progress, silent
from worldbridge.models.transformer import MedusaHeads, TransformerConfig, VideoTransformer
from worldbridge.runtime.decoding.drafts import DraftCounts
from worldbridge.runtime.decoding.executors.cuda.dispatch import DispatchPacer
from worldbridge.runtime.decoding.executors.cuda.graphs import (
    EagerSteps,
    GraphSteps,
    Reports,
    Steps,
)
from worldbridge.runtime.decoding.executors.cuda.layers import CudaLayers, StepShape
from worldbridge.runtime.decoding.executors.cuda.step import CudaStep
from worldbridge.runtime.decoding.executors.cuda.wavefront import DiagonalStep
from worldbridge.runtime.decoding.executors.cuda.weights import CudaWeights
from worldbridge.runtime.decoding.options import DEFAULT_DIAGONAL
from worldbridge.runtime.decoding.raster import RasterDecoder, RasterSession
from worldbridge.runtime.decoding.sampling import Sampling
from worldbridge.runtime.decoding.schedule import WavefrontSchedule
from worldbridge.runtime.decoding.weight_dtype import WeightDtype
from worldbridge.runtime.decoding.weight_store import WeightStore

__all__ = ["CudaDecoder"]

_Context = list[tuple[Tensor, Tensor]]  # per layer: keys, values [1, Hkv, m, head_dim]


class CudaDecoder(RasterDecoder):
    """Decodes latents of a `VideoTransformer` without a token grid, on a CUDA device.

    Arguments as for `RasterDecoder`, and: `precision` of the weights ("model", "fp8", "int8", see
    `device_weights.py`); `context_rows`, the longest text context that streams may have; `split`,
    slots of a ring that attention takes at a stretch; `group`, the most steps between two looks at
    how far the device is; `ahead`: see `DispatchPacer`; `packed`: where decoders of one model keep
    weights that they share; `progress`, told what is compiled and recorded.

    At the 4B's size the packed weights take 4.6 GB (bfloat16) or 3.8 GB (one byte) beside the
    model's own, which feed finished latents.
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
        precision: WeightDtype = "model",
        context_rows: int = 512,
        split: int = 256,
        group: int = 8,
        ahead: int = 0,
        packed: WeightStore | None = None,
        progress: Progress = silent,
    ) -> None:
        super().__init__(
            model,
            capacity,
            sampling,
            mode,
            max_latents,
            slide,
            keep=keep,
            width=width,
            padding=padding,
            heads=heads,
            diagonal=diagonal,
        )
        if self.device.type != "cuda" and not interpreting():
            raise ValueError(
                f"expected a model on a CUDA device, got {self.device}; move it there with "
                ".to('cuda') or use RasterDecoder"
            )
        self.context_rows = _context_rows(self.config, context_rows)
        self._group, self._ahead = group, ahead
        shape = StepShape(
            capacity, self.rows, self.width, self.size, mode == "medusa", self.context_rows, split
        )
        self.weights = CudaWeights.pack(model, self.heads, precision, packed)
        self.step = self._make_step(shape)
        self.reports = Reports(self.step.state.feed.num_accepted)
        # whose context each place holds; kept alive, so that no other can be taken for it
        self._held: list[_Context | None] = [None] * capacity
        self.steps: Steps = (
            GraphSteps(self.step, progress) if self.device.type == "cuda" else EagerSteps(self.step)
        )

    @property
    def counts(self) -> DraftCounts:
        """As of now; waits for the device."""
        counted, sums = self._counts, self.step.state.feed.counts.sum(0).tolist()
        heads = len(counted.kept)
        counted.forwards, counted.tokens, counted.carried = sums[:3]
        counted.drafted, counted.kept = sums[3 : 3 + heads], sums[3 + heads :]
        return counted

    @property
    def enqueued(self) -> int:
        """How many steps may be enqueued ahead of the device."""
        if self.staircase is not None:
            return len(self.staircase.stairs)
        return DispatchPacer.most(self._group, self._ahead)

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
        """As `RasterDecoder.open`; ValueError also for a context longer than `context_rows`."""
        if context is not None and self._wants_context and len(context) > self.context_rows:
            raise ValueError(
                f"expected a context of at most {self.context_rows} rows, got {len(context)}; "
                "build the decoder with more context_rows"
            )
        return super().open(
            seed, codes, latents=latents, context=context, conditions=conditions, poses=poses
        )

    def _make_step(self, shape: StepShape) -> CudaLayers:
        parts = self.config, self.weights, self.keys, self.values, self.sampling, shape
        if self.staircase is None:
            return CudaStep(*parts)
        return DiagonalStep(*parts, self.staircase)

    # -- one latent -----------------------------------------------------------------------------

    def _draw(self, sessions: list[RasterSession], pairs: list[_Context | None]) -> Tensor:
        """Codes [B, h, w]; returns as soon as the device is known to be done with the last step."""
        self._begin(sessions, pairs)
        bucket = self._bucket(len(sessions))
        pace = DispatchPacer(self.size, self.width, group=self._group, ahead=self._ahead)
        while not pace.finished:
            if steps := pace.next_group():
                for _ in range(steps):
                    self.between()
                    self.steps.run(bucket)
                self.reports.note(len(sessions))
            else:
                pace.report(self.size - min(self.reports.read()))
        return self._drawn(len(sessions))

    def _draw_diagonals(
        self,
        staircase: WavefrontSchedule,
        sessions: list[RasterSession],
        pairs: list[_Context | None],
    ) -> Tensor:
        """As `_draw`. How many steps it takes is known, so all are enqueued before any report.

        Raises RuntimeError if the device did not do as many.
        """
        self._begin(sessions, pairs)
        bucket, needed = self._bucket(len(sessions)), len(staircase.stairs)
        for _ in range(needed):
            self.between()
            self.steps.run(bucket)
        self.reports.note(len(sessions))
        did = self.reports.read()
        if any(steps != needed for steps in did):
            raise RuntimeError(
                f"after {needed} steps of a latent, the device reports {list(did)}; expected "
                f"{needed} for each session: its memory or kernels are damaged"
            )
        return self._drawn(len(sessions))

    def _bucket(self, sessions: int) -> int:
        return next(bucket for bucket in self.steps.buckets if bucket >= sessions)

    def _drawn(self, sessions: int) -> Tensor:
        line = self.step.state.feed.tokens[:sessions, 1 : 1 + self.size]
        return line.reshape(sessions, self.height, self.width_of_latent).clone()

    def _begin(self, sessions: Sequence[RasterSession], pairs: Sequence[_Context | None]) -> None:
        """Write where the sessions stand, and mark the places behind them as idle."""
        self.reports.forget()  # of a latent that was interrupted
        state, feed = self.step.state, self.step.state.feed
        idle = [self.size] * (len(feed.num_accepted) - len(sessions))
        zeros = [0] * len(idle)
        numbers = torch.tensor(
            [
                [0] * len(sessions) + idle,
                [self._next_place(s) for s in sessions] + zeros,
                [s.latents * self.size for s in sessions] + zeros,
                [_signed(s.seed) for s in sessions] + zeros,
                [s.slab for s in sessions] + zeros,
            ]
        ).to(self.device)
        targets = (
            feed.num_accepted,
            feed.first_entries,
            feed.first_positions,
            state.seeds,
            state.slabs,
        )
        for target, row in zip(targets, numbers, strict=True):
            target.copy_(row)
        for i, session in enumerate(sessions):
            previous = session.window[-1].flatten()
            feed.tokens[i, :1], feed.tokens[i, 1 : 1 + self.size] = previous[-1:], previous
            if state.views is not None and session.view is not None:
                state.views[i].copy_(session.view)
            self._hold(i, pairs[i])

    def _hold(self, place: int, pairs: _Context | None) -> None:
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
