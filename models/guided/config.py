"""Sizes and units of the guided tokenizer, and the guide that it receives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.errors import StructuredError

__all__ = [
    "FARTHEST",
    "GUIDE_CHANNELS",
    "GuidedConfig",
    "GuideError",
    "active_blocks",
    "make_guide",
]

# The nearness of the sky, in 1/m.
FARTHEST = 1.0 / 256.0
_NEAREST = 4.0
# Colour (3), nearness, mask of what the memory shows, nearness of the floor.
GUIDE_CHANNELS = 6


class GuideError(StructuredError):
    """A guide, a frame or a code that does not fit the tokenizer."""


@dataclass(frozen=True, slots=True)
class GuidedConfig:
    """Sizes of the guided tokenizer.

    A frame has `height` x `width` pixels in blocks of 16 x 16; a block has one code of `digits`
    FSQ digits with `levels` levels each.
    """

    height: int = 320
    width: int = 512
    digits: int = 12
    levels: int = 8
    surfaces: int = 4  # flat colours that an 8 x 8 cell can hold
    trunk_dim: int = 64  # guide features at 8 pixels
    guide_dim: int = 96  # guide features at 16 pixels
    fine_dim: int = 96  # frame features at 8 pixels
    block_dim: int = 160  # frame features at 16 pixels
    blocks: int = 3  # residual blocks of encoder and decoder at 16 pixels
    eye_height_m: float = 1.6
    active_share: float = 0.02  # a block with more unseen pixels than this gets a code

    def __post_init__(self) -> None:
        if self.height % 16 or self.width % 16 or min(self.height, self.width) <= 0:
            raise GuideError(
                "the frame size does not fit the blocks",
                expected="a height and a width that are multiples of 16",
                got=f"{self.height} x {self.width}",
                remedy="change height and width",
            )

    @property
    def rows(self) -> int:
        return self.height // 16

    @property
    def columns(self) -> int:
        return self.width // 16

    @property
    def null_digit(self) -> int:
        """The digit of every channel of the null code: the value 0."""
        return self.levels // 2


def nearness_to_unit(nearness: Tensor) -> Tensor:
    """Map nearness in 1/m to [0, 1] on a logarithmic scale; beyond the ends it is clipped."""
    scale = 1.0 / math.log(_NEAREST / FARTHEST)
    return (nearness.float().clamp(FARTHEST, _NEAREST) / FARTHEST).log() * scale


def unit_to_nearness(unit: Tensor) -> Tensor:
    """Inverse of `nearness_to_unit`."""
    return FARTHEST * (unit.clamp(0.0, 1.0) * math.log(_NEAREST / FARTHEST)).exp()


def floor_nearness(
    pitch: Tensor, height: int, width: int, fov_y_deg: float, eye_height_m: float = 1.6
) -> Tensor:
    """Return the nearness of an endless floor, float32 [B, height, width] in 1/m.

    pitch float [B], radians, + is up. Nearness is along the optical axis, so it is the same for
    all pixels of a row; above the horizon it is `FARTHEST`.
    """
    focal = height / (2.0 * math.tan(math.radians(fov_y_deg) / 2.0))
    row = (torch.arange(height, dtype=torch.float32) + 0.5 - height / 2.0) / focal
    pitch = pitch.float()[:, None]
    # Metres that a ray falls per metre along the optical axis.
    fall = row[None] * pitch.cos() - pitch.sin()
    return (fall / eye_height_m).clamp(min=FARTHEST)[:, :, None].expand(-1, -1, width)


def make_guide(color: Tensor, nearness: Tensor, mask: Tensor, floor: Tensor) -> Tensor:
    """Return the guide [B, 6, H, W] of what the memory shows.

    color float [B, 3, H, W] in [-1, 1]; nearness and floor float [B, H, W] in 1/m; mask bool
    [B, H, W], true where the memory shows something. Pixels outside of the mask are not read.
    """
    seen = mask[:, None]
    planes = (
        color * seen,
        nearness_to_unit(nearness)[:, None] * seen,
        seen.to(color.dtype),
        nearness_to_unit(floor)[:, None],
    )
    return torch.cat(planes, 1)


def active_blocks(mask: Tensor, share: float) -> Tensor:
    """Return which blocks hold something new, bool [B, H / 16, W / 16].

    mask bool [B, H, W] as in `make_guide`; a block is active when more than `share` of its pixels
    are outside of the mask.
    """
    unseen = F.avg_pool2d((~mask)[:, None].float(), 16)[:, 0]
    return unseen > share
