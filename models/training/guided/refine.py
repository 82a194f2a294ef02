"""Refine the decoder of a guided tokenizer for play, on codes that stay what they are.

In play codes are drawn, so a digit may be a step off what the encoder would say, and the guide is
for the most part what the network drew before. The decoder learns to draw the truth from such codes
beside such guides, with absolute errors alone: what is unsure becomes flat instead of soft. Encoder
and guide features stay, so a transformer that was trained with the tokenizer stays valid.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.guided.config import active_blocks, make_guide, unit_to_nearness
from worldbridge.models.guided.tokenizer import Drawn, GuidedTokenizer, GuideFeatures
from worldbridge.models.progress import Progress, silent
from worldbridge.models.training.guided.run import TrainingRun, cosine_rate, write_log
from worldbridge.models.training.guided.sheet import write_sheet
from worldbridge.models.training.guided.train_tokenizer import (
    Batch,
    FramePool,
    TokenizerRecipe,
    tokenizer_loss,
)

__all__ = ["RefineRecipe", "refine"]


@dataclass(frozen=True, slots=True)
class RefineRecipe:
    """Numbers of a run."""

    steps: int = 6_000
    batch: int = 8
    crop: tuple[int, int] = (128, 208)
    rate: float = 4e-4
    warmup: int = 100
    disturbed: float = 0.12  # share of the digits moved by one, in half of the crops
    redrawn: float = 0.6  # share of the batches whose guide is partly the network's own
    temperature: float = 0.1
    clip: float = 0.5
    outlier: float = 6.0
    ema: float = 0.998
    bfloat16: bool = False
    seed: int = 1
    save_every: int = 200
    sheet_every: int = 400


class _Run(TrainingRun[GuidedTokenizer]):
    def __init__(self, tokenizer: GuidedTokenizer, recipe: RefineRecipe, out: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        tokenizer.train().requires_grad_(False)
        tokenizer.decoder.requires_grad_(True)
        optimizer = torch.optim.AdamW(
            tokenizer.decoder.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.01
        )
        config = tokenizer.config
        checkpoint = out / "tokenizer.pt"
        super().__init__(tokenizer, GuidedTokenizer(config), optimizer, checkpoint, asdict(config))

    def learn(self, batch: Batch, generator: torch.Generator) -> float:
        """Take one step and return its loss."""
        recipe, model = self.recipe, self.model
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            with torch.no_grad():
                features = model.guide_features(batch.guide)
                codes = _codes(model, batch, features, recipe.disturbed, generator)
            active = active_blocks(batch.mask, model.config.active_share)
            drawn = model.paint(codes, active, features, recipe.temperature)
        drawn = Drawn(drawn.color.float(), drawn.nearness.float())
        loss = tokenizer_loss(drawn, batch, _ABSOLUTE)
        rate = cosine_rate(recipe.rate, self.step, self.step / recipe.steps, recipe.warmup)
        return self.descend(loss, rate, clip=recipe.clip, outlier=recipe.outlier, ema=recipe.ema)


_ABSOLUTE = TokenizerRecipe(square=0.0)


def _codes(
    model: GuidedTokenizer,
    batch: Batch,
    features: GuideFeatures,
    disturbed: float,
    generator: torch.Generator,
) -> Tensor:
    """Return codes [B, digits, rows, columns] of a batch, disturbed in half of its crops."""
    digits = model.encode(batch.color, batch.nearness, batch.guide, features).long()
    chosen = torch.rand(len(digits), 1, 1, 1, generator=generator) < 0.5
    moved = chosen & (torch.rand(digits.shape, generator=generator) < disturbed)
    move = torch.randint(2, digits.shape, generator=generator) * 2 - 1
    digits = torch.where(moved, (digits + move).clamp(0, model.config.levels - 1), digits)
    return model.codes(digits)


def _shown(drawn: Drawn, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return colour and nearness of the frame that is shown: pixels of the guide stay."""
    color = torch.where(batch.mask[:, None], batch.guide[:, :3], drawn.color.clamp(-1, 1))
    return color, torch.where(batch.mask, batch.guide[:, 3], drawn.nearness)


