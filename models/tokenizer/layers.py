"""Convolutions, norms, residual blocks and attention of the tokenizer.

Features are folded: [B * T, C, H, W] in channels_last order, so that spatial layers see frames as
a batch. Temporal layers unfold them to [B, T, H, W, C] without a copy.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.tokenizer.config import TokenizerConfig
from worldbridge.models.tokenizer.stream import Pass

__all__ = [
    "ConvPair",
    "Mid",
    "Pointwise",
    "ResBlock",
    "SpatialConv",
    "TemporalConv",
    "fold",
    "make_norm",
    "unfold",
]


def unfold(x: Tensor, batch: int) -> Tensor:
    """View [B * T, C, H, W] as [B, T, H, W, C]."""
    return torch.unflatten(x.permute(0, 2, 3, 1), 0, (batch, -1))


def fold(x: Tensor) -> Tensor:
    """View [B, T, H, W, C] as [B * T, C, H, W]."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


class _Conv(nn.Module):
    """Hold a Conv3d for its parameters and their published name and shape."""

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(c_in, c_out, kernel)
        # PyTorch's default init shrinks the variance to a third per layer; this one keeps it.
        nn.init.kaiming_uniform_(self.conv3d.weight, nonlinearity="linear")
        # In this memory format conv2d in channels_last reads the weight without a copy.
        self.conv3d.weight.data = self.conv3d.weight.data.contiguous(
            memory_format=torch.channels_last_3d
        )


class SpatialConv(_Conv):
    """(1, k, k) convolution of single frames."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__(c_in, c_out, (1, kernel, kernel))
        self.stride = stride
        self.padding = kernel // 2 if padding is None else padding

    def weight(self) -> Tensor:
        """Return the weight as [O, I, k, k]."""
        return self.conv3d.weight.squeeze(2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), self.conv3d.bias, self.stride, self.padding)


class Pointwise(_Conv):
    """(1, 1, 1) convolution as a matrix product, which beats conv2d for channels-last data."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def mix(self, x: Tensor) -> Tensor:
        """Map [..., C_in] to [..., C_out]."""
        return F.linear(x, self.conv3d.weight.flatten(1), self.conv3d.bias)


class TemporalConv(_Conv):
    """(3, 1, 1) convolution that sees a frame and the two before it.

    Copies of the first frame precede it. With stride 2, outputs are at frames 0, 2, 4...
    """

    key: str  # of this layer's cache, set by the tokenizer

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, (3, 1, 1))
        self.stride = stride

    def with_past(self, x: Tensor, run: Pass) -> Tensor:
        """Return x [B, T, H, W, C] preceded by the past frames that this chunk needs."""
        past = x[:, :1].expand(-1, 2, -1, -1, -1) if run.first else run.recall(self.key)
        frames = torch.cat([past, x], dim=1)
        run.keep(self.key, frames[:, -(3 - self.stride) :])
        return frames

    def over(self, frames: Tensor) -> Tensor:
        """Convolve frames [B, T + 2, H, W, C] to [B, T / stride, H, W, C_out]."""
        count = frames.shape[1] - 2
        taps = [frames[:, i : i + count : self.stride] for i in range(3)]
        weight = self.conv3d.weight.flatten(2).transpose(1, 2).flatten(1)  # [O, 3 * I]
        return F.linear(torch.cat(taps, dim=-1), weight, self.conv3d.bias)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        return fold(self.over(self.with_past(unfold(x, run.batch), run)))


class ConvPair(nn.ModuleList):
    """Spatial convolution, then a temporal one unless left out."""

    def __init__(self, c_in: int, c_out: int, temporal: bool, kernel: int = 3) -> None:
        super().__init__([SpatialConv(c_in, c_out, kernel)])
        if temporal:
            self.append(TemporalConv(c_out, c_out))

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        return self.finish(self.spatial(x), run)

    @property
    def spatial(self) -> SpatialConv:
        first = self[0]
        assert isinstance(first, SpatialConv)
        return first

    def finish(self, x: Tensor, run: Pass) -> Tensor:
        """Apply the temporal half alone."""
        if len(self) > 1:
            x = self[1](x, run)
        return x

    def zero(self) -> None:
        """Make the output zero by the last half only: with both at zero neither would learn."""
        last = self[len(self) - 1]
        assert isinstance(last, _Conv)
        nn.init.zeros_(last.conv3d.weight)


