"""Decoders on a chosen executor, whatever the machine would choose."""

from __future__ import annotations

from typing import Any

from worldbridge.models.transformer import MedusaHeads, VideoTransformer
from worldbridge.runtime.decoding import DecodeOptions, Decoder, Sampling, make_decoder
from worldbridge.runtime.decoding.decoder import ExecutorName


def eager_decoder(
    model: VideoTransformer,
    capacity: int,
    sampling: Sampling,
    mode: str | None = None,
    heads: MedusaHeads | None = None,
    **options: Any,
) -> Decoder:
    """Return a decoder that runs PyTorch; options are those of `DecodeOptions`."""
    return _decoder("eager", model, capacity, sampling, mode, heads, options)


def packed_decoder(
    model: VideoTransformer,
    capacity: int,
    sampling: Sampling,
    mode: str | None = None,
    heads: MedusaHeads | None = None,
    **options: Any,
) -> Decoder:
    """Return a decoder of a token grid that runs packed matrices."""
    return _decoder("cpu_packed", model, capacity, sampling, mode, heads, options)


def cuda_decoder(
    model: VideoTransformer,
    capacity: int,
    sampling: Sampling,
    mode: str | None = None,
    heads: MedusaHeads | None = None,
    **options: Any,
) -> Decoder:
    """Return a decoder that runs kernels, on a GPU or in Triton's interpreter."""
    return _decoder("cuda", model, capacity, sampling, mode, heads, options)


def _decoder(
    executor: ExecutorName,
    model: VideoTransformer,
    capacity: int,
    sampling: Sampling,
    mode: str | None,
    heads: MedusaHeads | None,
    options: dict[str, Any],
) -> Decoder:
    progress = {"progress": options.pop("progress")} if "progress" in options else {}
    chosen = DecodeOptions(mode=mode, **{"jacobi_heads": executor != "cpu_packed", **options})
    return make_decoder(
        model, capacity, sampling, chosen, heads=heads, executor=executor, **progress
    )