@torch.no_grad()
def _redraw(model: GuidedTokenizer, batch: Batch, other: Batch, floor: Tensor) -> Batch:
    """Return a batch whose guide is what the network draws where `other`'s mask has holes.

    Both batches hold the same crops. Where the mask of `other` shows nothing but that of `batch`
    does, the guide becomes the network's own drawing.
    """
    features = model.guide_features(other.guide)
    digits = model.encode(other.color, other.nearness, other.guide, features)
    active = active_blocks(other.mask, model.config.active_share)
    drawn = model.paint(model.codes(digits), active, features)
    color, nearness = _shown(drawn, other)
    guide = make_guide(color, unit_to_nearness(nearness), batch.mask, floor)
    return replace(batch, guide=guide)


def refine(
    tokenizer: GuidedTokenizer,
    pool: FramePool,
    recipe: RefineRecipe,
    out: Path,
    log_every: int = 25,
    progress: Progress = silent,
) -> GuidedTokenizer:
    """Refine a decoder into `out`, from its checkpoint where there is one; returns the average.

    Every step draws from the seed and its own number. Raises TrainingError when the loss is no
    longer a number.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(tokenizer, recipe, out)
    crops = TokenizerRecipe(batch=recipe.batch, crop=recipe.crop, empty=0.05)
    test = pool.batch(replace(crops, batch=24, guide_noise=0.0), np.random.default_rng(recipe.seed))
    began, first = time.monotonic(), run.step
    losses: deque[float] = deque(maxlen=100)
    while run.step < recipe.steps:
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + run.step)
        batch = _batch(run.model, pool, crops, recipe, run.step)
        losses.append(run.learn(batch, generator))
        if run.step % log_every == 0:
            speed = (run.step - first) / (time.monotonic() - began)
            loss = statistics.fmean(losses)
            write_log(out, {"step": run.step, "loss": loss, "steps_per_s": speed})
            left = (recipe.steps - run.step) / speed / 60
            progress(f"decoder, step {run.step}, {left:.0f} min left", run.step / recipe.steps)
        if run.step % recipe.sheet_every == 0:
            _write_sheet(run.average, test, out / f"sheet-{run.step:06d}.png")
        if run.step % recipe.save_every == 0:
            run.save()
    run.save()
    return run.average


def _batch(
    model: GuidedTokenizer, pool: FramePool, crops: TokenizerRecipe, recipe: RefineRecipe, step: int
) -> Batch:
    """Return the batch of a step; in a share of them part of the guide is the network's own."""
    random = np.random.default_rng([recipe.seed, step])
    batch = pool.batch(crops, random)
    if random.random() >= recipe.redrawn:
        return batch
    # The crops again under wider holes: what lies between both masks was drawn a moment ago.
    wider = batch.mask.clone()
    height, width = wider.shape[1:]
    for mask in wider:
        strip = int(random.integers(16, width // 2))
        mask[:, -strip:] = False
        mask[:, : int(random.integers(0, 32))] = False
    floor = unit_to_nearness(batch.guide[:, 5])
    guide = make_guide(
        batch.guide[:, :3], unit_to_nearness(batch.guide[:, 3]), batch.mask & wider, floor
    )
    return _redraw(model, batch, replace(batch, mask=batch.mask & wider, guide=guide), floor)


@torch.inference_mode()
def _write_sheet(model: GuidedTokenizer, batch: Batch, path: Path) -> None:
    features = model.guide_features(batch.guide)
    digits = model.encode(batch.color, batch.nearness, batch.guide, features)
    active = active_blocks(batch.mask, model.config.active_share)
    color, nearness = _shown(model.paint(model.codes(digits), active, features), batch)
    write_sheet(path, batch, color, nearness)
