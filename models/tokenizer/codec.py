"""The encoder (frames to latents), the decoder (latents to frames) and the steps between levels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.tokenizer.config import Resample, TokenizerConfig
from worldbridge.models.tokenizer.haar import HaarSpace, HaarSpaceTime
from worldbridge.models.tokenizer.layers import (
    ConvPair,
    Mid,
    Pointwise,
    ResBlock,
    SpatialConv,
    TemporalConv,
    fold,
    make_norm,
    unfold,
)
from worldbridge.models.tokenizer.stream import Pass

__all__ = ["Decoder", "Encoder"]


def _halve_time(conv: TemporalConv, x: Tensor, run: Pass) -> Tensor:
    """Add a strided convolution and the mean of each pair; frame 0 pairs with itself."""
    frames = conv.with_past(unfold(x, run.batch), run)
    pairs = (frames[:, 1:-1:2] + frames[:, 2::2]) / 2
    return fold(conv.over(frames) + pairs)


def _double_time(conv: TemporalConv, x: Tensor, run: Pass) -> Tensor:
    """Repeat every frame but the very first, and add a convolution of the result."""
    frames = unfold(x, run.batch).repeat_interleave(2, dim=1)
    twice = fold(frames[:, 1:] if run.first else frames)
    out: Tensor = twice + conv(twice, run)
    return out


class Downsample(nn.Module):
    """The published step: strided convolution plus mean, in space, then in time."""

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
    """Stack 2x2 positions as channels and mix them by one small matrix; time as published."""

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
    """The published step: repetition plus convolution, in time, then in space."""

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
    """Double time as published; then one small matrix makes the 2x2 positions of each.

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


class Level(nn.Module):
    """Residual blocks, then the step to the next level (called `name`) if there is one."""

    def __init__(self, blocks: list[ResBlock], name: str, step: nn.Module | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.name = name  # of the published parameters
        self.register_module(name, step)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        for block in self.block:
            x = block(x, run)
        step = getattr(self, self.name)
        return x if step is None else step(x, run)


def _patcher(config: TokenizerConfig) -> HaarSpace | HaarSpaceTime:
    return (HaarSpaceTime if config.patch_time else HaarSpace)(config.patch_size)


def _blocks(config: TokenizerConfig, count: int, c_in: int, c_out: int) -> list[ResBlock]:
    temporal = config.temporal_convs == "all"
    inputs = [c_in] + [c_out] * (count - 1)
    return [ResBlock(config, width, c_out, temporal) for width in inputs]


class Encoder(nn.Module):
    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.patcher = _patcher(config)
        everywhere = config.temporal_convs == "all"
        width = config.channels
        patch = config.patch_channels(config.in_channels)
        self.conv_in = ConvPair(patch, width, everywhere, config.in_kernel)
        self.down = nn.ModuleList()
        widths, steps = config.widths(), (*config.down_steps(), Resample())
        for i, step in enumerate(steps):
            blocks = _blocks(config, config.encoder_res_blocks[i], width, widths[i])
            width = widths[i]
            downsample: nn.Module | None = None
            if step and config.downsample == "published":
                downsample = Downsample(width, step)
            elif step:
                downsample = PackDownsample(width, widths[i + 1], step)
                width = widths[i + 1]
            self.down.append(Level(blocks, "downsample", downsample))
        self.mid = Mid(config, width, config.encoder_mid_blocks)
        self.norm_out = make_norm(config.norm, width)
        self.conv_out = ConvPair(width, config.z_channels, everywhere)

    def forward(self, video: Tensor, run: Pass) -> Tensor:
        """Encode a video [B, C, T, H, W] to z [B * t, z_channels, h, w]."""
        x = self._patches(video.transpose(1, 2), run)
        for level in self.down:
            x = level(x, run)
        x = self.mid(x, run)
        z: Tensor = self.conv_out(F.silu(self.norm_out(x)), run)
        return z

    def _patches(self, frames: Tensor, run: Pass) -> Tensor:
        """Return the patches of frames [B, T, C, H, W] after the first convolution."""
        x: Tensor
        conv = self.conv_in.spatial
        if isinstance(self.patcher, HaarSpace):
            x = self.patcher.split_conv(frames.flatten(0, 1), conv.weight(), conv.conv3d.bias)
            return self.conv_in.finish(x, run)
        patches = self.patcher.split(frames, run.first).flatten(0, 1)
        x = self.conv_in(patches.contiguous(memory_format=torch.channels_last), run)
        return x


class Decoder(nn.Module):
    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.patcher = _patcher(config)
        everywhere = config.temporal_convs == "all"
        widths, steps = config.widths(), (Resample(), *config.up_steps())
        width = widths[-1]
        self.conv_in = ConvPair(config.z_channels, width, everywhere)
        self.mid = Mid(config, width, config.decoder_mid_blocks)
        levels = []
        for i, step in reversed(list(enumerate(steps))):
            blocks = _blocks(config, config.decoder_res_blocks[i], width, widths[i])
            width = widths[i]
            upsample: nn.Module | None = None
            if step and config.upsample == "nearest":
                upsample = Upsample(width, step)
            elif step:
                upsample = ShuffleUpsample(width, widths[i - 1], step)
                width = widths[i - 1]
            levels.append(Level(blocks, "upsample", upsample))
        self.up = nn.ModuleList(reversed(levels))  # numbered from the finest, run from the last
        self.norm_out = make_norm(config.norm, width)
        patch = config.patch_channels(config.out_channels)
        self.conv_out = ConvPair(width, patch, everywhere, config.out_kernel)
        if config.zero_init:
            # A pixel is a sum over size**2 bands: start near grey, not far beyond white.
            with torch.no_grad():
                for parameter in self.conv_out.spatial.parameters():
                    parameter.mul_(0.1 / config.patch_size)

    def forward(self, z: Tensor, run: Pass) -> Tensor:
        """Decode z [B * t, z_channels, h, w] to a video [B, C, T, H, W]."""
        return self._frames(self._features(z, run), run).transpose(1, 2)

    def patches(self, z: Tensor, run: Pass) -> Tensor:
        """Decode z [B * t, z_channels, h, w] to Haar patches [B, T, bands * C, h, w]."""
        return torch.unflatten(self.conv_out(self._features(z, run), run), 0, (run.batch, -1))

    def _features(self, z: Tensor, run: Pass) -> Tensor:
        x = self.mid(self.conv_in(z, run), run)
        for level in reversed(self.up):
            x = level(x, run)
        return F.silu(self.norm_out(x))

    def _frames(self, x: Tensor, run: Pass) -> Tensor:
        """Apply the last convolution and return the frames [B, T, C, H, W] of its output."""
        conv = self.conv_out.spatial
        if isinstance(self.patcher, HaarSpace) and len(self.conv_out) == 1:
            x = self.patcher.conv_join(x, conv.weight(), conv.conv3d.bias)
            return torch.unflatten(x, 0, (run.batch, -1))
        patches = torch.unflatten(self.conv_out(x, run), 0, (run.batch, -1))
        return self.patcher.join(patches, run.first)
