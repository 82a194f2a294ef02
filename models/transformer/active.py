"""Drawing codes for the active blocks of a latent alone: their order, inputs and attention.

A block that the spatial memory shows is never drawn: its code is the null code by rule. Active
blocks are drawn from what is known towards what is not, and from the middle of the frame outwards:
ground and sky of a new strip are drawn at the same time, both after its horizon. Blocks that touch
are never drawn in one step, so whatever runs across several blocks is drawn by blocks that see each
other. What is drawn in one step sees what was drawn in the steps before it, so drawing block by
block in the same order gives the same codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.transformer.config import TransformerConfig, WavefrontConfig

__all__ = ["ActiveLayout", "GuidedInput", "draw_order", "known_neighbours", "neighbour_digits"]

# Rows and columns from a block to its neighbours: the sides first, then the corners.
_AROUND = ((0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


def draw_order(active: Tensor) -> Tensor:
    """Return the step in which each block is drawn, int64 [B, H, W]; -1 where nothing is drawn.

    active bool [B, H, W]. Steps of a latent are consecutive from 0. Regions that do not touch each
    other begin at the same time. Blocks that share a side are drawn in different steps. Where
    nothing is known, as in a first frame, the middle block is drawn first.
    """
    height, width = active.shape[1:]
    known = ~active
    empty = ~known.flatten(1).any(1)
    known[empty, height // 2, width // 2] = True
    rows = (torch.arange(height, device=active.device) - height // 2).abs()[:, None]
    columns = (torch.arange(width, device=active.device) - width // 2).abs()
    # Twice the distance keeps the parity of rows and columns: it differs between neighbours.
    order = rows + columns + 2 * _distance(known)
    return _consecutive(torch.where(active, order - _region_least(order, active), -1))


def _distance(known: Tensor) -> Tensor:
    """Return how many blocks, also diagonally, each block is from a known one, int64 [B, H, W]."""
    distance, reached = torch.zeros_like(known, dtype=torch.long), known
    while not bool(reached.all()):
        distance += ~reached
        reached = F.max_pool2d(reached[:, None].float(), 3, 1, 1)[:, 0] > 0
    return distance


def _region_least(order: Tensor, active: Tensor) -> Tensor:
    """Return the least order of the region of active blocks that touch, [B, H, W]; rounded to even.

    An even difference keeps the parity of blocks.
    """
    far = float(order.max()) + 1.0
    least = torch.where(active, order.float(), far)
    while True:
        grown = -F.max_pool2d(-least[:, None], 3, 1, 1)[:, 0]
        grown = torch.where(active, grown, far)
        if bool((grown == least).all()):
            return least.long() // 2 * 2
        least = grown


def _consecutive(step: Tensor) -> Tensor:
    """Renumber the steps of every latent so that none is empty."""
    flat = step.flatten(1)
    most = int(flat.max()) + 1
    if most <= 0:
        return step
    used = torch.zeros(len(flat), most + 1, dtype=torch.long, device=step.device)
    used.scatter_(1, flat + 1, 1)
    number = used[:, 1:].cumsum(1) - 1
    result = number.gather(1, flat.clamp_min(0))
    return torch.where(flat < 0, -1, result).view_as(step)


@dataclass(frozen=True, slots=True)
class ActiveLayout:
    """Active blocks of a batch of latents as padded rows, in the order in which they are drawn.

    slots int64 [B, N] into H * W; step int64 [B, N]; valid bool [B, N].
    """

    slots: Tensor
    step: Tensor
    valid: Tensor

    @classmethod
    def of(cls, order: Tensor) -> ActiveLayout:
        """Return the rows of an order [B, H, W] of `draw_order`."""
        flat = order.flatten(1)
        last = torch.iinfo(torch.int64).max
        count = int((flat >= 0).sum(1).max())
        key = torch.where(flat < 0, last, flat)
        slots = key.argsort(dim=1, stable=True)[:, :count]
        step = flat.gather(1, slots)
        return cls(slots, step, step >= 0)

    def mask(self, summary: int) -> Tensor:
        """Return what each row sees, bool [summary + N, summary + N].

        The `summary` rows of the guide come first and see each other alone. Padded rows come last,
        so no other row sees them.
        """
        count = self.slots.shape[1]
        # Rows of a step see those before them: the same for any way of decoding.
        seen = torch.ones(count, count, dtype=torch.bool, device=self.slots.device).tril()
        mask = F.pad(seen, (summary, 0, summary, 0))
        mask[:, :summary] = True
        return mask


def known_neighbours(order: Tensor) -> tuple[Tensor, Tensor]:
    """Return the neighbours of each block, int64 [B, H * W, 8], and which are known [B, H * W, 8].

    order int [B, H, W]. A neighbour is known when it is drawn in an earlier step; one that is null
    or lies outside never is. Neighbours are the four at the sides and the four at the corners, as
    numbers into H * W.
    """
    batch, height, width = order.shape
    rows = torch.arange(height, device=order.device)[:, None].expand(height, width)
    columns = torch.arange(width, device=order.device).expand(height, width)
    steps = F.pad(order, (1, 1, 1, 1), value=-1)
    places, known = [], []
    for down, across in _AROUND:
        near = steps[:, 1 + down : 1 + down + height, 1 + across : 1 + across + width]
        known.append(((near >= 0) & (near < order)).flatten(1))
        row, column = (rows + down).clamp(0, height - 1), (columns + across).clamp(0, width - 1)
        places.append((row * width + column).flatten())
    return torch.stack(places, -1).expand(batch, -1, -1), torch.stack(known, -1)


def neighbour_digits(digits: Tensor, places: Tensor, known: Tensor) -> Tensor:
    """Return the digits that are known beside blocks, int64 [B, N, 8, D]; -1 where none is.

    digits int [B, H * W, D]; places and known [B, N, 8], as `known_neighbours` gives them.
    """
    batches = torch.arange(len(digits), device=digits.device)[:, None, None]
    return torch.where(known[..., None], digits[batches, places].long(), -1)


class GuidedInput(nn.Module):
    """Inputs of the active blocks: neighbours, guide around the block, the latent before, place."""

    def __init__(self, config: TransformerConfig, grid: WavefrontConfig) -> None:
        super().__init__()
        _, height, width = config.latent_shape
        self.levels = grid.fsq_levels
        self.kernel = grid.previous_kernel
        rows, dim, small = sum(grid.fsq_levels), config.dim, 0.5 / len(grid.fsq_levels) ** 0.5
        taps = self.kernel[0] * self.kernel[1]
        self.neighbours = nn.Parameter(torch.randn(len(_AROUND) * rows, dim) * small)
        self.previous = nn.Parameter(torch.randn(taps * rows, dim) * small / taps)
        self.guide = nn.Linear(9 * grid.guide_dim, dim)
        self.reach = grid.guide_reach
        far = (2 * self.reach + 1) ** 2 * grid.guide_far_dim
        self.far_in = nn.Linear(grid.guide_dim, grid.guide_far_dim)
        self.far = nn.Linear(far, dim, bias=False)
        self.place = nn.Parameter(torch.randn(height * width, dim) * 0.1)
        self.pool = (height // grid.summary[0], width // grid.summary[1])
        self.summary_count = grid.summary[0] * grid.summary[1]
        self.summary = nn.Linear(grid.guide_dim, dim)
        self.summary_place = nn.Parameter(torch.randn(self.summary_count, dim) * 0.1)
        first = torch.tensor([sum(grid.fsq_levels[:i]) for i in range(len(grid.fsq_levels))])
        self.register_buffer("first", first, persistent=False)

    first: Tensor

    def summaries(self, guide: Tensor) -> Tensor:
        """Return rows of the guide [B, H, W, G] averaged over large parts, [B, summary, dim]."""
        pooled = F.avg_pool2d(guide.movedim(-1, 1), self.pool).flatten(2).transpose(1, 2)
        rows: Tensor = self.summary(pooled) + self.summary_place
        return rows

    def base(self, guide: Tensor, previous: Tensor, slots: Tensor) -> Tensor:
        """Return what is known of blocks before a latent is drawn, [B, N, dim].

        guide [B, H, W, G]; previous int [B, H, W, D], the digits of the latent before, -1 where it
        has none; slots int64 [B, N].
        """
        row, column = slots // guide.shape[2], slots % guide.shape[2]
        x: Tensor = self.guide(_around(guide, row, column, 1))
        x = x + self.far(_around(F.silu(self.far_in(guide)), row, column, self.reach))
        return x + self.place[slots] + self._before(previous, row, column)

    def _before(self, previous: Tensor, row: Tensor, column: Tensor) -> Tensor:
        down, across = self.kernel
        width = previous.shape[2] + across - 1
        padded = F.pad(
            previous.long(), (0, 0, across // 2, across // 2, down // 2, down // 2), value=-1
        ).flatten(1, 2)
        taps = [(row + d) * width + column + a for d in range(down) for a in range(across)]
        batches = torch.arange(len(previous), device=row.device)[:, None, None]
        near = padded[batches, torch.stack(taps, -1)]  # [B, N, taps, D]
        return self._sum(near, self.previous)

    def drawn(self, near: Tensor) -> Tensor:
        """Return what drawn neighbours add, [..., dim]; near [..., 8, D] of `neighbour_digits`."""
        return self._sum(near, self.neighbours)

    def _sum(self, digits: Tensor, table: Tensor) -> Tensor:
        """Sum the rows of digits [..., P, D] in a table [P * rows, dim]; -1 adds nothing."""
        begin = torch.arange(digits.shape[-2], device=digits.device)[:, None] * sum(self.levels)
        rows = (digits.clamp_min(0) + self.first + begin).flatten(0, -3).flatten(1)
        known = (digits >= 0).flatten(0, -3).flatten(1).to(table.dtype)
        out = F.embedding_bag(rows, table, mode="sum", per_sample_weights=known)
        return out.view(*digits.shape[:-2], -1)


def _around(values: Tensor, row: Tensor, column: Tensor, reach: int) -> Tensor:
    """Return the values [B, H, W, C] of square neighbourhoods, [B, N, (2 * reach + 1)^2 * C].

    row and column int64 [B, N] are the middles; outside of the grid values are 0.
    """
    padded = F.pad(values, (0, 0, *[reach] * 4)).flatten(1, 2)
    size, width = 2 * reach + 1, values.shape[2] + 2 * reach
    taps = [
        (row + down) * width + column + across for down in range(size) for across in range(size)
    ]
    batches = torch.arange(len(values), device=row.device)[:, None, None]
    return padded[batches, torch.stack(taps, -1)].flatten(2)
