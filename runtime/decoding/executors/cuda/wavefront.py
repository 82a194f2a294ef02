"""One step along the diagonals of a latent for several sessions, entirely on the device.

What `RasterDecoder._draw_diagonals` does, which is the reference: a step feeds a token to each open
row of the latent and draws one behind it. Which places those are is known before (`staircase.py`)
and lies in tables on the device; which step a session is at is read from memory. So one recorded
graph serves every step, and the host has nothing to wait for before the latent is complete.

The rows of a step are not consecutive. Each has a slot of its own in the ring and a mask of what it
sees, and draws alone, with the noise of its own position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldbridge.kernels.wavefront import WaveInputs, WaveTables, accept_wave, gather_wave
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding.executors.cuda.layers import CudaLayers, Placed, StepShape
from worldbridge.runtime.decoding.executors.cuda.weights import CudaWeights
from worldbridge.runtime.decoding.sampling import Sampling
from worldbridge.runtime.decoding.schedule import WavefrontSchedule

__all__ = ["DiagonalStep", "tables_of"]


class DiagonalStep(CudaLayers):
    """`run(n)` is one step of the first n places of `state`, whose `done` counts steps."""

    def __init__(
        self,
        config: TransformerConfig,
        weights: CudaWeights,
        keys: Tensor,
        values: Tensor,
        sampling: Sampling,
        shape: StepShape,
        staircase: WavefrontSchedule,
    ) -> None:
        """As `CudaLayers`; `shape` has the rows of the staircase."""
        super().__init__(config, weights, keys, values, sampling, shape)
        self.tables = tables_of(staircase, keys.device)
        self.fed = WaveInputs.allocate(shape.sessions, shape.rows, keys.shape[3], keys.device)
        # one number for each row; all draws are final
        self.accepted = torch.zeros(
            shape.sessions * shape.rows, dtype=torch.int64, device=keys.device
        )

    @torch.inference_mode()
    def run(self, sessions: int) -> None:
        """Repeatable, without any wait of the host, and without effect on idle sessions."""
        feed, fed = self.state.feed.first(sessions), self.fed.first(sessions)
        gather_wave(feed, self.tables, self.state.seeds[:sessions], fed)
        logits = self.logits(Placed(fed.tokens, fed.entries, fed.mask))
        drawn = self.buffers.drawn[:sessions]
        self.sample(
            logits[:, None],
            fed.positions.flatten(),
            fed.seeds.flatten(),
            (drawn.view(-1, 1), self.accepted[: len(logits)]),
        )
        accept_wave(feed, self.tables, drawn)

    def _sampled(self) -> tuple[int, int]:
        return self.shape.sessions * self.shape.rows, 1


def tables_of(staircase: WavefrontSchedule, device: torch.device) -> WaveTables:
    """The forwards of a latent. Rows that are there for padding write and see nothing here."""
    stairs, size = staircase.stairs, staircase.height * staircase.width
    places = torch.stack([stair.places for stair in stairs])
    return WaveTables(
        offsets=torch.where(places < size, places, -1).to(device),
        sources=torch.stack([stair.sources for stair in stairs]).to(device),
        num_sampled=torch.tensor([len(stair.drawn) for stair in stairs], device=device),
        written=staircase.written().to(device),
    )
