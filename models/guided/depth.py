"""Depth of a single frame, for worlds that begin with a prompt frame.

The network sees the frame and the floor that a standing person would see. Like the tokenizer's
decoder it describes an 8 x 8 cell as a few surfaces, each with a color and a plane in nearness;
here the frame is known, so a pixel belongs to the surface whose color it has, and edges of depth
lie on edges of the frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.guided.config import nearness_to_unit, unit_to_nearness
from worldbridge.models.guided.tokenizer import ResBlock, of_largest, spread_planes

__all__ = ["DEPTH_CHANNELS", "DepthNet"]

_CELL = 8
DEPTH_CHANNELS = (48, 96, 160)  # at 8, 16 and 32 pixels
_SURFACES = 4
_VALUES = 6  # color 3, nearness, and its slopes down and across
_SLOPE = 4.0


class _Attention(nn.Module):
    """Every place sees all others: how far a wall is shows where it meets the floor."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(1, dim)
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.out = nn.Conv2d(dim, dim, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, dim, rows, columns = x.shape
        parts = self.qkv(self.norm(x)).view(batch, 3, self.heads, dim // self.heads, -1)
        q, k, v = parts.transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        out: Tensor = x + self.out(mixed.reshape(batch, dim, rows, columns))
        return out


class DepthNet(nn.Module):
    """Estimate the nearness of a frame."""

    def __init__(self, height: int = 320, width: int = 512) -> None:
        super().__init__()
        fine, middle, coarse = DEPTH_CHANNELS
        self.stem = nn.Conv2d(4 * _CELL**2, fine, 1)
        self.fine = ResBlock(fine)
        self.down1 = nn.Conv2d(4 * fine, middle, 1)
        self.middle = nn.Sequential(ResBlock(middle), ResBlock(middle))
        self.down2 = nn.Conv2d(4 * middle, coarse, 1)
        self.place = nn.Parameter(torch.zeros(coarse, height // 32, width // 32))
        blocks = (ResBlock(coarse), _Attention(coarse), ResBlock(coarse), _Attention(coarse))
        self.coarse = nn.Sequential(*blocks, ResBlock(coarse))
        self.up1 = nn.Conv2d(coarse, 4 * middle, 1)
        self.middle_out = ResBlock(middle)
        self.up2 = nn.Conv2d(middle, 4 * fine, 1)
        self.fine_out = ResBlock(fine)
        self.paint = nn.Conv2d(fine, _SURFACES * _VALUES, 1)
        self.cut = nn.Conv2d(fine, _SURFACES * 3, 1)
        self.likeness = nn.Parameter(torch.tensor(3.0))  # logarithm of how much a color decides

    def surfaces(self, color: Tensor, floor: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return nearness [B, H, W] on the scale of `nearness_to_unit`, and the surfaces' colors.

        color float [B, 3, H, W] in [-1, 1]; floor float [B, H, W] in 1/m, of `floor_nearness`.
        Colors float [B, 3, H, W]. At a temperature of 0 a pixel belongs to one surface; above,
        surfaces blend, as training needs it.
        """
        unit = nearness_to_unit(floor)[:, None]
        x = F.pixel_unshuffle(torch.cat((color, unit), 1), _CELL)
        fine = self.fine(self.stem(x.contiguous(memory_format=torch.channels_last)))
        middle = self.middle(self.down1(F.pixel_unshuffle(fine, 2)))
        coarse = self.coarse(self.down2(F.pixel_unshuffle(middle, 2)) + self.place)
        middle = self.middle_out(middle + F.pixel_shuffle(self.up1(coarse), 2))
        fine = self.fine_out(fine + F.pixel_shuffle(self.up2(middle), 2))
        return self._assign(self.paint(fine).float(), self.cut(fine).float(), color, temperature)

    def _assign(
        self, paint: Tensor, cut: Tensor, color: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        batch, _, rows, columns = paint.shape
        p = paint.view(batch, _SURFACES, _VALUES, rows, columns)
        c = cut.view(batch, _SURFACES, 3, rows, columns)
        logits = spread_planes(c[:, :, 0], _SLOPE * c[:, :, 1], _SLOPE * c[:, :, 2])
        flat = p[:, :, :3].repeat_interleave(_CELL, 3).repeat_interleave(_CELL, 4)
        logits = logits - self.likeness.exp() * (flat - color[:, None]).square().sum(2)
        nearness = spread_planes(p[:, :, 3], p[:, :, 4], p[:, :, 5])
        values = torch.cat((flat, nearness[:, :, None]), 2)
        if temperature > 0:
            mixed = (values * (logits / temperature).softmax(1)[:, :, None]).sum(1)
        else:
            mixed = of_largest(values, logits)
        return mixed[:, 3] + 0.5, mixed[:, :3]

    def forward(self, color: Tensor, floor: Tensor) -> Tensor:
        """Return the nearness of frames, float [B, H, W] in 1/m; arguments as in `surfaces`."""
        return unit_to_nearness(self.surfaces(color, floor, 0.0)[0])
