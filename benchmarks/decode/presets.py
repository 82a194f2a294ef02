"""Published shapes with random weights: what speed depends on, without a download.

Nothing that is drawn from them means anything, and neither does how often guesses are right.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import torch
from torch import Tensor, nn

from worldbridge.models.checkpoint import World
from worldbridge.models.tokenizer import TokenizerConfig, VideoTokenizer
from worldbridge.models.tokenizer.config import DV8X16X16
from worldbridge.models.transformer import MedusaHeads, TransformerConfig, VideoTransformer
from worldbridge.models.transformer.config import COSMOS, cosmos_4b_320p

__all__ = ["PRESETS", "preset_config", "preset_world", "random_world"]

PRESETS = MappingProxyType({"cosmos-4b-320p": cosmos_4b_320p(), **COSMOS})
_HEADS = 9  # as published for the 4B
_SEED = 5


def preset_config(name: str) -> TransformerConfig:
    """Raises ValueError for an unknown preset."""
    if name not in PRESETS:
        raise ValueError(
            f"there is no preset {name!r}: expected one of {', '.join(PRESETS)}; choose one of "
            "these, or measure the folder of a world with --world"
        )
    return PRESETS[name]


def preset_world(name: str, device: torch.device, dtype: torch.dtype) -> World:
    """A world of random weights in a preset's shapes. Raises ValueError for an unknown preset."""
    return random_world(name, preset_config(name), DV8X16X16, _HEADS, device, dtype)


def random_world(
    name: str,
    config: TransformerConfig,
    tokenizer: TokenizerConfig,
    heads: int,
    device: torch.device,
    dtype: torch.dtype,
) -> World:
    """Like a converted world. Weights keep activations near one, so that nothing overflows."""
    generator = torch.Generator(device).manual_seed(_SEED)
    with torch.device("meta"):
        network = VideoTransformer(config).to(dtype)
        guesses = MedusaHeads(config.dim, heads).to(dtype)
    _fill(network.to_empty(device=device), generator)
    _fill(guesses.to_empty(device=device), generator)
    # its buffers are constants that a module without memory would not have
    codec = VideoTokenizer(tokenizer).to(device, dtype)
    modules: tuple[nn.Module, ...] = (network, guesses, codec)
    for module in modules:
        module.eval().requires_grad_(False)
    manifest = {
        "kind": "cosmos",
        "name": name,
        "title": f"{name}, random weights",
        "frames_per_second": 25,
        "sampling": {"temperature": 1.0, "top_p": 0.8, "top_k": config.vocab_size},
        "tokenizer": dataclasses.asdict(tokenizer),
        "transformer": config.to_dict(),
    }
    return World(name, manifest, codec, network, guesses)


@torch.no_grad()
def _fill(module: nn.Module, generator: torch.Generator) -> None:
    """Norms are one, matrices keep the size of what they are multiplied with."""
    for weight in module.parameters():
        if weight.dim() < 2:
            weight.fill_(1.0)
        else:
            _normal(weight, generator)


def _normal(weight: Tensor, generator: torch.Generator) -> None:
    weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)
