"""Steps between two levels of the encoder or decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.tokenizer.config import Resample
from worldbridge.models.tokenizer.layers import Pointwise, SpatialConv, TemporalConv, fold, unfold
from worldbridge.models.tokenizer.stream import Pass

__all__ = ["Downsample", "PackDownsample", "ShuffleUpsample", "Upsample"]


def _halve_time(conv: TemporalConv, x: Tensor, run: Pass) -> Tensor:
    """Strided convolution plus the mean of each pair; frame 0 is a pair with itself."""
    frames = conv.with_past(unfold(x, run.batch), run)
    pairs = (frames[:, 1:-1:2] + frames[:, 2::2]) / 2
    return fold(conv.over(frames) + pairs)


def _double_time(conv: TemporalConv, x: Tensor, run: Pass) -> Tensor:
    """Every frame twice, but the very first once; plus a convolution of that."""
    frames = unfold(x, run.batch).repeat_interleave(2, dim=1)
    twice = fold(frames[:, 1:] if run.first else frames)
    out: Tensor = twice + conv(twice, run)
    return out


class Downsample(nn.Module):
    """As published: strided convolution plus mean, in space, then in time."""

    def __init__(self, channels: int, step: Resample) -> None:
        super().__init__()
        self.conv1 = SpatialConv(channels, channels, stride=2, padding=0) if step.space else None
        self.conv2 = TemporalConv(channels, channels, stride=2) if step.time else None
        self.conv3 = Pointwise(channels, channels)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        if self.conv1 is not None:
            padded = F.pad(x, (0, 1, 0, 1))
            x = self.conv1(padded) + F.avg_pool2d(x, 2)
        if self.conv2 is not None:
            x = _halve_time(self.conv2, x, run)
        y: Tensor = self.conv3(x)
        return y


class PackDownsample(nn.Module):
    """2x2 positions stacked as channels and mixed by one small matrix; then time as published."""

    def __init__(self, c_in: int, c_out: int, step: Resample) -> None:
        super().__init__()
        self.space = step.space
        self.pack = Pointwise(c_in * (4 if step.space else 1), c_out)
        self.conv2 = TemporalConv(c_out, c_out, stride=2) if step.time else None

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        rows = x.permute(0, 2, 3, 1)
        if self.space:
            # [N, h, 2, w, 2, C]
            squares = torch.unflatten(torch.unflatten(rows, 2, (-1, 2)), 1, (-1, 2))
            rows = squares.transpose(2, 3).flatten(3)
        x = self.pack.mix(rows).permute(0, 3, 1, 2)
        return x if self.conv2 is None else _halve_time(self.conv2, x, run)


class Upsample(nn.Module):
    """As published: repeat plus convolution, in time, then in space."""

    def __init__(self, channels: int, step: Resample) -> None:
        super().__init__()
        self.conv1 = TemporalConv(channels, channels) if step.time else None
        self.conv2 = SpatialConv(channels, channels) if step.space else None
        self.conv3 = Pointwise(channels, channels)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        if self.conv1 is not None:
            x = _double_time(self.conv1, x, run)
        if self.conv2 is not None:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = x + self.conv2(x)
        y: Tensor = self.conv3(x)
        return y


class ShuffleUpsample(nn.Module):
    """Time as published; then one small matrix makes the 2x2 positions of each.

    Positions are the slower axis of the packed channels, so that whole rows of channels move.
    """

    def __init__(self, c_in: int, c_out: int, step: Resample) -> None:
        super().__init__()
        self.space = step.space
        self.conv1 = TemporalConv(c_in, c_in) if step.time else None
        self.expand = Pointwise(c_in, c_out * (4 if step.space else 1))

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        if self.conv1 is not None:
            x = _double_time(self.conv1, x, run)
        rows = self.expand.mix(x.permute(0, 2, 3, 1))
        if self.space:
            squares = torch.unflatten(rows, 3, (2, 2, -1))  # [N, h, w, 2, 2, C]
            rows = squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return rows.permute(0, 3, 1, 2)
