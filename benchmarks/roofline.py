"""Compute what memory bandwidth allows: `python -m worldbridge.benchmarks.roofline`.

Arithmetic only; nothing is measured.

A forward pass of few tokens reads every matrix once, and the keys and values of its context. No
decoder is faster than these bytes divided by the datasheet's bandwidth, and none reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from worldbridge.benchmarks.machine import datasheet_bandwidth
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.models.transformer.config import cosmos_4b_320p
from worldbridge.runtime.decoding.schedule import WavefrontSchedule

__all__ = ["GPUS", "Limit", "limits"]

GPUS = {"H100": "NVIDIA H100 80GB HBM3", "H200": "NVIDIA H200"}
WEIGHTS = {"bf16": 2, "fp8": 1}  # bytes per number; keys and values stay bf16
FRAMES = 8  # per latent
RATE = 24.0  # frames/s that count as real time
_PAIR_BYTES = 2


@dataclass(frozen=True, slots=True)
class Limit:
    """What one player can get at most. `needed`: tokens per forward pass for RATE frames/s."""

    gpu: str
    weights: str
    gigabytes: float  # read per forward pass
    milliseconds: float  # per forward pass, at least
    sequential: float  # frames/s at most
    diagonal: dict[int, float]  # the same, by the lag of a row
    needed: float


def limits(config: TransformerConfig | None = None) -> list[Limit]:
    """Return the limits of the 4B model at 320x512 with a full context, by GPU and type."""
    config = config or cosmos_4b_320p()
    with torch.device("meta"):
        model = VideoTransformer(config)
    numbers = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    latents, height, width = config.latent_shape
    pairs = 2 * config.n_layers * config.n_kv_heads * config.head_dim
    context = latents * height * width * pairs * _PAIR_BYTES
    return [
        _limit(gpu, name, numbers * size + context, height, width)
        for gpu in GPUS
        for name, size in WEIGHTS.items()
    ]


def _limit(gpu: str, weights: str, read: int, height: int, width: int) -> Limit:
    bandwidth = datasheet_bandwidth(GPUS[gpu])
    assert bandwidth is not None
    seconds = read / bandwidth
    tokens = height * width

    def rate(forwards: float) -> float:
        return FRAMES / (forwards * seconds)

    return Limit(
        gpu=gpu,
        weights=weights,
        gigabytes=read / 1e9,
        milliseconds=seconds * 1e3,
        sequential=rate(tokens),
        diagonal={k: rate(len(WavefrontSchedule(height, width, k).waves)) for k in (1, 2)},
        needed=RATE / rate(tokens),
    )


def main() -> None:
    for limit in limits():
        print(limit)


if __name__ == "__main__":
    main()
