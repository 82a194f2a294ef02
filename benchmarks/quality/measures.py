"""What is measured of frames: crispness, likeness, change, and how they move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.bridge.protocol import Pose
from worldbridge.models.conditioning.camera import rotation_matrix

__all__ = [
    "MOVES",
    "TURNS",
    "Command",
    "acutance",
    "block_flow",
    "block_texture",
    "divergence",
    "follows",
    "mean_change",
    "mean_shift",
    "psnr_db",
    "sampson_error_px",
    "texture_summary",
]

_SCALE = 4  # matching runs on frames four times smaller
_BLOCK = 16
_REACH = (6, 16)  # rows, columns of the small frame
_WINDOW = 8  # pixels
_EDGE = 32.0  # grey levels
_TEXTURE_BLOCK = 32  # pixels
_OCTAVES = (2, 4, 8, 16)  # pixels of half a wave
_NEW = 0.75  # of a block's pixels, so that it counts as new
_FLAT = 8.0  # grey levels within 8x8 pixels
_CORNERS = 150
_PATCH = 5  # pixels on every side of a corner
_SEARCH = 20  # pixels around where a corner would be if it were infinitely far
_ALIKE = 0.85  # correlation of two patches that show the same
_LEAST_MATCHES = 12
_BASELINE_M = 0.1  # of two cameras, below which there are no epipolar lines


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


def block_texture(frame: Tensor, mask: Tensor) -> Tensor:
    """Return statistics [n, 7] of the blocks of 32x32 pixels that lie in a mask (H, W) for 3/4.

    Of a uint8 frame (H, W, 3), per block: the contrast in four octaves (RMS of the bands of a
    Laplacian pyramid, 2 to 16 pixels), the RMS gradient, the RMS of the part of the gradient that
    follows no edge, each as log2(1 + grey levels), and the share of flat windows of 8x8 pixels.
    The part that follows no edge is the smaller eigenvalue of the structure tensor of 16x16 pixels,
    twice: 0 for a straight edge or a flat area, all of it for noise and for scattered patches.
    """
    grey = frame.float().mean(-1)[None, None]
    energies, level = [], grey
    for octave in _OCTAVES:
        coarse = F.avg_pool2d(level, 2)
        band = level - F.interpolate(coarse, scale_factor=2, mode="bilinear")
        energies.append(F.avg_pool2d(band.square(), 2 * _TEXTURE_BLOCK // octave))
        level = coarse
    down = F.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    right = F.pad(grey[..., 1:] - grey[..., :-1], (0, 1))
    half = _TEXTURE_BLOCK // 2
    yy, xx, xy = (F.avg_pool2d(p, half) for p in (down.square(), right.square(), down * right))
    along = ((yy - xx).square() + 4 * xy.square()).sqrt()
    energies += [F.avg_pool2d(e, 2) for e in (yy + xx, yy + xx - along)]
    spread = F.max_pool2d(grey, 8) + F.max_pool2d(-grey, 8)
    flat = F.avg_pool2d((spread <= _FLAT).float(), _TEXTURE_BLOCK // 8)
    new = F.avg_pool2d(mask[None, None].float(), _TEXTURE_BLOCK)[0, 0] >= _NEW
    logs = [(1 + energy.clamp_min(0).sqrt()).log2() for energy in energies]
    return torch.cat([*logs, flat], 1)[0][:, new].T


def texture_summary(blocks: Tensor) -> dict[str, Any]:
    """Return what `block_texture` [n, 7] found: contrast by octave, disorder and flatness.

    `texture_octaves`: RMS contrast in grey levels by pixels; `edge_disorder`: the share of the
    gradients' energy that follows no edge; `flat_share`: of windows of 8x8 pixels.
    """
    energy = (2 ** blocks[:, :6] - 1).square().mean(0)
    octaves = energy[:4].sqrt().tolist()
    return {
        "texture_octaves": {
            str(o): round(value, 3) for o, value in zip(_OCTAVES, octaves, strict=True)
        },
        "edge_disorder": round(float(energy[5] / energy[4].clamp_min(1e-6)), 4),
        "flat_share": round(float(blocks[:, 6].mean()), 4),
    }


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


def sampson_error_px(before: Tensor, after: Tensor, pose: Pose, later: Pose) -> float:
    """Return the median Sampson distance of matches between uint8 frames (H, W, 3), in pixels.

    Corners of `before` are looked for in `after`, without regard to the epipolar lines that the
    two cameras give. NaN for cameras that hardly moved, and for too few matches.
    """
    if math.dist(pose.position, later.position) < _BASELINE_M:
        return math.nan
    rays = _pixel_rays(before.shape[0], before.shape[1], pose.fov_y)
    turn, to_world = _rotation(later).T @ _rotation(pose), _rotation(later).T
    x, y, z = (to_world @ _difference(pose, later)).tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    fundamental = rays.T @ cross @ turn @ rays
    found = _matches(before, after, rays.inverse() @ turn @ rays)
    if len(found) < _LEAST_MATCHES:
        return math.nan
    ones = torch.ones(len(found), 1, dtype=torch.float64)
    first, second = (torch.cat((part, ones), 1) for part in found.double().split(2, 1))
    lines, back = first @ fundamental.T, second @ fundamental
    slope = lines[:, :2].square().sum(1) + back[:, :2].square().sum(1)
    errors = (second * lines).sum(1).abs() / slope.sqrt().clamp_min(1e-12)
    return float(errors.median())


def _matches(before: Tensor, after: Tensor, far: Tensor) -> Tensor:
    """Return pixels (x, y, x, y) [n, 4] of frames that show the same; `far` maps what is far."""
    a, b = (frame.float().mean(-1) for frame in (before, after))
    corners = _corners(a)
    mapped = torch.cat((corners, torch.ones(len(corners), 1)), 1).double() @ far.T
    guess = (mapped[:, :2] / mapped[:, 2:]).round().long()
    margin = _PATCH + _SEARCH
    limit = torch.tensor([a.shape[1], a.shape[0]]) - margin
    inside = ((guess >= margin) & (guess < limit)).all(1) & (mapped[:, 2] > 0)
    corners, guess = corners[inside].long(), guess[inside]
    if len(corners) == 0:
        return torch.zeros(0, 4)
    patches = _cut(a, corners, _PATCH)
    areas = _cut(b, guess, margin)
    size = 2 * _PATCH + 1
    patches = patches - patches.mean((1, 2), keepdim=True)
    patches = patches / patches.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-3)
    dot = F.conv2d(areas[None], patches[:, None], groups=len(areas))[0]
    mean = F.avg_pool2d(areas[None], size, 1)[0]
    power = F.avg_pool2d(areas.square()[None], size, 1)[0] - mean.square()
    alike = dot / (power.clamp_min(1e-3) * size**2).sqrt()
    best, place = alike.flatten(1).max(1)
    reach = 2 * _SEARCH + 1
    offset = torch.stack((place % reach, place // reach), 1) - _SEARCH
    good = best > _ALIKE
    return torch.cat((corners[good].float(), (guess + offset)[good].float()), 1)


def _corners(grey: Tensor) -> Tensor:
    """Return the pixels (x, y) [n, 2] of the strongest corners, by the smaller eigenvalue."""
    image = grey[None, None]
    down, right = (F.pad(image.diff(dim=d), p) for d, p in ((2, (0, 0, 0, 1)), (3, (0, 1))))
    yy, xx, xy = (F.avg_pool2d(p, 7, 1, 3) for p in (down.square(), right.square(), down * right))
    least = yy + xx - ((yy - xx).square() + 4 * xy.square()).sqrt()
    peak = (F.max_pool2d(least, 15, 1, 7) == least) & (least > 4.0)
    peak[..., :_PATCH, :] = peak[..., -_PATCH:, :] = False
    peak[..., :_PATCH] = peak[..., -_PATCH:] = False
    row, column = peak[0, 0].nonzero().unbind(1)
    order = least[0, 0, row, column].argsort(descending=True, stable=True)[:_CORNERS]
    return torch.stack((column, row), 1)[order].float()


def _cut(image: Tensor, middles: Tensor, margin: int) -> Tensor:
    """Return squares [n, 2 * margin + 1, 2 * margin + 1] around pixels (x, y) [n, 2]."""
    span = torch.arange(-margin, margin + 1)
    rows, columns = middles[:, 1, None] + span, middles[:, 0, None] + span
    return image[rows[:, :, None], columns[:, None]]


def _pixel_rays(height: int, width: int, fov_y: float) -> Tensor:
    """Return the matrix that maps a pixel (x, y, 1) to its ray in the camera's coordinates."""
    focal = height / 2 / math.tan(math.radians(fov_y) / 2)
    rows = (
        (1 / focal, 0.0, (0.5 - width / 2) / focal),
        (0.0, -1 / focal, (height / 2 - 0.5) / focal),
        (0.0, 0.0, -1.0),
    )
    return torch.tensor(rows, dtype=torch.float64)


def _rotation(pose: Pose) -> Tensor:
    return rotation_matrix(torch.tensor(pose.orientation, dtype=torch.float64))


def _difference(pose: Pose, later: Pose) -> Tensor:
    pairs = zip(pose.position, later.position, strict=True)
    return torch.tensor([a - b for a, b in pairs], dtype=torch.float64)
