"""Rotary and absolute 3D positions (facts: cosmos-predict1 `modules/embedding.py`, version 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldbridge.models.transformer.config import TransformerConfig, Yarn

__all__ = [
    "absolute_table",
    "apply_rotary",
    "rotary_angles",
    "rotary_frequencies",
    "rotary_table",
    "rotate_time",
]


def rotary_frequencies(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Temporal and spatial frequencies, float64: [dim_t/2], [dim_h/2] (height equals width)."""
    dim_space = config.head_dim // 6 * 2
    dim_time = config.head_dim - 2 * dim_space
    time = _geometric(dim_time, config.rope_theta)
    space = _geometric(dim_space, config.rope_theta)
    if config.yarn is not None:
        time = _interpolate(time, config.yarn, config.yarn.original_latent_shape[0])
        space = _interpolate(space, config.yarn, config.yarn.original_latent_shape[1])
    return time, space


def _geometric(dim: int, theta: float) -> Tensor:
    # float32 first: the published tables are built in float32
    exponent = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    return (1.0 / (theta**exponent)).to(torch.float64)


def _interpolate(frequencies: Tensor, yarn: Yarn, original: int) -> Tensor:
    """YaRN: what turns less than beta_slow times over `original` is slowed by `scale`."""
    high = 2 * math.pi * yarn.beta_fast / original
    low = 2 * math.pi * yarn.beta_slow / original
    keep = ((frequencies - low) / (high - low)).clamp(0, 1)
    return frequencies * ((1 - keep) / yarn.scale + keep)


def rotary_angles(config: TransformerConfig, t: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """Angles [..., head_dim/2] = [time | height | width] for integer positions of equal shape.

    Computed in float64 and reduced to one turn, so that positions of an endless stream keep
    their precision when the result is cast to float32.
    """
    time, space = (f.to(t.device) for f in rotary_frequencies(config))
    parts = (
        t[..., None].double() * time,
        h[..., None].double() * space,
        w[..., None].double() * space,
    )
    return torch.cat(parts, dim=-1).remainder(2 * math.pi)


def rotary_table(config: TransformerConfig) -> Tensor:
    """Angles of every position of `latent_shape` in raster order, [n, head_dim/2], float64.

    With a begin-of-video token a zero row comes first.
    """
    t, h, w = torch.meshgrid(*(torch.arange(n) for n in config.latent_shape), indexing="ij")
    angles = rotary_angles(config, t.flatten(), h.flatten(), w.flatten())
    if config.begin_of_video_token is not None:
        angles = torch.cat([torch.zeros_like(angles[:1]), angles])
    return angles


def rotate_time(config: TransformerConfig, keys: Tensor, shift: int) -> Tensor:
    """Return rotated keys [..., head_dim] as they would be `shift` latents later.

    A rotation by the sum of two angles is one rotation after the other, so no key has to be
    computed again. Only what a key has learned from latents before it stays as it was.
    """
    zero = torch.zeros((), dtype=torch.long, device=keys.device)
    angles = rotary_angles(config, zero + shift, zero, zero)
    cos, sin = angles.cos().float(), angles.sin().float()
    return apply_rotary(keys.float(), cos, sin).to(keys)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + D/2). x [B, heads, S, D]; cos, sin broadcastable to [..., S, D/2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def absolute_table(config: TransformerConfig) -> Tensor:
    """Sine/cosine positions [n, dim], float64, [time | height | width]; video2world sizes only."""
    dim_space = config.dim // 6 * 2
    dim_time = config.dim - 2 * dim_space
    t, h, w = torch.meshgrid(*(torch.arange(n) for n in config.latent_shape), indexing="ij")
    table = torch.cat(
        [
            _sin_cos(t.flatten(), dim_time),
            _sin_cos(h.flatten(), dim_space),
            _sin_cos(w.flatten(), dim_space),
        ],
        dim=-1,
    )
    if config.begin_of_video_token is not None:
        table = torch.cat([torch.zeros_like(table[:1]), table])
    return table


def _sin_cos(position: Tensor, dim: int) -> Tensor:
    omega = 10_000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle = position[:, None].double() * omega
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
