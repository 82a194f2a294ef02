"""Token grids that can be decoded along diagonals: input features, factorised codes, masks.

A slot (r, c) of a latent predicts token (r, c). Its input is the token to its left (or the
learned start of row r), the token above, and a neighbourhood of the previous latents. With
window k, slot (r, c) runs in step s = c + r * k and sees the slots of its own and earlier rows
that ran in steps <= s, so that decoding row by row in raster order sees exactly the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.transformer.config import TransformerConfig, WavefrontConfig

__all__ = [
    "ClipWindow",
    "DigitEmbedding",
    "DigitHead",
    "FactorisedEmbedding",
    "code_digits",
    "diagonal_step",
    "digit_rows",
    "slot_mask",
]


def code_digits(codes: Tensor, levels: tuple[int, ...]) -> Tensor:
    """FSQ digits [..., D] of codes [...]; the first digit is the fastest."""
    digits = []
    for level in levels:
        digits.append(codes % level)
        codes = codes // level
    return torch.stack(digits, dim=-1)


def digit_rows(codes: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Rows [..., D] of codes [...] in a table that stacks one block of rows per digit."""
    offsets = [sum(levels[:i]) for i in range(len(levels))]
    return code_digits(codes, levels) + torch.tensor(offsets, device=codes.device)


