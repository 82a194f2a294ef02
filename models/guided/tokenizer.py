"""The guided tokenizer: codes for blocks that hold something new, given what the memory shows.

Encoder and decoder see the guide, so a code says only what the guide does not. The decoder draws an
8 x 8 cell as a few surfaces with straight borders, each of one colour and a plane in nearness; a
pixel that the memory shows is passed through unchanged.

The guide and the delta codes follow Infinite Nature (arXiv 2012.09855), GEN3C (2503.03751) and
delta-IRIS (2406.19320).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.guided.config import (
    GUIDE_CHANNELS,
    GuidedConfig,
    nearness_to_unit,
    unit_to_nearness,
)
from worldbridge.models.tokenizer.fsq import FSQ

__all__ = ["Drawn", "GuideFeatures", "GuidedTokenizer", "ResBlock", "of_largest", "spread_planes"]

_CELL = 8
# Colour 3, nearness 1, and the nearness' gradients down and across. Colours have no gradients: with
# them a cell is drawn as one blurred surface, and borders are never learned.
_SURFACE = 6
# How much a slope of 1 changes a border's logit over a cell: borders move far at small weights.
_SLOPE = 4.0


class GuideFeatures(NamedTuple):
    """Features of a guide, [B, trunk_dim, H / 8, W / 8] and [B, guide_dim, H / 16, W / 16]."""

    fine: Tensor
    coarse: Tensor


class Drawn(NamedTuple):
    """A decoded frame: color float [B, 3, H, W] in [-1, 1], nearness float [B, H, W] in [0, 1].

    nearness is on the scale of `nearness_to_unit`.
    """

    color: Tensor
    nearness: Tensor


def of_largest(values: Tensor, logits: Tensor) -> Tensor:
    """Return the values [B, V, H, W] of the surface with the largest logit, the first of equals.

    values [B, K, V, H, W]; logits [B, K, H, W]. On a CPU it takes half the time of `argmax`, which
    is slow along any axis but the last, and `gather`.
    """
    best, chosen = logits[:, 0], values[:, 0]
    for k in range(1, logits.shape[1]):
        better = logits[:, k] > best
        chosen = torch.where(better[:, None], values[:, k], chosen)
        best = torch.maximum(best, logits[:, k])
    return chosen


def _ramp(device: torch.device) -> Tensor:
    return (torch.arange(_CELL, dtype=torch.float32, device=device) + 0.5) / _CELL - 0.5


def spread_planes(base: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Spread [B, K, rows, columns] over cells of 8 x 8 pixels, [B, K, H, W], with slopes.

    `down` and `across` are how much a value changes over a cell.
    """
    ramp = _ramp(base.device)
    plane = (
        base[..., :, None, :, None]
        + down[..., :, None, :, None] * ramp[:, None, None]
        + across[..., :, None, :, None] * ramp
    )
    rows, columns = base.shape[-2:]
    return plane.reshape(*base.shape[:2], rows * _CELL, columns * _CELL)


class _Norm(nn.Module):
    """RMS norm over the channels of every place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        power = x.square().mean(1, keepdim=True)
        return x * (power + 1e-6).rsqrt() * self.scale[:, None, None]


class ResBlock(nn.Module):
    """Norm, 3 x 3 convolution, SiLU, norm, 3 x 3 convolution; the sum starts as the input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _Norm(dim), _Norm(dim)
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.norm1(x))
        out: Tensor = x + self.conv2(F.silu(self.norm2(F.silu(y))))
        return out


