"""Haar patches: pixels to channels and back by sums and differences that halve each axis.

Band order per level: the letters of LLL, LLH, ... name time, height, width; L = sum,
H = difference; channel = band * channels_in + c. The lowest band is the mean of the patch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["HaarSpace", "HaarSpaceTime"]


def _split(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    even, odd = torch.unflatten(x, axis, (-1, 2)).unbind(axis + 1)
    return (even + odd) * math.sqrt(0.5), (even - odd) * math.sqrt(0.5)


def _merge(low: Tensor, high: Tensor, axis: int) -> Tensor:
    pair = torch.stack([low + high, low - high], dim=axis + 1) * math.sqrt(0.5)
    return pair.flatten(axis, axis + 1)


def _analyse(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Apply one level to [B, T, C, H, W]: C * 2**len(axes) channels, each of `axes` halved."""
    bands = [x]
    for axis in axes:
        bands = [half for band in bands for half in _split(band, axis)]
    return torch.cat(bands, dim=2) * math.sqrt(0.5) ** len(axes)


def _synthesise(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Invert `_analyse`."""
    bands = list((x * math.sqrt(2.0) ** len(axes)).chunk(2 ** len(axes), dim=2))
    for axis in reversed(axes):
        bands = [_merge(low, high, axis) for low, high in zip(bands[::2], bands[1::2], strict=True)]
    return bands[0]


class HaarSpaceTime(nn.Module):
    """Patches of size x size pixels x size frames; the first frame alone fills a patch."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.levels = size.bit_length() - 1

    def split(self, video: Tensor, first: bool) -> Tensor:
        """Split [B, T, C, H, W] into [B, T / size, C * size**3, H / size, W / size].

        T is 1 + k * size at the start of a video (`first`) and k * size later.
        """
        if first:
            video = torch.cat([video[:, :1].expand(-1, self.size - 1, -1, -1, -1), video], dim=1)
        for _ in range(self.levels):
            video = _analyse(video, (1, 3, 4))
        return video

    def join(self, patches: Tensor, first: bool) -> Tensor:
        """Invert `split`."""
        for _ in range(self.levels):
            patches = _synthesise(patches, (1, 3, 4))
        return patches[:, self.size - 1 :] if first else patches


class HaarSpace(nn.Module):
    """Patches of size x size pixels of single frames, folded into the neighbouring convolution.

    The transform is linear, so it and the convolution beside it are one convolution over the plain
    pixels of a patch. Composing the weights costs far less than transforming a frame.
    """

    basis: Tensor  # [bands, pixels]

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        pixels = size * size
        bands = torch.eye(pixels, device="cpu").view(1, pixels, 1, size, size)
        for _ in range(size.bit_length() - 1):
            bands = _analyse(bands, (3, 4))
        self.register_buffer("basis", bands.view(pixels, pixels).T.contiguous(), persistent=False)

    def split_conv(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve the bands of frames [N, C, H, W] with weight [O, bands * C, k, k]."""
        by_band = torch.unflatten(weight, 1, (self.size**2, -1))
        on_pixels = torch.einsum("obckl,bp->ocpkl", by_band, self.basis.to(weight.dtype))
        pixels = F.pixel_unshuffle(frames, self.size)  # c * size**2 + position in the patch
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return _convolve(pixels, on_pixels.flatten(1, 2), bias)

    def conv_join(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the frames whose bands are x convolved with weight [bands * C, I, k, k]."""
        inverse = self.basis.to(weight.dtype) * self.size**2
        by_band = torch.unflatten(weight, 0, (self.size**2, -1))
        to_pixels = torch.einsum("bcikl,bp->cpikl", by_band, inverse).flatten(0, 1)
        if bias is not None:
            by_band = torch.unflatten(bias, 0, (self.size**2, -1))
            bias = torch.einsum("bc,bp->cp", by_band, inverse).flatten()
        rows = _convolve(x, to_pixels, bias).permute(0, 2, 3, 1)
        # [N, h, w, C, size, size]
        pixels = torch.unflatten(rows, 3, (-1, self.size, self.size))
        return pixels.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def join(self, patches: Tensor, first: bool) -> Tensor:
        """Join bands [B, T, bands * C, h, w] to [B, T, C, H, W] where a layer stands in between."""
        for _ in range(self.size.bit_length() - 1):
            patches = _synthesise(patches, (3, 4))
        return patches


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    kernel = weight.shape[-1]
    if kernel == 1:  # a matrix product is faster than conv2d for channels-last data
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, padding=kernel // 2)
