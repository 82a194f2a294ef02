"""Both ends of the tokenizer's decoder: codes from indices, pictures from Haar patches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from worldbridge.benchmarks.kernels.case import (
    Case,
    Maker,
    Operands,
    Sizes,
    error_floor,
    relative_error,
    type_name,
)
from worldbridge.kernels.detokenize import (
    indices_to_codes,
    patches_to_i420,
    reference_indices_to_codes,
    reference_patches_to_i420,
)
from worldbridge.models.tokenizer.config import DV8X16X16
from worldbridge.models.tokenizer.fsq import FSQ
from worldbridge.models.tokenizer.haar import HaarSpaceTime
from worldbridge.runtime.frames.i420 import i420_planes, unit_to_bytes

__all__ = ["code_cases", "detokenize_cases"]


def detokenize_cases(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Iterator[Case]:
    """The pictures of one latent frame."""
    times, height, width = sizes.patches
    count = times * height * width
    yield Case(
        kernel="patches_to_i420",
        what=f"{4 * times} pictures {4 * height}x{4 * width}",
        shape={"times": times, "height": height, "width": width},
        weights=type_name(dtype),
        activations=type_name(dtype),
        bytes_moved=count * (192 * dtype.itemsize + 96),
        formula="patches * (192 values read, 96 bytes written)",
        make=partial(_picture_operands, maker, sizes, dtype),
        error=_levels,
        measure="largest difference in levels of 255",
        # a pixel that lies on a border between two levels, and what it does to its chroma value
        floor=1.0 if dtype == torch.float32 else 2.0,
        of_torch=0.0,
    )


def _levels(found: Tensor, expected: Tensor) -> float:
    return float((found.int() - expected.int()).abs().max())


def _picture_operands(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Operands:
    times, height, width = sizes.patches
    # 64 bands add up to a pixel: this fills the range and goes beyond it now and then
    patches = maker.normal(1, times, 192, height, width, dtype=dtype, scale=0.06)
    out = torch.empty((1, 4 * times, 24 * height * width), dtype=torch.uint8, device=maker.device)
    join = HaarSpaceTime(4)
    return Operands(
        ours=partial(patches_to_i420, patches, False, out=out),
        baselines={"torch, inverse Haar, bytes, planes": partial(_pictures, join, patches)},
        reference=partial(reference_patches_to_i420, patches, False),
    )


def _pictures(haar: HaarSpaceTime, patches: Tensor) -> Tensor:
    """As a worker without the kernel makes them."""
    frames = unit_to_bytes(haar.join(patches, False)[0])
    return torch.stack([i420_planes(frame) for frame in frames])[None]


# -- codes --------------------------------------------------------------------------------------


def code_cases(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Iterator[Case]:
    """The codes of one latent."""
    height, width = sizes.codes
    count, digits = height * width, len(DV8X16X16.levels)
    yield Case(
        kernel="indices_to_codes",
        what="one latent",
        shape={"indices": count, "digits": digits},
        weights="int64",
        activations=type_name(dtype),
        bytes_moved=count * (8 + digits * dtype.itemsize),
        formula="indices * (8 bytes read + digits written)",
        make=partial(_code_operands, maker, sizes, dtype),
        error=relative_error,
        measure="largest difference / largest value",
        floor=error_floor(dtype),
    )


def _code_operands(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Operands:
    levels = DV8X16X16.levels
    indices = maker.integers(DV8X16X16.vocabulary, *sizes.codes)
    out = torch.empty((*indices.shape, len(levels)), dtype=dtype, device=maker.device)
    quantizer = FSQ(levels).to(maker.device)
    return Operands(
        ours=partial(indices_to_codes, indices, levels, dtype, out=out),
        baselines={
            "torch, division and remainder": partial(quantizer.indices_to_codes, indices, dtype)
        },
        reference=partial(reference_indices_to_codes, indices, levels),
    )
