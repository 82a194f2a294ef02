"""Models small enough for Triton's interpreter, which takes about a second for one step."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from tests.runtime.decoding import test_raster_decoder as raster
from tests.runtime.decoding.test_medusa import heads_of
from tests.support.decoders import cuda_decoder, eager_decoder
from worldbridge.models.transformer import MedusaHeads, TransformerConfig, VideoTransformer
from worldbridge.runtime.decoding import Decoder, DecodeSession
from worldbridge.runtime.decoding.sampling import Sampling

# all codes, as the kernels that find the nucleus have tests of their own and are slow to interpret
SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=250)
PLAIN = TransformerConfig(
    dim=48,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    ffn_hidden_size=80,
    vocab_size=250,
    latent_shape=(3, 3, 4),
    norm_eps=1e-3,
)
SHORT = dataclasses.replace(PLAIN, latent_shape=(3, 2, 3))
VIDEO2WORLD = dataclasses.replace(
    SHORT,
    input_vocab_rows=264,
    begin_of_video_token=250,
    apply_abs_pos_emb=True,
    context_dim=20,
    camera="pluecker",
)
ACTIONS = dataclasses.replace(
    SHORT, context_dim=20, conditioning="cross_attention", condition_dim=4, camera="pluecker"
)


def build(config: TransformerConfig) -> VideoTransformer:
    """Sharp logits, norms whose weights are not 1, cameras that matter."""
    model = raster.build(config)
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    if config.takes_camera:
        torch.nn.init.normal_(model.camera_embedding.weight, std=0.5)
    return model


def heads_for(config: TransformerConfig, count: int, scale: float = 0.02) -> MedusaHeads:
    return heads_of(config.dim, count, scale)


def pair(
    config: TransformerConfig, capacity: int, mode: str, **options: Any
) -> tuple[Decoder, Decoder]:
    """The reference and what is tested, of one model."""
    model, shared = build(config), dict(options)
    own = {name: shared.pop(name) for name in ("weight_dtype", "group", "ahead") if name in shared}
    sampling = shared.pop("sampling", SAMPLING)
    return (
        eager_decoder(model, capacity, sampling, mode, **shared),
        cuda_decoder(model, capacity, sampling, mode, **shared, **own, split=32, context_rows=9),
    )


def poses(latents: int, start: float = 0.0) -> Tensor:
    from tests.runtime.decoding.test_raster_camera import walk

    return walk(latents, start)


def opened(decoder: Decoder, seed: int = 0, latents: int = 1) -> DecodeSession:
    config = decoder.config
    conditions = torch.randn(latents, 4, generator=torch.Generator().manual_seed(seed))
    return decoder.open(
        seed,
        raster.prompt(config, latents, seed),
        context=raster.context_of(config, seed),
        conditions=conditions if config.takes_actions else None,
        poses=poses(latents, seed) if config.takes_camera else None,
    )


def decode(decoder: Decoder, sessions: list[DecodeSession], step: int = 0) -> Tensor:
    """One latent, under actions and cameras that differ by session and step."""
    config = decoder.config
    generator = torch.Generator().manual_seed(100 + step)
    conditions = torch.randn(9, 4, generator=generator)[torch.tensor([s.seed for s in sessions])]
    seen = torch.cat([poses(1, s.seed + 0.3 * step) for s in sessions])
    return decoder.decode(
        sessions,
        conditions if config.takes_actions else None,
        seen if config.takes_camera else None,
    )


def run(decoder: Decoder, session: DecodeSession, latents: int) -> Tensor:
    return torch.cat([decode(decoder, [session], step) for step in range(latents)])
