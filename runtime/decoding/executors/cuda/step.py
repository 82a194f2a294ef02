"""One decode step for several sessions, entirely on the device.

A step reads where every session stands from memory, feeds `rows` tokens of each, samples behind
them with the noise of their positions, accepts drafts up to the first wrong one, lets heads draft
what follows, and moves the sessions on. The host decides nothing in between and learns nothing, so
a step can be recorded as one CUDA graph and be repeated. What it does is what
`Decoder` does, which is the reference.

Heads draft behind one row of a session, which is known only when the others are sampled. Reading
the unembedding again for it would cost more than to let them draft behind every row, in the pass
that the model's own logits need anyway. So that is done where rows and drafts of all sessions are
few enough for one product; then the logits behind the row in question are picked.

A session whose latent is complete is idle: the step changes nothing of it. So steps may be repeated
more often than necessary, and a batch may have places that nobody uses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldbridge.kernels.medusa_heads import max_medusa_rows, medusa_heads, medusa_workspace
from worldbridge.kernels.norm import rms_norm
from worldbridge.kernels.skinny_gemm import Workspace
from worldbridge.kernels.speculative import (
    DraftBuffer,
    DraftTargets,
    StepInputs,
    accept_drafts,
    gather_inputs,
    scatter_drafts,
)
from worldbridge.kernels.wavefront import WaveInputs, WaveTables, accept_wave, gather_wave
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding.executors.cuda.layers import (
    Buffers,
    CudaLayers,
    Placed,
    StepShape,
)
from worldbridge.runtime.decoding.executors.cuda.weights import CudaWeights, Matrix
from worldbridge.runtime.decoding.sampling import Sampling
from worldbridge.runtime.decoding.schedule import WavefrontSchedule

__all__ = ["CudaStep", "StepShape", "WavefrontStep", "tables_of"]


class _StepBuffers(Buffers):
    """And what the heads need."""

    def __init__(
        self, config: TransformerConfig, weights: CudaWeights, shape: StepShape, keys: Tensor
    ) -> None:
        device, heads, taken = keys.device, weights.count_of_heads, weights.activations
        # rows of the most sessions whose heads draft behind all of them at once
        together = _together(weights, shape) * shape.rows
        apart = 0 if together == shape.sessions * shape.rows else shape.sessions * shape.rows
        super().__init__(config, weights, shape, keys, max(apart, together * (heads + 1)))

        def empty(dtype: torch.dtype, *sizes: int) -> Tensor:
            return torch.empty(sizes, dtype=dtype, device=device)

        self.accepted = torch.zeros(shape.sessions, dtype=torch.int64, device=device)
        self.states = empty(taken, shape.sessions, config.dim)
        self.head_states = empty(taken, max(shape.sessions, together), heads + 1, config.dim)
        self.head_logits = empty(torch.float32, shape.sessions, heads + 1, config.vocab_size)
        self.drafts = torch.zeros(shape.sessions, heads + 1, dtype=torch.int64, device=device)
        self.drafted = torch.zeros(shape.sessions, dtype=torch.int64, device=device)


def _together(weights: CudaWeights, shape: StepShape) -> int:
    """The most sessions whose heads draft behind all rows at once."""
    if weights.heads is None:
        return 0
    return min(shape.sessions, max_medusa_rows(weights.count_of_heads) // shape.rows)


class CudaStep(CudaLayers):
    """`run(n)` is one step of the first n places of `state`."""

    buffers: _StepBuffers

    def __init__(
        self,
        config: TransformerConfig,
        weights: CudaWeights,
        keys: Tensor,
        values: Tensor,
        sampling: Sampling,
        shape: StepShape,
    ) -> None:
        """As `CudaLayers`."""
        super().__init__(config, weights, keys, values, sampling, shape)
        self.fed = StepInputs.allocate(shape.sessions, shape.rows, keys.device)
        self.targets = DraftTargets.allocate(shape.sessions, keys.device)
        # of one pass over the unembedding, where it is one of its own
        self.head_sessions = max(1, max_medusa_rows(weights.count_of_heads))
        self.head_space: Workspace | None = None
        if weights.heads is not None:
            most = max(
                min(shape.sessions, self.head_sessions), _together(weights, shape) * shape.rows
            )
            self.head_space = medusa_workspace(most, weights.heads.rows, weights.output.rows)

    @torch.inference_mode()
    def run(self, sessions: int, given: bool = False) -> None:
        """Repeatable, without any wait of the host, and without effect on idle sessions."""
        buffers, feed, fed = self.buffers, self.state.feed.first(sessions), self.fed.first(sessions)
        gather_inputs(feed, fed)
        placed, heads = Placed(fed.tokens, fed.entries), self.weights.heads
        if heads is not None and self._drafts_together(sessions):
            features = self.features(placed)
            self._heads(heads, features, self._all_logits(sessions))
        else:
            self.logits(placed)
        sampled, accepted = buffers.sampled[:sessions], buffers.accepted[:sessions]
        logits = self.own_logits(sessions)
        if given:
            self.force(logits, feed.num_accepted[:, None] + self.steps)
        self.sample(
            logits,
            fed.positions,
            self.state.seeds[:sessions],
            (sampled, accepted),
            fed.drafts,
            fed.limits,
        )
        targets = None if heads is None else self.targets.first(sessions)
        accept_drafts(feed, sampled, accepted, follow=self.shape.follow, targets=targets)
        if heads is not None and targets is not None:
            self._draft(heads, feed, targets)
            if given:
                self.state.restore_given(sessions)

    def own_logits(self, sessions: int) -> Tensor:
        if self._drafts_together(sessions):
            return self._all_logits(sessions)[:, 0].unflatten(0, (sessions, -1))
        return super().own_logits(sessions)

    def _drafts_together(self, sessions: int) -> bool:
        return self.weights.drafts_together(sessions * self.shape.rows)

    def _all_logits(self, sessions: int) -> Tensor:
        """[n * rows, 1 + heads, vocab], the model's own behind each row, and its heads'."""
        kinds = self.weights.count_of_heads + 1
        return self.buffers.logits[: sessions * self.shape.rows * kinds].unflatten(0, (-1, kinds))

    def _draft(self, heads: Matrix, feed: DraftBuffer, targets: DraftTargets) -> None:
        """Write the heads' drafts to the line.

        The first of the logits are the model's own, behind the same row; what they sample is
        known already, and sampling it again lets one launch serve all, with consecutive positions.
        """
        buffers, sessions = self.buffers, len(targets.rows)
        logits, drafts = buffers.head_logits[:sessions], buffers.drafts[:sessions]
        if self._drafts_together(sessions):
            torch.index_select(self._all_logits(sessions), 0, targets.rows, out=logits)
        else:
            states = rms_norm(
                buffers.stream[: sessions * self.shape.rows],
                self.config.norm_eps,
                weight=self.weights.norm,
                rows=targets.rows,
                out=buffers.states[:sessions],
            )
            parts = zip(
                states.split(self.head_sessions), logits.split(self.head_sessions), strict=True
            )
            for some, out in parts:
                self._heads(heads, some, out)
        self.sample(
            logits,
            targets.positions,
            self.state.seeds[:sessions],
            (drafts, buffers.drafted[:sessions]),
        )
        scatter_drafts(feed, drafts, targets)

    def _heads(self, heads: Matrix, features: Tensor, out: Tensor) -> None:
        """Logits of the model and its heads behind features [m, dim] -> [m, 1 + heads, vocab]."""
        output = self.weights.output
        medusa_heads(
            features,
            heads.rows,
            output.rows,
            head_scale=heads.scale,
            unembedding_scale=output.scale,
            hidden=self.buffers.head_states[: len(features)],
            out=out,
            workspace=self.head_space,
        )

    def _make_buffers(self) -> _StepBuffers:
        return _StepBuffers(self.config, self.weights, self.shape, self.keys)

    def _sampled(self) -> tuple[int, int]:
        return self.shape.sessions, max(self.shape.rows, self.weights.count_of_heads + 1)


class WavefrontStep(CudaLayers):
    """`run(n)` is one step of the first n places of `state`, whose `done` counts steps."""

    def __init__(
        self,
        config: TransformerConfig,
        weights: CudaWeights,
        keys: Tensor,
        values: Tensor,
        sampling: Sampling,
        shape: StepShape,
        schedule: WavefrontSchedule,
    ) -> None:
        """As `CudaLayers`; `shape` has the rows of the schedule."""
        super().__init__(config, weights, keys, values, sampling, shape)
        self.tables = tables_of(schedule, keys.device)
        self.fed = WaveInputs.allocate(shape.sessions, shape.rows, keys.shape[3], keys.device)
        # one number for each row; all samples are final
        self.accepted = torch.zeros(
            shape.sessions * shape.rows, dtype=torch.int64, device=keys.device
        )

    @torch.inference_mode()
    def run(self, sessions: int, given: bool = False) -> None:
        """Repeatable, without any wait of the host, and without effect on idle sessions."""
        feed, fed = self.state.feed.first(sessions), self.fed.first(sessions)
        gather_wave(feed, self.tables, self.state.seeds[:sessions], fed)
        logits = self.logits(Placed(fed.tokens, fed.entries, fed.mask))
        sampled = self.buffers.sampled[:sessions]
        if given:
            offsets = fed.positions - feed.first_positions[:, None]
            self.force(logits.unflatten(0, (sessions, -1)), offsets)
        self.sample(
            logits[:, None],
            fed.positions.flatten(),
            fed.seeds.flatten(),
            (sampled.view(-1, 1), self.accepted[: len(logits)]),
        )
        accept_wave(feed, self.tables, sampled)

    def _sampled(self) -> tuple[int, int]:
        return self.shape.sessions * self.shape.rows, 1


def tables_of(schedule: WavefrontSchedule, device: torch.device) -> WaveTables:
    """The forwards of a latent. Rows that are there for padding write and see nothing here."""
    waves, size = schedule.waves, schedule.height * schedule.width
    offsets = torch.stack([wave.offsets for wave in waves])
    return WaveTables(
        offsets=torch.where(offsets < size, offsets, -1).to(device),
        sources=torch.stack([wave.sources for wave in waves]).to(device),
        num_sampled=torch.tensor([len(wave.sampled) for wave in waves], device=device),
        written=schedule.written().to(device),
    )
