"""Train the network that estimates the depth of a prompt frame with which a world begins."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.guided.config import floor_nearness, nearness_to_unit, unit_to_nearness
from worldbridge.models.guided.depth import DepthNet
from worldbridge.models.procedural.actions import FOV_Y_DEG
from worldbridge.models.progress import Progress, silent
from worldbridge.models.training.guided.run import TrainingRun, cosine_rate, write_log
from worldbridge.models.training.guided.sheet import write_sheet
from worldbridge.models.training.guided.train_tokenizer import FramePool

__all__ = ["DepthRecipe", "Frames", "train_depth"]


@dataclass(frozen=True, slots=True)
class DepthRecipe:
    """Numbers of a run."""

    steps: int = 4_000
    batch: int = 4
    rate: float = 8e-4
    warmup: int = 100
    clip: float = 0.5
    outlier: float = 6.0
    ema: float = 0.998
    coolest: float = 0.1  # temperature of the surfaces at the end; 1 at the start
    tint: float = 0.12  # how much brightness and hue of a frame vary
    bfloat16: bool = False
    seed: int = 1
    save_every: int = 250
    sheet_every: int = 500


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames with their depth: color [B, 3, H, W] in [-1, 1]; nearness, floor [B, H, W] in 1/m."""

    color: Tensor
    nearness: Tensor
    floor: Tensor

    @property
    def mask(self) -> Tensor:
        """Nothing is hidden, bool [B, H, W]."""
        return torch.ones_like(self.nearness, dtype=torch.bool)

    @classmethod
    def of(
        cls, pool: FramePool, numbers: list[int], random: np.random.Generator, tint: float
    ) -> Frames:
        """Return frames of a pool; half of them mirrored, and all tinted by at most `tint`."""
        color, nearness, floor = [], [], []
        for number in numbers:
            rgb, near, pitch = pool.frame(number)
            if tint and random.random() < 0.5:
                rgb, near = rgb[:, :, ::-1], near[:, ::-1]
            unit = torch.from_numpy(rgb.copy()).float() / 127.5 - 1.0
            gain = torch.from_numpy(random.uniform(-tint, tint, (2, 3, 1, 1)).astype(np.float32))
            color.append((unit * (1 + gain[0]) + gain[1]).clamp(-1, 1))
            nearness.append(torch.from_numpy(near.copy()))
            height, width = near.shape
            floor.append(floor_nearness(torch.tensor([pitch]), height, width, FOV_Y_DEG)[0])
        return cls(torch.stack(color), torch.stack(nearness), torch.stack(floor))


class _Run(TrainingRun[DepthNet]):
    def __init__(self, recipe: DepthRecipe, size: tuple[int, int], out: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        model = DepthNet(*size)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.01
        )
        config = {"height": size[0], "width": size[1]}
        super().__init__(model, DepthNet(*size), optimizer, out / "depth.pt", config)

    def learn(self, frames: Frames) -> float:
        """Take one step and return its loss."""
        recipe = self.recipe
        temperature = recipe.coolest ** min(1.0, self.step / (0.8 * recipe.steps))
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            unit, painted = self.model.surfaces(frames.color, frames.floor, temperature)
        error = unit.float() - nearness_to_unit(frames.nearness)
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = error.abs().mean() + 0.5 * edges + 0.05 * (painted - frames.color).abs().mean()
        rate = cosine_rate(recipe.rate, self.step, self.step / recipe.steps, recipe.warmup)
        return self.descend(loss, rate, clip=recipe.clip, outlier=recipe.outlier, ema=recipe.ema)

    @torch.inference_mode()
    def measure(self, frames: Frames) -> tuple[dict[str, float], Tensor]:
        """Return figures of the average network on frames, and the estimates in [0, 1]."""
        parts = zip(frames.color.split(4), frames.floor.split(4), strict=True)
        estimate = torch.cat([self.average(color, floor) for color, floor in parts])
        error = (estimate / frames.nearness).log().abs()[frames.nearness > 1 / 25]
        figures = {
            "depth_median_error": float(error.median()),
            "depth_within_10_percent": float((error < 0.1).float().mean()),
        }
        return figures, nearness_to_unit(estimate)


def train_depth(
    pool: FramePool,
    held_out: FramePool,
    recipe: DepthRecipe,
    out: Path,
    log_every: int = 25,
    progress: Progress = silent,
) -> DepthNet:
    """Train into `out`, from its checkpoint where there is one; returns the average network.

    Every step draws from the seed and its own number. Raises TrainingError when the loss is no
    longer a number.
    """
    size = pool.frame(0)[1].shape
    run = _Run(recipe, (size[0], size[1]), out)
    chosen = list(range(0, len(held_out), max(1, len(held_out) // 24)))[:24]
    test = Frames.of(held_out, chosen, np.random.default_rng(recipe.seed), 0.0)
    began, first = time.monotonic(), run.step
    losses: deque[float] = deque(maxlen=100)
    while run.step < recipe.steps:
        random = np.random.default_rng([recipe.seed, run.step])
        numbers = random.integers(len(pool), size=recipe.batch).tolist()
        losses.append(run.learn(Frames.of(pool, numbers, random, recipe.tint)))
        if run.step % log_every == 0:
            speed = (run.step - first) / (time.monotonic() - began)
            write_log(out, {"step": run.step, "loss": float(np.mean(losses)), "steps_per_s": speed})
            left = (recipe.steps - run.step) / speed / 60
            progress(f"depth, step {run.step}, {left:.0f} min left", run.step / recipe.steps)
        if run.step % recipe.sheet_every == 0 or run.step == recipe.steps:
            figures, unit = run.measure(test)
            write_log(out, {"step": run.step, "skipped": run.skipped, **figures})
            painted = unit_to_nearness(unit)
            near = (painted / test.nearness).log().abs()[:, None].expand(-1, 3, -1, -1)
            write_sheet(out / f"sheet-{run.step:06d}.png", test, near * 4 - 1, unit)
        if run.step % recipe.save_every == 0:
            run.save()
    run.save()
    return run.average
