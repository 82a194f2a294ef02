"""How many tokens a forward gives when a world guesses, for `worldbridge eval`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldbridge.models.conditioning.prompt_frames import to_unit
from worldbridge.models.training.data import Clip
from worldbridge.runtime.decoding import DecodeOptions, Decoder, make_decoder
from worldbridge.runtime.worlds.autoregressive import ArWorld

__all__ = ["measure_drafts"]


@torch.inference_mode()
def measure_drafts(world: ArWorld, clips: list[Clip], context: int, seed: int) -> dict[str, Any]:
    """Go on with each clip from its first `context` frames, as its player did, with guesses.

    One entry for each way to guess, `medusa` where the world has heads, and `jacobi`:
    `tokens_per_forward` is the mean over all forwards; `acceptance_per_head` the share of each
    head's drafts that were kept, which needs those of the heads before it to be right, too;
    `same_latents` the share of latents that the world's usual decoding draws alike, token for
    token.
    """
    starts = []
    for clip in clips:
        video = to_unit(clip.frames[:context]).transpose(0, 1)[None]
        starts.append((world.tokenizer.encode(video)[0], clip.condition))
    usual = _go_on(world.decoder, starts, seed)
    found: dict[str, Any] = {}
    for mode in ("medusa", "jacobi"):
        if mode == "medusa" and world.heads is None:
            continue
        options = DecodeOptions(mode)
        decoder = make_decoder(world.transformer, 1, world.sampling, options, heads=world.heads)
        drawn = _go_on(decoder, starts, seed)
        same = [torch.equal(mine, other) for mine, other in zip(drawn, usual, strict=True)]
        counts = decoder.counts
        found[mode] = {
            "tokens_per_forward": round(counts.tokens_per_forward, 3),
            "forwards_per_latent": round(counts.forwards / len(same), 2),
            "latents": len(same),
            "same_latents": round(sum(same) / len(same), 3),
        }
        if mode == "medusa":
            shares = [round(share, 3) for share in counts.acceptance]
            found[mode]["acceptance_per_head"] = shares
    return found


def _go_on(decoder: Decoder, starts: list[tuple[Tensor, Tensor]], seed: int) -> list[Tensor]:
    """The latents that follow codes [n, H, W] under the rest of conditions [T, C]."""
    latents: list[Tensor] = []
    for i, (codes, conditions) in enumerate(starts):
        latents += _stream(decoder, seed + i, codes, conditions)
    return latents


def _stream(decoder: Decoder, seed: int, codes: Tensor, conditions: Tensor) -> list[Tensor]:
    session = decoder.open(seed)
    for latent, condition in zip(codes, conditions, strict=False):
        decoder.prefill(session, latent, condition)
    return [decoder.decode([session], told[None])[0] for told in conditions[len(codes) :]]