class _Trunk(nn.Module):
    """Features of the guide at 8 and 16 pixels."""

    def __init__(self, config: GuidedConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(GUIDE_CHANNELS * _CELL**2, config.trunk_dim, 1)
        self.fine = ResBlock(config.trunk_dim)
        self.down = nn.Conv2d(config.trunk_dim * 4, config.guide_dim, 1)
        self.coarse = nn.Sequential(ResBlock(config.guide_dim), ResBlock(config.guide_dim))

    def forward(self, guide: Tensor) -> GuideFeatures:
        fine = self.fine(self.stem(F.pixel_unshuffle(guide, _CELL)))
        return GuideFeatures(fine, self.coarse(self.down(F.pixel_unshuffle(fine, 2))))


class _Encoder(nn.Module):
    def __init__(self, config: GuidedConfig) -> None:
        super().__init__()
        dim = config.block_dim
        # Colour 3, nearness, whether it is known, and whether the pixel is new.
        self.stem = nn.Conv2d(6 * _CELL**2, config.fine_dim, 1)
        self.guide_fine = nn.Conv2d(config.trunk_dim, config.fine_dim, 1)
        self.fine = ResBlock(config.fine_dim)
        self.down = nn.Conv2d(config.fine_dim * 4, dim, 1)
        self.guide_coarse = nn.Conv2d(config.guide_dim, dim, 1)
        self.blocks = nn.Sequential(*(ResBlock(dim) for _ in range(config.blocks)))
        # Without this norm the projection grows until tanh saturates and the codes die.
        self.norm = _Norm(dim)
        self.project = nn.Conv2d(dim, config.digits, 1)

    def forward(self, frame: Tensor, features: GuideFeatures) -> Tensor:
        x = self.stem(F.pixel_unshuffle(frame, _CELL)) + self.guide_fine(features.fine)
        x = self.down(F.pixel_unshuffle(self.fine(x), 2)) + self.guide_coarse(features.coarse)
        z: Tensor = self.project(self.norm(self.blocks(x)))
        return z


class _Decoder(nn.Module):
    def __init__(self, config: GuidedConfig) -> None:
        super().__init__()
        dim, fine, k = config.block_dim, config.fine_dim, config.surfaces
        self.surfaces = k
        self.stem = nn.Conv2d(config.digits + 1, dim, 1)
        self.guide_coarse = nn.Conv2d(config.guide_dim, dim, 1)
        self.blocks = nn.Sequential(*(ResBlock(dim) for _ in range(config.blocks)))
        self.up = nn.Conv2d(dim, fine * 4, 1)
        self.guide_fine = nn.Conv2d(config.trunk_dim, fine, 1)
        self.fine = ResBlock(fine)
        self.norm = _Norm(fine)
        self.paint = nn.Conv2d(fine, k * _SURFACE, 1)
        self.cut = nn.Conv2d(fine, k * 3, 1)

    def forward(
        self, codes: Tensor, active: Tensor, features: GuideFeatures, temperature: float
    ) -> Drawn:
        return self._paint(*self.cells(codes, active, features), temperature)

    def cells(
        self, codes: Tensor, active: Tensor, features: GuideFeatures
    ) -> tuple[Tensor, Tensor]:
        """Return the surfaces of each cell, and what decides whose pixel it is."""
        known = active[:, None].to(codes.dtype)
        x = self.stem(torch.cat((codes * known, known), 1)) + self.guide_coarse(features.coarse)
        x = F.pixel_shuffle(self.up(self.blocks(x)), 2) + self.guide_fine(features.fine)
        x = self.norm(self.fine(x))
        return self.paint(x), self.cut(x)

    def pixels(self, paint: Tensor, cut: Tensor, where: Tensor) -> Tensor:
        """Return color and nearness [n, 4] of the pixels `where` [H, W], as `_paint` has them."""
        row, column = where.nonzero().unbind(1)
        ramp = _ramp(where.device)
        down, across = ramp[row % _CELL], ramp[column % _CELL]
        cell = row // _CELL * paint.shape[3] + column // _CELL
        p = paint[0].flatten(1).T[cell].view(-1, self.surfaces, _SURFACE)
        c = cut[0].flatten(1).T[cell].view(-1, self.surfaces, 3)
        logits = (
            c[..., 0] + _SLOPE * c[..., 1] * down[:, None] + _SLOPE * c[..., 2] * across[:, None]
        )
        chosen = logits.argmax(1)[:, None, None].expand(-1, 1, _SURFACE)
        own = p.gather(1, chosen)[:, 0]
        nearness = own[:, 3] + own[:, 4] * down + own[:, 5] * across
        return torch.cat((own[:, :3], nearness[:, None] + 0.5), 1)

    def _paint(self, paint: Tensor, cut: Tensor, temperature: float) -> Drawn:
        batch, _, rows, columns = paint.shape
        k = self.surfaces
        # Whose pixel it is, is decided by linear functions over the cell: borders are straight.
        c = cut.view(batch, k, 3, rows, columns)
        logits = spread_planes(c[:, :, 0], _SLOPE * c[:, :, 1], _SLOPE * c[:, :, 2])
        p = paint.view(batch, k, _SURFACE, rows, columns)
        nearness = spread_planes(p[:, :, 3], p[:, :, 4], p[:, :, 5])
        flat = p[:, :, :3].repeat_interleave(_CELL, 3).repeat_interleave(_CELL, 4)
        values = torch.cat((flat, nearness[:, :, None]), 2)
        if temperature > 0:
            share = (logits / temperature).softmax(1)
            mixed = (values * share[:, :, None]).sum(1)
        else:
            mixed = of_largest(values, logits)
        return Drawn(mixed[:, :3], mixed[:, 3] + 0.5)


class GuidedTokenizer(nn.Module):
    """Encode what is new in a frame into codes, and decode codes beside a guide into a frame."""

    def __init__(self, config: GuidedConfig | None = None) -> None:
        super().__init__()
        self.config = config or GuidedConfig()
        self.trunk = _Trunk(self.config)
        self.encoder = _Encoder(self.config)
        self.decoder = _Decoder(self.config)
        self.fsq = FSQ([self.config.levels] * self.config.digits)
        for weight in self.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def guide_features(self, guide: Tensor) -> GuideFeatures:
        """Return the trunk's features of a guide [B, 6, H, W], as `make_guide` builds it."""
        features: GuideFeatures = self.trunk(guide.contiguous(memory_format=torch.channels_last))
        return features

    def latent(
        self, color: Tensor, nearness: Tensor | None, guide: Tensor, features: GuideFeatures
    ) -> Tensor:
        """Return the unquantized latent [B, digits, H / 16, W / 16] of a frame.

        color float [B, 3, H, W] in [-1, 1]; nearness float [B, H, W] in 1/m, or None where the
        depth of the frame is not known.
        """
        known = torch.ones_like(color[:, :1]) if nearness is not None else color[:, :1] * 0
        unit = known * 0 if nearness is None else nearness_to_unit(nearness)[:, None]
        new = 1.0 - guide[:, 4:5]
        frame = torch.cat((color, unit, known, new), 1)
        z: Tensor = self.encoder(frame.contiguous(memory_format=torch.channels_last), features)
        return z

    def encode(
        self, color: Tensor, nearness: Tensor | None, guide: Tensor, features: GuideFeatures
    ) -> Tensor:
        """Return the digits of a frame's blocks, uint8 [B, H / 16, W / 16, digits].

        Arguments as in `latent`. Digits of blocks that hold nothing new mean nothing.
        """
        codes = self.fsq.quantize(self.latent(color, nearness, guide, features).movedim(1, -1))
        half = self.config.null_digit
        return (codes * half).round().add(half).to(torch.uint8)

    def codes(self, digits: Tensor) -> Tensor:
        """Return codes float32 [B, digits, rows, columns] of digits [B, rows, columns, digits]."""
        half = self.config.null_digit
        return ((digits.float() - half) / half).movedim(-1, 1)

    def paint(
        self, codes: Tensor, active: Tensor, features: GuideFeatures, temperature: float = 0.0
    ) -> Drawn:
        """Decode codes [B, digits, rows, columns]; every pixel is the network's own.

        active bool [B, rows, columns]; codes elsewhere are not read. A temperature of 0 gives every
        pixel to one surface; above, surfaces blend, as training needs it.
        """
        drawn: Drawn = self.decoder(
            codes.contiguous(memory_format=torch.channels_last), active, features, temperature
        )
        return drawn

    def decode(
        self, digits: Tensor, active: Tensor, guide: Tensor, features: GuideFeatures
    ) -> tuple[Tensor, Tensor]:
        """Decode digits into color float [B, 3, H, W] in [-1, 1] and nearness [B, H, W] in 1/m.

        digits [B, rows, columns, digits]; active bool [B, rows, columns]. Pixels that the guide
        shows are the guide's.
        """
        drawn = self.paint(self.codes(digits), active, features)
        seen = guide[:, 4] > 0
        color = torch.where(seen[:, None], guide[:, :3], drawn.color.clamp(-1.0, 1.0))
        nearness = unit_to_nearness(torch.where(seen, guide[:, 3], drawn.nearness))
        return color, nearness

    def decode_pixels(
        self, digits: Tensor, active: Tensor, features: GuideFeatures, where: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode some pixels of one frame: color [n, 3] and nearness [n], as `decode` has them.

        digits [1, rows, columns, digits]; active bool [1, rows, columns]; where bool [H, W], none
        of them a pixel that the guide shows. Pixels come in the order of rows.
        """
        codes = self.codes(digits).contiguous(memory_format=torch.channels_last)
        found = self.decoder.pixels(*self.decoder.cells(codes, active, features), where)
        return found[:, :3].clamp(-1.0, 1.0), unit_to_nearness(found[:, 3])
