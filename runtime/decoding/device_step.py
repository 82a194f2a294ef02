"""One decode step for several sessions, entirely on the device.

A step reads where every session stands from memory, feeds `rows` tokens of each, draws behind them
with the noise of their positions, keeps the draws up to the first wrong guess, lets heads guess
what follows, and moves the sessions on. The host decides nothing in between and learns nothing, so
a step can be recorded as one CUDA graph and be repeated. What it does is what
`RasterDecoder._round` does, which is the reference.

A session whose latent is complete is idle: the step changes nothing of it. So steps may be repeated
more often than necessary, and a batch may have places that nobody uses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldbridge.kernels.feed import (
    Fed,
    Feed,
    Guessing,
    keep_tokens,
    place_guesses,
    take_tokens,
)
from worldbridge.kernels.medusa_heads import medusa_heads, medusa_workspace
from worldbridge.kernels.norm import rms_norm
from worldbridge.kernels.skinny_gemm import MAX_ROWS, Workspace
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding.device_layers import Buffers, DeviceLayers, Placed, StepShape
from worldbridge.runtime.decoding.device_weights import DeviceWeights, Matrix
from worldbridge.runtime.decoding.sampler import Sampling

__all__ = ["DeviceStep", "StepShape"]


class _StepBuffers(Buffers):
    """And what the heads need."""

    def __init__(
        self, config: TransformerConfig, weights: DeviceWeights, shape: StepShape, keys: Tensor
    ) -> None:
        super().__init__(config, weights, shape, keys)
        device, heads, taken = keys.device, weights.count_of_heads, weights.activations

        def empty(dtype: torch.dtype, *sizes: int) -> Tensor:
            return torch.empty(sizes, dtype=dtype, device=device)

        self.accepted = torch.zeros(shape.sessions, dtype=torch.int64, device=device)
        self.states = empty(taken, shape.sessions, config.dim)
        self.head_states = empty(taken, shape.sessions, heads + 1, config.dim)
        self.head_logits = empty(torch.float32, shape.sessions, heads + 1, config.vocab_size)
        self.guesses = torch.zeros(shape.sessions, heads + 1, dtype=torch.int64, device=device)
        self.guessed = torch.zeros(shape.sessions, dtype=torch.int64, device=device)


class DeviceStep(DeviceLayers):
    """`run(n)` is one step of the first n places of `state`."""

    buffers: _StepBuffers

    def __init__(
        self,
        config: TransformerConfig,
        weights: DeviceWeights,
        keys: Tensor,
        values: Tensor,
        sampling: Sampling,
        shape: StepShape,
    ) -> None:
        """As `DeviceLayers`."""
        super().__init__(config, weights, keys, values, sampling, shape)
        self.fed = Fed.allocate(shape.sessions, shape.rows, keys.device)
        self.guessing = Guessing.allocate(shape.sessions, keys.device)
        # of one pass over the unembedding
        self.head_sessions = max(1, MAX_ROWS // (weights.count_of_heads + 1))
        self.head_space: Workspace | None = None
        if weights.heads is not None:
            together = min(shape.sessions, self.head_sessions)
            self.head_space = medusa_workspace(together, weights.heads.rows, weights.output.rows)

    @torch.inference_mode()
    def run(self, sessions: int) -> None:
        """Repeatable, without any wait of the host, and without effect on idle sessions."""
        buffers, feed, fed = self.buffers, self.state.feed.first(sessions), self.fed.first(sessions)
        take_tokens(feed, fed)
        logits = self.logits(Placed(fed.tokens, fed.slots))
        drawn, accepted = buffers.drawn[:sessions], buffers.accepted[:sessions]
        self.sample(
            logits.view(sessions, self.shape.rows, -1), fed.positions, self.state.seeds[:sessions],
            (drawn, accepted), fed.drafts, fed.limits,
        )  # fmt: skip
        guessing = None if self.weights.heads is None else self.guessing.first(sessions)
        keep_tokens(feed, drawn, accepted, follow=self.shape.follow, guessing=guessing)
        if self.weights.heads is not None and guessing is not None:
            stream = buffers.stream[: len(logits)]
            self._guess(self.weights.heads, stream, feed, guessing)

    def _guess(self, heads: Matrix, stream: Tensor, feed: Feed, guessing: Guessing) -> None:
        """Write the heads' guesses into the line.

        The first of the logits are the model's own, behind the same row; what they draw is known
        already, and drawing it again lets one launch serve all, with consecutive positions.
        """
        buffers, output, sessions = self.buffers, self.weights.output, len(guessing.rows)
        states = rms_norm(
            stream, self.config.norm_eps, weight=self.weights.norm, rows=guessing.rows,
            out=buffers.states[:sessions],
        )  # fmt: skip
        for first in range(0, sessions, self.head_sessions):
            part = slice(first, min(first + self.head_sessions, sessions))
            medusa_heads(
                states[part], heads.rows, output.rows,
                head_scale=heads.scale, unembedding_scale=output.scale,
                hidden=buffers.head_states[part], out=buffers.head_logits[part],
                workspace=self.head_space,
            )  # fmt: skip
        guesses = buffers.guesses[:sessions]
        self.sample(
            buffers.head_logits[:sessions], guessing.positions, self.state.seeds[:sessions],
            (guesses, buffers.guessed[:sessions]),
        )  # fmt: skip
        place_guesses(feed, guesses, guessing)

    def _make_buffers(self) -> _StepBuffers:
        return _StepBuffers(self.config, self.weights, self.shape, self.keys)

    def _sampled(self) -> tuple[int, int]:
        return self.shape.sessions, max(self.shape.rows, self.weights.count_of_heads + 1)
