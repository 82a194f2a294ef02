"""A real but tiny neural world with random weights, for tests of everything around the weights."""

import dataclasses

import torch

from worldbridge.models.checkpoint import World
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.tokenizer.config import EMBEDDED
from worldbridge.models.training.stages import EMBEDDED_TRANSFORMER
from worldbridge.models.transformer import VideoTransformer


def tiny_world() -> World:
    """Return a world of full frame size with two thin layers."""
    torch.manual_seed(3)
    tokenizer = dataclasses.replace(EMBEDDED, channels=8)
    transformer = dataclasses.replace(
        EMBEDDED_TRANSFORMER, dim=32, n_layers=2, head_dim=12, ffn_hidden_size=32
    )
    manifest = {
        "name": "tiny",
        "title": "Tiny world",
        "frames_per_second": 15,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 8},
        "transformer": transformer.to_dict(),
    }
    networks = (VideoTokenizer(tokenizer).eval(), VideoTransformer(transformer).eval())
    for network in networks:
        network.requires_grad_(False)
    return World("tiny", manifest, *networks)
