"""Masks of what a memory shows: where turning, walking and looking around something leave holes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["random_mask"]

Mask = NDArray[np.bool_]


def random_mask(
    nearness: NDArray[np.float32], random: np.random.Generator, empty: float = 0.35
) -> Mask:
    """Return a mask [H, W], true where the memory shows something.

    A share `empty` of the masks shows nothing, as at a session's start; the others have a strip at
    one side (turning), a border (walking back), or holes beside near things (walking past them).
    nearness float [H, W] in 1/m decides where the holes are.
    """
    if random.random() < empty:
        return np.zeros(nearness.shape, bool)
    mask = np.ones(nearness.shape, bool)
    kind = random.random()
    if kind < 0.55:
        _cut_strip(mask, nearness, random)
    elif kind < 0.7:
        _cut_border(mask, random)
    if kind > 0.3:
        _cut_behind(mask, nearness, random)
    if random.random() < 0.3:
        _cut_specks(mask, random)
    return mask


def _cut_strip(mask: Mask, nearness: NDArray[np.float32], random: np.random.Generator) -> None:
    """Cut a strip off one side; it is wider where things are near, as when one strafes."""
    height, width = mask.shape
    base = random.uniform(0.02, 0.5) * width
    parallax = random.choice([0.0, random.uniform(0.0, 60.0)])
    depth = nearness[:, 0] if random.random() < 0.5 else nearness[:, -1]
    ends = base + parallax * np.clip(depth, 0.0, 1.0)
    columns = np.arange(width)[None] < ends[:, None]
    mask[columns if random.random() < 0.5 else columns[:, ::-1]] = False


def _cut_border(mask: Mask, random: np.random.Generator) -> None:
    height, width = mask.shape
    share = random.uniform(0.01, 0.12)
    y, x = max(1, round(height * share)), max(1, round(width * share))
    mask[:y] = mask[-y:] = False
    mask[:, :x] = mask[:, -x:] = False


def _cut_behind(mask: Mask, nearness: NDArray[np.float32], random: np.random.Generator) -> None:
    """Cut what near things hid before they moved aside by some pixels."""
    shift = round(random.uniform(2, 28)) * (1 if random.random() < 0.5 else -1)
    step = 1 if shift > 0 else -1
    for k in range(0, shift, step):
        beside = np.roll(nearness, k + step, axis=1)
        # A thing moves by pixels in proportion to its nearness.
        moved = abs(k) < abs(shift) * np.clip((beside - nearness) / 0.5, 0.0, 1.0)
        mask[moved & (beside > nearness * 1.08)] = False


def _cut_specks(mask: Mask, random: np.random.Generator) -> None:
    height, width = mask.shape
    for _ in range(random.integers(1, 30)):
        y, x = random.integers(height), random.integers(width)
        mask[y : y + random.integers(1, 8), x : x + random.integers(1, 8)] = False
