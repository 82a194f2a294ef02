"""The autoregressive video transformer: one class, configured for Cosmos or for a small world."""

from worldbridge.models.transformer.cache import CacheRows, KVCache
from worldbridge.models.transformer.config import TransformerConfig, WavefrontConfig, Yarn
from worldbridge.models.transformer.layers import MedusaHeads
from worldbridge.models.transformer.model import VideoTransformer

__all__ = [
    "WavefrontConfig",
    "CacheRows",
    "KVCache",
    "MedusaHeads",
    "TransformerConfig",
    "VideoTransformer",
    "Yarn",
]
