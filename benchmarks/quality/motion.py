"""How the picture moved between two frames, by block matching; for evaluation and tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["block_flow", "divergence", "gradient_energy", "mean_shift"]

_SCALE = 4  # matching runs on pictures four times smaller
_BLOCK = 16
_REACH = (6, 16)  # rows, columns of the small picture


def block_flow(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [3, H, W] twice -> flow [rows, columns, 2] (down, right) in pixels, and weights.

    Every block of `before` is looked for in `after`; the weight is its texture, so that blank
    walls do not vote.
    """
    a, b = (_small(x) for x in (before, after))
    costs, moves = [], []
    reach_y, reach_x = _REACH
    padded = F.pad(b, (reach_x, reach_x, reach_y, reach_y), mode="replicate")
    height, width = a.shape[-2:]
    for dy in range(-reach_y, reach_y + 1):
        for dx in range(-reach_x, reach_x + 1):
            top, left = reach_y + dy, reach_x + dx
            moved = padded[..., top : top + height, left : left + width]
            # a small preference for staying keeps flat blocks at rest
            cost = F.avg_pool2d((a - moved).abs(), _BLOCK) + 0.02 * (abs(dy) + abs(dx))
            costs.append(cost)
            moves.append((dy, dx))
    best = torch.cat(costs, 1).argmin(1)[0]
    flow = torch.tensor(moves, dtype=torch.float32)[best] * _SCALE
    return flow, _texture(a)


def _small(picture: Tensor) -> Tensor:
    grey = picture.float().mean(0, keepdim=True)[None]
    return F.avg_pool2d(grey, _SCALE)


def _texture(grey: Tensor) -> Tensor:
    mean = F.avg_pool2d(grey, _BLOCK)
    return (F.avg_pool2d(grey.square(), _BLOCK) - mean.square()).clamp_min(0).sqrt()[0, 0]


def mean_shift(flow: Tensor, weight: Tensor, top: float = 0.0) -> tuple[float, float]:
    """Weighted mean (down, right) in pixels, of the rows below the share `top` of the picture."""
    first = round(top * flow.shape[0])
    part, w = flow[first:], weight[first:]
    total = (part * w[..., None]).sum((0, 1)) / w.sum().clamp_min(1e-6)
    return float(total[0]), float(total[1])


def divergence(flow: Tensor, weight: Tensor) -> float:
    """How much the picture grows away from its centre; positive when moving ahead."""
    rows, columns = flow.shape[:2]
    y = torch.linspace(-1, 1, rows)[:, None].expand(rows, columns)
    x = torch.linspace(-1, 1, columns)[None].expand(rows, columns)
    outward = flow[..., 0] * y + flow[..., 1] * x
    return float((outward * weight).sum() / weight.sum().clamp_min(1e-6))


def gradient_energy(picture: Tensor) -> float:
    """Mean squared difference of neighbouring pixels of uint8 [3, H, W]."""
    x = picture.float()
    return float(x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean())
