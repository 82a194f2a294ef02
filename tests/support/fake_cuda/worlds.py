"""Converted worlds small enough to be drawn by kernels in the interpreter."""

from __future__ import annotations

import torch

from worldbridge.benchmarks.decode.presets import random_world
from worldbridge.models.checkpoint import World
from worldbridge.models.tokenizer import TokenizerConfig
from worldbridge.models.transformer import TransformerConfig

__all__ = ["small_world"]

CODES = 60
TOKENIZER = TokenizerConfig(channels=32, z_channels=4, levels=(4, 5, 3), embedding_dim=3)
CONFIG = TransformerConfig(
    dim=32,
    n_layers=1,
    n_heads=2,
    n_kv_heads=1,
    head_dim=16,
    ffn_hidden_size=48,
    vocab_size=CODES,
    latent_shape=(3, 2, 3),
)


def small_world(device: str, name: str = "small") -> World:
    """The published structure with random weights, the same ones on every device, in float32."""
    torch.manual_seed(5)  # of the tokenizer
    made = random_world(name, CONFIG, TOKENIZER, 2, torch.device("cpu"), torch.float32)
    for module in (made.tokenizer, made.transformer, made.heads):
        assert module is not None
        module.to(device)
    # the kernels that find the nucleus are slow to interpret, and have tests of their own
    made.manifest["sampling"] = {"temperature": 1.0, "top_p": 1.0, "top_k": CODES}
    return made
