"""The tokenizers this package knows."""

from __future__ import annotations

from types import MappingProxyType

from worldbridge.models.tokenizer.config import TokenizerConfig

__all__ = ["CONFIGS", "DV4X8X8", "DV8X8X8", "DV8X16X16", "EMBEDDED"]

DV8X16X16 = TokenizerConfig()
DV8X8X8 = TokenizerConfig(spatial_compression=8)
DV4X8X8 = TokenizerConfig(spatial_compression=8, temporal_compression=4)

# Small enough for two CPU cores at 15 frames per second: 320x512 pixels <-> 10x16 latents.
EMBEDDED = TokenizerConfig(
    channels=48,
    channel_multipliers=(1, 2, 4),
    encoder_res_blocks=(1, 1, 1),
    decoder_res_blocks=(1, 2, 2),
    encoder_mid_blocks=1,
    decoder_mid_blocks=2,
    patch_size=8,
    patch_time=False,
    spatial_compression=32,
    temporal_compression=1,
    z_channels=16,
    embedding_dim=6,
    levels=(8, 8, 8, 8, 8, 8),
    norm="rms",
    temporal_convs="mid",
    attention=False,
    upsample="subpixel",
    downsample="space_to_depth",
    in_kernel=1,
    out_kernel=1,
    zero_init=True,
)

CONFIGS = MappingProxyType(
    {"dv8x16x16": DV8X16X16, "dv8x8x8": DV8X8X8, "dv4x8x8": DV4X8X8, "embedded": EMBEDDED}
)
