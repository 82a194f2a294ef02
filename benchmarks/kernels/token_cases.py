"""What surrounds the transformer: sampling and verifying tokens, codes, frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldbridge.benchmarks.kernels.case import (
    Case,
    Maker,
    Operands,
    Sizes,
    differing,
    error_floor,
    type_name,
)
from worldbridge.kernels.detokenize import (
    indices_to_codes,
    patches_to_i420,
    reference_indices_to_codes,
    reference_patches_to_i420,
)
from worldbridge.kernels.sampling import (
    SamplingWorkspace,
    reference_sample_and_verify,
    sample_and_verify,
)
from worldbridge.models.tokenizer.config import DV8X16X16
from worldbridge.models.tokenizer.fsq import FSQ
from worldbridge.models.tokenizer.haar import HaarSpaceTime
from worldbridge.runtime.decoding.sampling import Sampling, gumbel, position_noise, sample
from worldbridge.runtime.frames.i420 import i420_planes, unit_to_bytes

__all__ = ["code_cases", "detokenize_cases", "token_cases"]

_SEED, _FIRST = 11, 640


def token_cases(maker: Maker, sizes: Sizes) -> Iterator[Case]:
    """Yield cases with our default settings and with the published ones, which have no top-k."""
    settings = {
        "top-k 32, top-p 0.9": Sampling(top_p=0.9, top_k=32),
        "top-p 0.8": Sampling(top_p=0.8, top_k=sizes.vocabulary),
    }
    for what, sampling in settings.items():
        for batch in sizes.batches:
            for tokens in sizes.tokens:
                if batch * tokens > 128:  # no forward pass has that many rows
                    continue
                yield Case(
                    kernel="sample_and_verify",
                    what=what,
                    shape={"batch": batch, "tokens": tokens, "vocabulary": sizes.vocabulary},
                    weights="float32",
                    activations="float32",
                    bytes_moved=batch * tokens * sizes.vocabulary * 4,
                    formula="batch * tokens * vocabulary of the logits, once",
                    make=partial(_operands, maker, sizes, sampling, batch, tokens),
                    error=differing,
                    measure="share of tokens and of counts of accepted drafts that differ",
                    floor=0.0,
                    of_torch=0.0,
                )


def _operands(maker: Maker, sizes: Sizes, sampling: Sampling, batch: int, tokens: int) -> Operands:
    shape = (batch, tokens, sizes.vocabulary)
    logits = maker.normal(*shape, dtype=torch.float32, scale=3.0)
    positions = torch.full((batch,), _FIRST, device=maker.device)
    seeds = torch.arange(_SEED, _SEED + batch, device=maker.device)
    drafts = logits[:, :-1].argmax(-1) if tokens > 1 else None  # accepted now and then
    settings: dict[str, Any] = dataclasses.asdict(sampling)
    out = positions.new_empty((batch, tokens)), positions.new_empty(batch)
    right = torch.empty_like(out[1])
    workspace = SamplingWorkspace.allocate(*shape, maker.device)
    return Operands(
        ours=lambda: sample_and_verify(
            logits, positions, seeds, drafts, **settings, out=out, workspace=workspace
        )[0],
        baselines={
            "torch, topk, softmax, cumsum, argmax; its noise is given to it": partial(
                _sample,
                logits,
                _noise(sizes.vocabulary, batch, tokens, maker),
                drafts,
                sampling,
                right,
            )
        },
        reference=lambda: torch.cat(
            [
                part.flatten()
                for part in reference_sample_and_verify(
                    logits, positions, seeds, drafts, **settings
                )
            ]
        ),
        ours_left=(out[1],),
        torch_left=(right,),
    )


def _noise(vocabulary: int, batch: int, tokens: int, maker: Maker) -> Tensor:
    lanes = -(-vocabulary // 8) * 8
    rows = [position_noise(_SEED + b, _FIRST, tokens, lanes)[:, :vocabulary] for b in range(batch)]
    return gumbel(torch.cat(rows).to(maker.device))


def _sample(
    logits: Tensor, noise: Tensor, drafts: Tensor | None, sampling: Sampling, right: Tensor
) -> Tensor:
    """Return tokens, and write the number of final ones of each session to `right`."""
    drawn = sample(logits.flatten(0, 1), noise, sampling).view(logits.shape[:2])
    if drafts is None:
        right.fill_(drawn.shape[1])
    else:
        same = (drawn[:, :-1] == drafts).long()
        torch.add(same.cumprod(-1).sum(-1), 1, out=right)
    return drawn


# --- detokenizer ---------------------------------------------------------------------------------


def detokenize_cases(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Iterator[Case]:
    """Yield the frames of one latent."""
    times, height, width = sizes.patches
    count = times * height * width
    yield Case(
        kernel="patches_to_i420",
        what=f"{4 * times} frames {4 * height}x{4 * width}",
        shape={"times": times, "height": height, "width": width},
        weights=type_name(dtype),
        activations=type_name(dtype),
        bytes_moved=count * (192 * dtype.itemsize + 96),
        formula="patches * (192 values read, 96 bytes written)",
        make=partial(_frame_operands, maker, sizes, dtype),
        error=_levels,
        measure="largest difference in levels of 255",
        # a pixel on a border between two levels, and what it does to its chroma value
        floor=1.0 if dtype == torch.float32 else 2.0,
        of_torch=0.0,
    )


def _levels(found: Tensor, expected: Tensor) -> float:
    return float((found.int() - expected.int()).abs().max())


def _frame_operands(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Operands:
    times, height, width = sizes.patches
    # 64 bands add up to a pixel: this fills the range and sometimes exceeds it
    patches = maker.normal(1, times, 192, height, width, dtype=dtype, scale=0.06)
    out = torch.empty((1, 4 * times, 24 * height * width), dtype=torch.uint8, device=maker.device)
    join = HaarSpaceTime(4)
    return Operands(
        ours=partial(patches_to_i420, patches, False, out=out),
        baselines={"torch, inverse Haar, bytes, planes": partial(_frames, join, patches)},
        reference=partial(reference_patches_to_i420, patches, False),
    )


def _frames(haar: HaarSpaceTime, patches: Tensor) -> Tensor:
    """Return the frames that a worker without the kernel makes."""
    frames = unit_to_bytes(haar.join(patches, False)[0])
    return torch.stack([i420_planes(frame) for frame in frames])[None]


def code_cases(maker: Maker, sizes: Sizes, dtype: torch.dtype) -> Iterator[Case]:
    """Yield the codes of one latent."""
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
