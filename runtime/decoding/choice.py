"""Which decoder draws a world without token grid: kernels where they can run, PyTorch elsewhere."""

from __future__ import annotations

import importlib.util
from typing import Any

from worldbridge.models.progress import Progress, silent
from worldbridge.models.transformer import MedusaHeads, VideoTransformer
from worldbridge.runtime.decoding.options import DEFAULT_DIAGONAL, DEFAULT_WIDTH
from worldbridge.runtime.decoding.raster import RasterDecoder
from worldbridge.runtime.decoding.sampling import Sampling
from worldbridge.runtime.decoding.weight_dtype import WeightDtype
from worldbridge.runtime.decoding.weight_store import WeightStore
from worldbridge.runtime.errors import WeightDtypeError
from worldbridge.runtime.worlds.window import Window

__all__ = ["decoder_for", "pack_first"]

_LEAST_HEAD = 16  # channels of a head that the attention kernel can take


def decoder_for(
    model: VideoTransformer,
    capacity: int,
    sampling: Sampling,
    mode: str = "jacobi",
    *,
    heads: MedusaHeads | None = None,
    width: int = DEFAULT_WIDTH,
    diagonal: int = DEFAULT_DIAGONAL,
    window: Window | None = None,
    precision: WeightDtype = "model",
    packed: WeightStore | None = None,
    progress: Progress | None = None,
) -> RasterDecoder:
    """A `CudaDecoder` for a model on a CUDA device, where Triton is installed and the model is
    such that the kernels can take it; else a `RasterDecoder`. They draw the same tokens.

    `heads` guess in mode `medusa`. In mode `jacobi` they could guess what no earlier draw is for,
    but then every step would read the unembedding twice, or run all heads behind every row.
    `width`: tokens that a forward of mode `jacobi` feeds.
    `window`: how much of its past it sees (None: as trained). With a `precision` of one byte the
    tokens are others. `packed` keeps the weights that several decoders of the model share.
    `progress` is told what is compiled and recorded, which takes a minute or two the first time.

    Raises WeightsError for a precision where no kernels draw.
    """
    heads = heads if mode == "medusa" else None
    past: dict[str, Any] = {}
    if window is not None:
        past = {"max_latents": window.latents, "keep": window.keep, "slide": window.slide}
    if not _on_device(model):
        if precision != "model":
            raise WeightDtypeError.no_kernels(precision, _why_not(model))
        return RasterDecoder(
            model, capacity, sampling, mode, heads=heads, width=width, diagonal=diagonal, **past
        )
    # not above: only machines with a GPU need Triton
    from worldbridge.runtime.decoding.executors.cuda.decoder import CudaDecoder

    told = progress or silent
    return CudaDecoder(
        model,
        capacity,
        sampling,
        mode,
        heads=heads,
        width=width,
        diagonal=diagonal,
        precision=precision,
        packed=packed,
        progress=told,
        **past,
    )


def pack_first(
    model: VideoTransformer, heads: MedusaHeads | None, precision: WeightDtype, packed: WeightStore
) -> None:
    """Pack the weights that the decoders of a model are going to share, where kernels draw, so that
    what is free of the memory then is free for sessions."""
    if _on_device(model):
        from worldbridge.runtime.decoding.executors.cuda.weights import CudaWeights

        CudaWeights.pack(model, heads, precision, packed)


def _on_device(model: VideoTransformer) -> bool:
    return (
        model.norm.weight.is_cuda
        and importlib.util.find_spec("triton") is not None
        and model.config.head_dim >= _LEAST_HEAD
    )


def _why_not(model: VideoTransformer) -> str:
    device, channels = model.norm.weight.device, model.config.head_dim
    triton = "" if importlib.util.find_spec("triton") is not None else "no "
    return f"the device {device}, {triton}Triton, and heads of {channels} channels"
