"""The embedded world's networks."""

from __future__ import annotations

from worldbridge.models.conditioning.actions import CONDITION_DIM
from worldbridge.models.transformer import TransformerConfig, WavefrontConfig

__all__ = ["EMBEDDED_TRANSFORMER"]

# Modulation instead of the published cross-attention recipe: the action reaches every layer and
# every position of the latent as a scale and a shift, at the price of two multiply-adds a token
# and no attention, and it starts as the identity, so pictures are learned before controls.
EMBEDDED_TRANSFORMER = TransformerConfig(
    dim=192,
    n_layers=4,
    n_heads=3,
    n_kv_heads=1,
    head_dim=64,
    ffn_hidden_size=576,
    vocab_size=8**6,
    latent_shape=(8, 10, 16),
    rope_theta=100.0,
    conditioning="modulation",
    condition_dim=CONDITION_DIM,
    grid=WavefrontConfig(),
)