class GroupNorm(nn.Module):
    """Normalize a whole frame as one group."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


class RmsNorm(nn.Module):
    """Normalize each position by the root mean square of its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


def make_norm(kind: Literal["group", "rms"], channels: int) -> nn.Module:
    return GroupNorm(channels) if kind == "group" else RmsNorm(channels)


class ResBlock(nn.Module):
    def __init__(self, config: TokenizerConfig, c_in: int, c_out: int, temporal: bool) -> None:
        super().__init__()
        self.norm1 = make_norm(config.norm, c_in)
        self.conv1 = ConvPair(c_in, c_out, temporal)
        self.norm2 = make_norm(config.norm, c_out)
        self.conv2 = ConvPair(c_out, c_out, temporal)
        self.nin_shortcut = Pointwise(c_in, c_out) if c_in != c_out else None
        if config.zero_init:
            self.conv2.zero()

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)), run)
        y = self.conv2(F.silu(self.norm2(y)), run)
        skip = x if self.nin_shortcut is None else self.nin_shortcut(x)
        total: Tensor = skip + y
        return total


class Attention(nn.Module):
    """Single-head attention with a residual; subclasses define what attends to what."""

    def __init__(self, config: TokenizerConfig, channels: int) -> None:
        super().__init__()
        self.norm = make_norm(config.norm, channels)
        self.q = Pointwise(channels, channels)
        self.k = Pointwise(channels, channels)
        self.v = Pointwise(channels, channels)
        self.proj_out = Pointwise(channels, channels)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        y = self.norm(x)
        mixed = self.mix(self.q(y), self.k(y), self.v(y), run)
        out: Tensor = self.proj_out(mixed)
        return x + out

    def mix(self, q: Tensor, k: Tensor, v: Tensor, run: Pass) -> Tensor:
        raise NotImplementedError


class SpatialAttention(Attention):
    """Let every position of a frame attend to all positions of that frame."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, run: Pass) -> Tensor:
        query, key, value = (x.permute(0, 2, 3, 1).flatten(1, 2).unsqueeze(1) for x in (q, k, v))
        y = F.scaled_dot_product_attention(query, key, value).squeeze(1)  # [B * T, H * W, C]
        return torch.unflatten(y, 1, q.shape[-2:]).permute(0, 3, 1, 2)


class TemporalAttention(Attention):
    """Let every position attend to itself at this and the `window` latents before."""

    key: str  # set by the tokenizer

    def mix(self, q: Tensor, k: Tensor, v: Tensor, run: Pass) -> Tensor:
        query, key, value = (self._by_pixel(x, run.batch) for x in (q, k, v))
        if not run.first:
            key = torch.cat([run.recall(f"{self.key}.k"), key], dim=1)
            value = torch.cat([run.recall(f"{self.key}.v"), value], dim=1)
        mask = run.mask(query.shape[1], key.shape[1], query.device)
        kept = key.shape[1] if run.window is None else min(run.window, key.shape[1])
        run.keep(f"{self.key}.k", key[:, key.shape[1] - kept :])
        run.keep(f"{self.key}.v", value[:, value.shape[1] - kept :])
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # [B, H * W, T, C]
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return fold(torch.unflatten(y.transpose(1, 2), 2, q.shape[-2:]))

    @staticmethod
    def _by_pixel(x: Tensor, batch: int) -> Tensor:
        return unfold(x, batch).flatten(2, 3)  # [B, T, H * W, C]


class Mid(nn.Module):
    """The coarsest level: block, attention, block, as the configuration has them."""

    def __init__(self, config: TokenizerConfig, channels: int, blocks: int) -> None:
        super().__init__()
        temporal = config.temporal_convs != "none"
        self.block_1 = ResBlock(config, channels, channels, temporal)
        if config.attention:
            self.attn_1 = nn.ModuleList(
                [SpatialAttention(config, channels), TemporalAttention(config, channels)]
            )
        if blocks > 1:
            self.block_2 = ResBlock(config, channels, channels, temporal)
        self.order = [
            self.block_1,
            *(self.attn_1 if config.attention else []),
            *([self.block_2] if blocks > 1 else []),
        ]

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        for layer in self.order:
            x = layer(x, run)
        return x
