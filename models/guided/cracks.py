"""Cracks in what a spatial memory shows: too thin to be drawn, filled by what is beside them.

Surfaces that the network drew lie a little apart when they are seen from elsewhere. Two passes of
the memory close single pixels; what is left would make most blocks active in a few steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldbridge.models.spatial_memory import Guide

__all__ = ["mend_cracks"]


def mend_cracks(seen: Guide) -> Guide:
    """Return the guide with holes filled that are at most two pixels wide.

    A pixel takes the colour and the nearness of the farthest of its eight neighbours, as what
    comes into view beside a thing lies behind it.
    """
    closed = ~_spread(~_spread(seen.mask))  # what is beyond the border counts for nothing
    row, column = (closed & ~seen.mask).nonzero().unbind(1)
    if len(row) == 0:
        return seen
    step = torch.tensor([-1, 0, 1], device=row.device)
    height, width = seen.mask.shape
    rows = row[:, None, None] + step[:, None].expand(3, 3)
    columns = column[:, None, None] + step.expand(3, 3)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(1)
    beside = seen.mask.flatten()[places] & inside.flatten(1)
    near = torch.where(beside, seen.nearness.flatten()[places], torch.inf)
    nearness, choice = near.min(1)
    found = nearness.isfinite()
    row, column = row[found], column[found]
    source = places[found].gather(1, choice[found, None])[:, 0]
    rgb, all_near, mask = seen.rgb.clone(), seen.nearness.clone(), seen.mask.clone()
    rgb[row, column] = seen.rgb.flatten(0, 1)[source]
    all_near[row, column] = nearness[found]
    mask[row, column] = True
    return Guide(rgb, all_near, mask, seen.age)


def _spread(mask: Tensor) -> Tensor:
    """Return where a mask bool [H, W] is true within one pixel, also diagonally."""
    wide = mask.clone()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    found = wide.clone()
    found[1:] |= wide[:-1]
    found[:-1] |= wide[1:]
    return found
