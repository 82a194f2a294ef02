"""Checks of what callers hand to the tokenizer; each raises ValueError before any work."""

from __future__ import annotations

import torch
from torch import Tensor

from worldbridge.models.tokenizer.config import TokenizerConfig
from worldbridge.models.tokenizer.stream import StreamState

__all__ = ["codes", "indices", "state", "stream_shape", "video"]


def video(config: TokenizerConfig, value: Tensor, first: bool) -> None:
    """`first`: the frames are the beginning of a video, 1 + k * n; otherwise k * n, k >= 1."""
    colours, size, n = config.in_channels, config.spatial_compression, config.temporal_compression
    _shape("video", value, f"[B, {colours}, T, H, W]", colours)
    if not value.is_floating_point():
        raise ValueError(
            f"video: expected floating point values in [-1, 1], got {value.dtype}; "
            "convert bytes with x / 127.5 - 1"
        )
    frames, height, width = value.shape[2:]
    for name, side in (("height", height), ("width", width)):
        if side == 0 or side % size:
            raise ValueError(
                f"video {name}: expected a multiple of {size} (spatial_compression), got {side}; "
                f"crop to {side - side % size} or pad to {side + -side % size}"
            )
    if first and (frames < 1 or (frames - 1) % n):
        raise ValueError(f"video frames: expected 1 + k * {n} of them, got {frames}")
    if not first and (frames < 1 or frames % n):
        raise ValueError(
            f"video frames: expected k * {n} of them after the first chunk, got {frames}"
        )


def indices(config: TokenizerConfig, value: Tensor) -> None:
    """Reads the smallest and largest index, so on a GPU it waits for them."""
    _shape("indices", value, "[B, t, h, w]", None)
    if value.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise ValueError(f"indices: expected integers, got {value.dtype}")
    low, high = (int(x) for x in value.aminmax())
    if low < 0 or high >= config.vocabulary:
        raise ValueError(
            f"indices: expected values in 0..{config.vocabulary - 1}, got {low}..{high}"
        )


def codes(config: TokenizerConfig, value: Tensor) -> None:
    _shape("codes", value, f"[B, {config.embedding_dim}, t, h, w]", config.embedding_dim)


def stream_shape(batch: int, height: int, width: int, window: int | None) -> None:
    for name, number, least in (
        ("batch", batch, 1),
        ("height", height, 1),
        ("width", width, 1),
        ("window", 0 if window is None else window, 0),
    ):
        if number < least:
            raise ValueError(f"{name}: expected at least {least}, got {number}")


def state(value: StreamState, kind: str, batch: int, height: int, width: int) -> None:
    """`height`, `width`: the latent grid of what came with the state."""
    if value.kind != kind:
        raise ValueError(
            f"state: expected one of {kind}_stream_init, got one of {value.kind}_stream_init"
        )
    ours, theirs = (value.batch, value.height, value.width), (batch, height, width)
    if ours != theirs:
        raise ValueError(
            f"state: expected input of batch, height, width {ours} in latents, got {theirs}"
        )


def _shape(name: str, value: Tensor, expected: str, channels: int | None) -> None:
    rank = expected.count(",") + 1
    if value.dim() != rank or (channels is not None and value.shape[1] != channels):
        raise ValueError(f"{name}: expected shape {expected}, got {list(value.shape)}")
    if value.numel() == 0:
        raise ValueError(f"{name}: expected {expected} with no empty axis, got {list(value.shape)}")
