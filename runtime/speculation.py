"""How good the guesses of a world's Medusa heads are, for `worldbridge eval`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldbridge.models.training.data import Clip, to_unit
from worldbridge.runtime.ar_world import ArWorld
from worldbridge.runtime.decoding import GridDecoder

__all__ = ["measure_heads"]


@torch.inference_mode()
def measure_heads(world: ArWorld, clips: list[Clip], context: int, seed: int) -> dict[str, Any]:
    """Go on with each clip from its first `context` frames, as its player did, with guesses.

    `tokens_per_forward` is the mean over all forwards; `acceptance_per_head` the share of each
    head's drafts that were kept, which needs those of the heads before it to be right, too;
    `same_latents` the share of latents that the world's usual decoding draws alike, token for
    token. Raises ValueError for a world without heads.
    """
    if world.heads is None:
        raise ValueError(f"the world {world.spec.name!r} has no Medusa heads")
    guessing = GridDecoder(world.transformer, 1, world.sampling, "medusa", world.heads)
    same: list[bool] = []
    for i, clip in enumerate(clips):
        codes = world.tokenizer.encode(to_unit(clip.frames[:context]).transpose(0, 1)[None])[0]
        drawn = [_go_on(d, seed + i, codes, clip.condition) for d in (guessing, world.decoder)]
        same += [torch.equal(mine, usual) for mine, usual in zip(*drawn, strict=True)]
    counts = guessing.counts
    return {
        "heads": world.heads.count,
        "tokens_per_forward": round(counts.tokens_per_forward, 3),
        "forwards_per_latent": round(counts.forwards / len(same), 2),
        "acceptance_per_head": [round(share, 3) for share in counts.acceptance],
        "latents": len(same),
        "same_latents": round(sum(same) / len(same), 3),
    }


def _go_on(decoder: GridDecoder, seed: int, codes: Tensor, conditions: Tensor) -> list[Tensor]:
    """The latents that follow codes [n, H, W] under the rest of the conditions [T, C]."""
    session = decoder.open(seed)
    for latent, condition in zip(codes, conditions, strict=False):
        decoder.force(session, latent, condition)
    return [decoder.decode([session], told[None])[0] for told in conditions[len(codes) :]]