class DigitEmbedding(nn.Module):
    """The sum of one row per FSQ digit.

    Codes that share digits share most of their embedding, so a vocabulary of a quarter of a million
    codes is learned from few frames.
    """

    def __init__(self, levels: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.levels = levels
        self.weight = nn.Parameter(torch.randn(sum(levels), dim) * 0.5 / len(levels) ** 0.5)

    def forward(self, codes: Tensor) -> Tensor:
        rows = digit_rows(codes, self.levels)
        out = F.embedding_bag(rows.flatten(0, -2), self.weight, mode="sum")
        return out.view(*codes.shape, -1)


class DigitHead(nn.Module):
    """The distribution of a code, digit by digit: each digit sees the ones before it.

    logits of digit d = W_d silu(A x + place_d + sum of the embeddings of digits < d). Exact (the
    chain rule), and a few small products instead of one with a quarter of a million rows.
    """

    def __init__(self, levels: tuple[int, ...], dim: int, hidden: int) -> None:
        super().__init__()
        self.levels = levels
        self.project = nn.Linear(dim, hidden, bias=False)
        self.place = nn.Parameter(torch.zeros(len(levels), hidden))
        self.earlier = nn.Parameter(torch.randn(sum(levels), hidden) * 0.1)
        self.weight = nn.Parameter(torch.randn(sum(levels), hidden) * 0.02)
        self.bias = nn.Parameter(torch.zeros(sum(levels)))

    def forward(self, x: Tensor, codes: Tensor) -> list[Tensor]:
        """x [N, dim], codes [N] -> log-probabilities of each digit, [N, level] each."""
        state = self.project(x)
        rows = digit_rows(codes, self.levels)
        result, first = [], 0
        for d, level in enumerate(self.levels):
            block = slice(first, first + level)
            logits = F.linear(F.silu(state + self.place[d]), self.weight[block], self.bias[block])
            result.append(logits.log_softmax(-1))
            state = state + F.embedding(rows[:, d], self.earlier)
            first += level
        return result

    @torch.no_grad()
    def draw(self, x: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Codes [N] drawn independently for x [N, dim]; for training, not for decoding."""
        state = self.project(x)
        codes = torch.zeros(len(x), dtype=torch.long, device=x.device)
        first, basis = 0, 1
        for d, level in enumerate(self.levels):
            block = slice(first, first + level)
            logits = F.linear(F.silu(state + self.place[d]), self.weight[block], self.bias[block])
            uniform = torch.rand(logits.shape, generator=generator).clamp_min(1e-12)
            digit = (logits / temperature - (-uniform.log()).log().to(logits)).argmax(-1)
            codes += digit * basis
            state = state + F.embedding(digit + first, self.earlier)
            first, basis = first + level, basis * level
        return codes

    def nll(self, x: Tensor, codes: Tensor) -> Tensor:
        """Mean negative log-likelihood of a code, in nats: x [N, dim], codes [N]."""
        digits = code_digits(codes, self.levels)
        parts = self(x, codes)
        return sum(
            (F.nll_loss(p, digits[:, d]) for d, p in enumerate(parts)), torch.zeros(()).to(x)
        )


class FactorisedEmbedding(nn.Module):
    """Inputs of the slots of a latent."""

    def __init__(self, config: TransformerConfig, grid: WavefrontConfig) -> None:
        super().__init__()
        _, height, width = config.latent_shape
        self.levels = grid.fsq_levels
        self.history = grid.previous_latents
        self.left = DigitEmbedding(grid.fsq_levels, config.dim)
        self.above = DigitEmbedding(grid.fsq_levels, config.dim)
        self.row_start = nn.Parameter(torch.randn(height, config.dim) * 0.5)
        self.place = nn.Parameter(torch.randn(height, width, config.dim) * 0.1)
        channels = sum(grid.fsq_levels) * grid.previous_latents
        kernel = grid.previous_kernel
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.previous = nn.Conv2d(channels, config.dim, kernel, padding=padding)
        self.previous_condition = nn.Linear(max(config.condition_hidden, 1), 2 * config.dim)
        self.previous_out = nn.Linear(config.dim, config.dim)

    def one_hot(self, codes: Tensor) -> Tensor:
        """codes [N, H, W] (-1 = there is none) -> [N, sum(levels), H, W] float."""
        digits = code_digits(codes.clamp_min(0), self.levels)
        parts = [F.one_hot(digits[..., i], n) for i, n in enumerate(self.levels)]
        hot = torch.cat(parts, dim=-1) * (codes >= 0)[..., None]
        return hot.movedim(-1, 1).to(self.place.dtype)

    def neighbourhood(self, previous: Tensor, condition: Tensor) -> Tensor:
        """previous [N, history, H, W] codes, newest first; condition [N, C] -> [N, H, W, dim]."""
        hot = self.one_hot(previous.flatten(0, 1)).unflatten(0, previous.shape[:2]).flatten(1, 2)
        scale, shift = self.previous_condition(condition)[:, None, None].chunk(2, dim=-1)
        features = self.previous(hot).movedim(1, -1)
        return self.previous_out(F.silu(features * (1 + scale) + shift)) + self.place

    def forward(self, codes: Tensor, previous: Tensor, condition: Tensor) -> Tensor:
        """Teacher-forced inputs: codes [N, H, W] -> slots [N, H, W, dim]."""
        left = F.pad(self.left(codes)[:, :, :-1], (0, 0, 1, 0))
        starts = torch.zeros_like(left)
        starts[:, :, 0] = self.row_start
        above = F.pad(self.above(codes)[:, :-1], (0, 0, 0, 0, 1, 0))
        return left + starts + above + self.neighbourhood(previous, condition)


def diagonal_step(height: int, width: int, k: int) -> Tensor:
    """The decoding step of every slot, [H, W]."""
    return torch.arange(width)[None, :] + k * torch.arange(height)[:, None]


def slot_mask(height: int, width: int, k: int) -> Tensor:
    """[H*W, H*W] bool: which slots of its own latent a slot sees."""
    step = diagonal_step(height, width, k).flatten()
    row = torch.arange(height).repeat_interleave(width)
    return (row[None, :] <= row[:, None]) & (step[None, :] <= step[:, None])


class ClipWindow:
    """Windowed attention of a clip: every latent sees itself by `slot_mask` and those before.

    Works on blocks of one latent, so the cost grows with the window, not with the clip.
    """

    def __init__(
        self, frames: int, height: int, width: int, grid: WavefrontConfig, device: torch.device
    ) -> None:
        self.window = min(grid.window_frames, frames)
        slots = height * width
        own = slot_mask(height, width, grid.diagonal)
        past = torch.ones(slots, (self.window - 1) * slots, dtype=torch.bool)
        mask = torch.cat([past, own], dim=1).expand(frames, -1, -1).clone()
        for t in range(min(self.window - 1, frames)):  # before the first latent there is nothing
            mask[t, :, : (self.window - 1 - t) * slots] = False
        self.mask = mask.to(device)  # [frames, slots, window * slots]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return [B, T, S, H * D] for q [B, T, H, S, D], k and v [B, T, Hkv, S, D]."""
        batch, frames = q.shape[:2]
        keys, values = (self._reach(x).flatten(0, 1) for x in (k, v))
        out = F.scaled_dot_product_attention(
            q.flatten(0, 1),
            keys,
            values,
            attn_mask=self.mask.repeat(batch, 1, 1)[:, None],
            enable_gqa=q.shape[2] != k.shape[2],
        )
        return out.transpose(1, 2).flatten(2).unflatten(0, (batch, frames))

    def _reach(self, x: Tensor) -> Tensor:
        """[B, T, H, S, D] -> [B, T, H, window * S, D], oldest first."""
        frames = x.shape[1]
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, self.window - 1, 0))
        return torch.cat([padded[:, i : i + frames] for i in range(self.window)], dim=3)
