"""What is measured of frames: crispness, likeness, change, and how they move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "MOVES",
    "TURNS",
    "Command",
    "acutance",
    "block_flow",
    "divergence",
    "follows",
    "mean_change",
    "mean_shift",
    "psnr_db",
]

_SCALE = 4  # matching runs on frames four times smaller
_BLOCK = 16
_REACH = (6, 16)  # rows, columns of the small frame
_WINDOW = 8  # pixels
_EDGE = 32.0  # grey levels


@dataclass(frozen=True, slots=True)
class Command:
    """A constant action and the motion of the frame that it must cause."""

    action: tuple[float, float, float, float]
    motion: Literal["shift", "growth"]  # to the right, or away from the centre
    sign: int


TURNS = (Command((0.0, 0.0, 1.0, 0.0), "shift", 1), Command((0.0, 0.0, -1.0, 0.0), "shift", -1))
MOVES = (
    Command((0.0, 1.0, 0.0, 0.0), "growth", 1),
    Command((1.0, 0.0, 0.0, 0.0), "shift", -1),
    Command((0.0, -1.0, 0.0, 0.0), "growth", -1),
    Command((-1.0, 0.0, 0.0, 0.0), "shift", 1),
)


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


def _small(frame: Tensor) -> Tensor:
    grey = frame.float().mean(0, keepdim=True)[None]
    return F.avg_pool2d(grey, _SCALE)


def _texture(grey: Tensor) -> Tensor:
    mean = F.avg_pool2d(grey, _BLOCK)
    return (F.avg_pool2d(grey.square(), _BLOCK) - mean.square()).clamp_min(0).sqrt()[0, 0]


def mean_shift(flow: Tensor, weight: Tensor, top: float = 0.0) -> tuple[float, float]:
    """Weighted mean (down, right) in pixels, of the rows below the share `top` of the frame."""
    first = round(top * flow.shape[0])
    part, w = flow[first:], weight[first:]
    total = (part * w[..., None]).sum((0, 1)) / w.sum().clamp_min(1e-6)
    return float(total[0]), float(total[1])


def divergence(flow: Tensor, weight: Tensor) -> float:
    """How much the frame grows away from its centre; positive when moving ahead."""
    rows, columns = flow.shape[:2]
    y = torch.linspace(-1, 1, rows)[:, None].expand(rows, columns)
    x = torch.linspace(-1, 1, columns)[None].expand(rows, columns)
    outward = flow[..., 0] * y + flow[..., 1] * x
    return float((outward * weight).sum() / weight.sum().clamp_min(1e-6))


def acutance(frame: Tensor) -> tuple[float, float]:
    """Return the share of windows with an edge, and how steep their edges are, of uint8 (H, W, 3).

    A window is 8 pixels of a row or a column; it has an edge if its brightness varies by more than
    32 grey levels. Steepness is the largest step between two pixels, divided by that contrast: 1
    for a hard edge, 1/7 for a ramp; the median over windows with an edge, NaN without any. It does
    not depend on how many edges there are.
    """
    grey = frame.float().mean(-1)
    contrasts, steps = [], []
    for rows in (grey, grey.T):
        windows = rows[:, : rows.shape[1] // _WINDOW * _WINDOW].unflatten(1, (-1, _WINDOW))
        contrasts.append((windows.amax(-1) - windows.amin(-1)).reshape(-1))
        steps.append(windows.diff(dim=-1).abs().amax(-1).reshape(-1))
    contrast, step = torch.cat(contrasts), torch.cat(steps)
    edge = contrast > _EDGE
    return float(edge.float().mean()), float((step[edge] / contrast[edge]).median())


def psnr_db(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> float:
    """Return the PSNR of uint8 frames (H, W, 3), of the masked pixels alone if there is a mask.

    At most 99 dB, for equal frames; NaN for no pixels.
    """
    error = (found.float() - wanted.float()).square()
    mean = float((error if mask is None else error[mask]).mean())
    if math.isnan(mean):
        return mean
    return 99.0 if mean == 0 else min(99.0, 10 * math.log10(255.0**2 / mean))


def mean_change(frames: Sequence[Tensor]) -> float:
    """Return the mean absolute change from frame to frame, in grey levels."""
    changes = [
        float((a.float() - b.float()).abs().mean())
        for a, b in zip(frames, frames[1:], strict=False)
    ]
    return sum(changes) / len(changes)


def follows(frames: Sequence[Tensor], command: Command) -> bool:
    """Whether frames (H, W, 3) move as commanded: by more than a pixel, in the right direction.

    Turns are compared frame by frame; walks over three frames, because they move a frame less.
    """
    step = 1 if command.action[2] else 3
    total = 0.0
    for before, after in zip(frames, frames[step:], strict=False):
        flow, weight = block_flow(before.permute(2, 0, 1), after.permute(2, 0, 1))
        if command.motion == "growth":
            total += divergence(flow, weight)
        else:
            total += mean_shift(flow, weight)[1]
    return total * command.sign > 1.0
