"""The autoregressive video transformer: one class, configured for Cosmos or for a small world."""

from worldbridge.models.transformer.config import TransformerConfig, WavefrontConfig, Yarn
from worldbridge.models.transformer.medusa import MedusaHeads
from worldbridge.models.transformer.model import KVCache, VideoTransformer

__all__ = [
    "WavefrontConfig",
    "KVCache",
    "MedusaHeads",
    "TransformerConfig",
    "VideoTransformer",
    "Yarn",
]
