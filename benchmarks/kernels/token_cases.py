"""Drawing tokens from logits, and comparing them with the guesses that were fed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldbridge.benchmarks.kernels.case import Case, Maker, Operands, Sizes, differing
from worldbridge.kernels.sampling import (
    SamplingWorkspace,
    reference_sample_and_verify,
    sample_and_verify,
)
from worldbridge.runtime.decoding.noise import position_noise
from worldbridge.runtime.decoding.sampling import Sampling, gumbel, sample

__all__ = ["token_cases"]

_SEED, _FIRST = 11, 640


def token_cases(maker: Maker, sizes: Sizes) -> Iterator[Case]:
    """With our default settings, and with the published ones, which know no top-k."""
    settings = {
        "top-k 32, top-p 0.9": Sampling(top_p=0.9, top_k=32),
        "top-p 0.8": Sampling(top_p=0.8, top_k=sizes.vocabulary),
    }
    for what, sampling in settings.items():
        for batch in sizes.batches:
            for tokens in sizes.tokens:
                if batch * tokens > 128:  # no forward has so many rows
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
                    measure="share of tokens and of counts of right guesses that differ",
                    floor=0.0,
                    of_torch=0.0,
                )


def _operands(maker: Maker, sizes: Sizes, sampling: Sampling, batch: int, tokens: int) -> Operands:
    shape = (batch, tokens, sizes.vocabulary)
    logits = maker.normal(*shape, dtype=torch.float32, scale=3.0)
    positions = torch.full((batch,), _FIRST, device=maker.device)
    seeds = torch.arange(_SEED, _SEED + batch, device=maker.device)
    drafts = logits[:, :-1].argmax(-1) if tokens > 1 else None  # right now and then
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
    """Tokens; how many of each session's are final is written to `right`."""
    drawn = sample(logits.flatten(0, 1), noise, sampling).view(logits.shape[:2])
    if drafts is None:
        right.fill_(drawn.shape[1])
    else:
        same = (drawn[:, :-1] == drafts).long()
        torch.add(same.cumprod(-1).sum(-1), 1, out=right)
    return drawn
