"""Encoder (frames -> latents) and decoder (latents -> frames)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.tokenizer.config import Resample, TokenizerConfig
from worldbridge.models.tokenizer.haar import HaarSpace, HaarSpaceTime
from worldbridge.models.tokenizer.layers import ConvPair, Mid, ResBlock, make_norm
from worldbridge.models.tokenizer.resample import (
    Downsample,
    PackDownsample,
    ShuffleUpsample,
    Upsample,
)
from worldbridge.models.tokenizer.stream import Pass

__all__ = ["Decoder", "Encoder"]


def _patcher(config: TokenizerConfig) -> HaarSpace | HaarSpaceTime:
    return (HaarSpaceTime if config.patch_time else HaarSpace)(config.patch_size)


class DownLevel(nn.Module):
    """Residual blocks, then the step to the next coarser level if there is one."""

    def __init__(self, blocks: list[ResBlock], downsample: nn.Module | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        for block in self.block:
            x = block(x, run)
        return x if self.downsample is None else self.downsample(x, run)


class UpLevel(nn.Module):
    """Residual blocks, then the step to the next finer level if there is one."""

    def __init__(self, blocks: list[ResBlock], upsample: nn.Module | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.upsample = upsample

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        for block in self.block:
            x = block(x, run)
        return x if self.upsample is None else self.upsample(x, run)


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
            self.down.append(DownLevel(blocks, downsample))
        self.mid = Mid(config, width, config.encoder_mid_blocks)
        self.norm_out = make_norm(config.norm, width)
        self.conv_out = ConvPair(width, config.z_channels, everywhere)

    def forward(self, video: Tensor, run: Pass) -> Tensor:
        """[B, C, T, H, W] -> z [B * t, z_channels, h, w]."""
        x = self._patches(video.transpose(1, 2), run)
        for level in self.down:
            x = level(x, run)
        x = self.mid(x, run)
        z: Tensor = self.conv_out(F.silu(self.norm_out(x)), run)
        return z

    def _patches(self, frames: Tensor, run: Pass) -> Tensor:
        """Patches of frames [B, T, C, H, W], after the first convolution."""
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
            levels.append(UpLevel(blocks, upsample))
        self.up = nn.ModuleList(reversed(levels))  # numbered from the finest, run from the last
        self.norm_out = make_norm(config.norm, width)
        patch = config.patch_channels(config.out_channels)
        self.conv_out = ConvPair(width, patch, everywhere, config.out_kernel)
        if config.zero_init:
            # A pixel is a sum over size**2 bands: begin near grey, not at many times white.
            with torch.no_grad():
                for parameter in self.conv_out.spatial.parameters():
                    parameter.mul_(0.1 / config.patch_size)

    def forward(self, z: Tensor, run: Pass) -> Tensor:
        """z [B * t, z_channels, h, w] -> [B, C, T, H, W]."""
        return self._frames(self._features(z, run), run).transpose(1, 2)

    def patches(self, z: Tensor, run: Pass) -> Tensor:
        """z [B * t, z_channels, h, w] -> Haar patches [B, T, bands * C, h, w], not yet joined."""
        return torch.unflatten(self.conv_out(self._features(z, run), run), 0, (run.batch, -1))

    def _features(self, z: Tensor, run: Pass) -> Tensor:
        x = self.mid(self.conv_in(z, run), run)
        for level in reversed(self.up):
            x = level(x, run)
        return F.silu(self.norm_out(x))

    def _frames(self, x: Tensor, run: Pass) -> Tensor:
        """The last convolution and the frames [B, T, C, H, W] that its output stands for."""
        conv = self.conv_out.spatial
        if isinstance(self.patcher, HaarSpace) and len(self.conv_out) == 1:
            x = self.patcher.conv_join(x, conv.weight(), conv.conv3d.bias)
            return torch.unflatten(x, 0, (run.batch, -1))
        patches = torch.unflatten(self.conv_out(x, run), 0, (run.batch, -1))
        return self.patcher.join(patches, run.first)
