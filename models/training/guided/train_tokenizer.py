"""Train the guided tokenizer on single plain frames with nearness, under random masks."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.models.guided.config import (
    active_blocks,
    floor_nearness,
    make_guide,
    nearness_to_unit,
)
from worldbridge.models.guided.tokenizer import Drawn, GuidedTokenizer
from worldbridge.models.procedural.actions import FOV_Y_DEG
from worldbridge.models.progress import Progress, silent
from worldbridge.models.training.guided.masks import random_mask
from worldbridge.models.training.guided.run import (
    TrainingError,
    TrainingRun,
    cosine_rate,
    write_log,
)
from worldbridge.models.training.guided.sheet import write_sheet

Weights = Mapping[str, Tensor]

__all__ = ["Batch", "FramePool", "TokenizerRecipe", "TrainingError", "tokenizer_loss", "train"]


_OUTLIER = 6.0  # times the usual norm of a gradient


@dataclass(frozen=True, slots=True)
class TokenizerRecipe:
    """Numbers of a training run."""

    steps: int = 4_000
    batch: int = 8
    crop: tuple[int, int] = (160, 256)
    rate: float = 8e-4
    warmup: int = 100
    clip: float = 0.5
    ema: float = 0.998
    rounding_from: float = 0.3  # share of `steps` after which codes are rounded
    coolest: float = 0.1  # temperature of the surfaces' borders at the end; 1 at the start
    chroma: float = 3.0
    square: float = 1.0  # weight of squared beside absolute errors: what is unsure becomes soft
    seen: float = 0.05  # weight of pixels that the memory shows beside 1 for new ones
    unknown_depth: float = 0.25  # share of frames whose nearness the encoder does not see
    empty: float = 0.6  # share of crops of which nothing is seen
    guide_noise: float = 0.06  # of the guide's nearness, relative
    seed: int = 1
    save_every: int = 250
    sheet_every: int = 500


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops: color [B, 3, h, w] in [-1, 1], nearness [B, h, w], mask bool [B, h, w], guide."""

    color: Tensor
    nearness: Tensor
    mask: Tensor
    guide: Tensor
    depth_known: Tensor  # bool [B]


class FramePool:
    """Frames on disk: PREFIX*_{rgb,near,pitch}.npy, read as memory maps."""

    def __init__(self, prefix: Path) -> None:
        """Open the pool.

        Raises FileNotFoundError where there is none.
        """
        names = sorted(prefix.parent.glob(f"{prefix.name}*_rgb.npy"))
        if not names:
            raise FileNotFoundError(f"expected frames at {prefix}*_rgb.npy, found none")
        self._rgb = [np.load(n, mmap_mode="r") for n in names]
        self._near = [np.load(str(n).replace("_rgb", "_near"), mmap_mode="r") for n in names]
        self._pitch = [np.load(str(n).replace("_rgb", "_pitch")) for n in names]
        self._start = np.cumsum([0] + [len(r) for r in self._rgb])

    def __len__(self) -> int:
        return int(self._start[-1])

    def frame(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], float]:
        """Return colour uint8 [3, H, W], nearness float32 [H, W] in 1/m, pitch in radians."""
        part = int(np.searchsorted(self._start, index, side="right")) - 1
        row = index - int(self._start[part])
        near = self._near[part][row].astype(np.float32)
        return self._rgb[part][row], near, float(self._pitch[part][row])

    def batch(self, recipe: TokenizerRecipe, random: np.random.Generator) -> Batch:
        """Return random crops under random masks."""
        height, width = recipe.crop
        color, nearness, mask, floor = [], [], [], []
        for _ in range(recipe.batch):
            rgb, near, pitch = self.frame(int(random.integers(len(self))))
            # Multiples of 16, so that blocks of the crop are blocks of the frame.
            top = 16 * int(random.integers((near.shape[0] - height) // 16 + 1))
            left = 16 * int(random.integers((near.shape[1] - width) // 16 + 1))
            rows, columns = slice(top, top + height), slice(left, left + width)
            ground = floor_nearness(torch.tensor([pitch]), near.shape[0], width, FOV_Y_DEG)[0]
            rgb, near = np.array(rgb[:, rows, columns]), near[rows, columns]
            if random.random() < 0.5:
                rgb, near = rgb[:, :, ::-1].copy(), near[:, ::-1].copy()
            color.append(torch.from_numpy(rgb))
            nearness.append(torch.from_numpy(near))
            mask.append(torch.from_numpy(random_mask(near, random, recipe.empty)))
            floor.append(ground[rows])
        colors = torch.stack(color).float() / 127.5 - 1.0
        near_all, masks = torch.stack(nearness), torch.stack(mask)
        guide_near = _noisy(near_all, recipe.guide_noise, random)
        guide = make_guide(colors, guide_near, masks, torch.stack(floor))
        known = torch.from_numpy(random.random(recipe.batch) >= recipe.unknown_depth)
        return Batch(colors, near_all, masks, guide, known)


def _noisy(nearness: Tensor, sigma: float, random: np.random.Generator) -> Tensor:
    """Multiply nearness by smooth noise, as the network's own depth is wrong."""
    batch, height, width = nearness.shape
    coarse = random.normal(0.0, sigma, (batch, 1, height // 32, width // 32)).astype(np.float32)
    coarse *= random.choice([0.0, 1.0], (batch, 1, 1, 1)).astype(np.float32)
    noise = F.interpolate(torch.from_numpy(coarse), size=(height, width), mode="bilinear")
    return nearness * noise[:, 0].exp()


def _luma_chroma(color: Tensor, chroma: float) -> Tensor:
    red, green, blue = color.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack((luma, chroma * 0.564 * (blue - luma), chroma * 0.713 * (red - luma)), 1)


def _weighted(error: Tensor, weight: Tensor) -> Tensor:
    return (error * weight).sum() / weight.sum().clamp(min=1.0)


def _edge_errors(error: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute differences of an error [B, C, H, W] to the neighbours."""
    across = _weighted(error.diff(dim=-1).abs().mean(1), weight[..., 1:])
    down = _weighted(error.diff(dim=-2).abs().mean(1), weight[..., 1:, :])
    return across + down


def tokenizer_loss(drawn: Drawn, batch: Batch, recipe: TokenizerRecipe) -> Tensor:
    """Colour in luminance and chroma, nearness on its logarithmic scale, and both one's edges."""
    weight = torch.where(batch.mask, recipe.seen, 1.0)
    error = _luma_chroma(drawn.color, recipe.chroma) - _luma_chroma(batch.color, recipe.chroma)
    loss = _weighted(error.abs().mean(1) + recipe.square * error.square().mean(1), weight)
    loss = loss + 0.7 * _edge_errors(error, weight)
    depth = (drawn.nearness - nearness_to_unit(batch.nearness))[:, None]
    return loss + 2.0 * _weighted(depth.abs()[:, 0], weight) + _edge_errors(depth, weight)


def _rate(step: int, recipe: TokenizerRecipe) -> float:
    """Cosine from `rate` to a twentieth over `steps`."""
    return cosine_rate(recipe.rate, step, step / recipe.steps, recipe.warmup)


def _temperature(step: int, recipe: TokenizerRecipe) -> float:
    return float(recipe.coolest ** min(1.0, step / (0.8 * recipe.steps)))


class _Run(TrainingRun[GuidedTokenizer]):
    """A run of the tokenizer, which may begin with another's weights."""

    def __init__(self, recipe: TokenizerRecipe, out: Path, start: Weights | None = None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out = recipe, out
        model = GuidedTokenizer()
        if start is not None:
            _take_weights(model, start)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.01
        )
        checkpoint = out / "tokenizer.pt"
        super().__init__(model, GuidedTokenizer(), optimizer, checkpoint, asdict(model.config))

    def learn(self, batch: Batch) -> float:
        """Take one step and return its loss."""
        recipe = self.recipe
        loss = tokenizer_loss(self._draw(batch), batch, recipe)
        rate = _rate(self.step, recipe)
        return self.descend(loss, rate, clip=recipe.clip, outlier=_OUTLIER, ema=recipe.ema)

    def _draw(self, batch: Batch) -> Drawn:
        recipe, model = self.recipe, self.model
        active = active_blocks(batch.mask, model.config.active_share)
        unit = batch.depth_known[:, None, None]
        features = model.guide_features(batch.guide)
        z = _latent(model, batch, features, unit)
        early = self.step < recipe.rounding_from * recipe.steps
        codes = model.fsq.perturb(z) if early else model.fsq.quantize(z)
        temperature = _temperature(self.step, recipe)
        return model.paint(codes.movedim(-1, 1), active, features, temperature)

    @torch.inference_mode()
    def measure(self, batch: Batch) -> tuple[dict[str, float], Tensor, Tensor]:
        """Return figures of the average network on a batch, and its frames and nearness."""
        model = self.average
        features = model.guide_features(batch.guide)
        z = _latent(model, batch, features, torch.ones(len(batch.color), 1, 1, dtype=torch.bool))
        codes = model.fsq.quantize(z)
        active = active_blocks(batch.mask, model.config.active_share)
        drawn = model.paint(codes.movedim(-1, 1), active, features)
        new = ~batch.mask
        color = drawn.color.clamp(-1, 1)
        square = ((color - batch.color) / 2).square().mean(1)[new].mean()
        depth = (drawn.nearness - nearness_to_unit(batch.nearness)).abs()[new].mean()
        used = (codes * model.config.null_digit).round()[active]
        counts = [len(used[:, k].unique()) for k in range(used.shape[1])]
        figures = {
            "psnr_new_db": -10 * math.log10(max(float(square), 1e-9)),
            "depth_error": float(depth),
            "levels_used": min(counts) if counts else 0,
            "latent_size": float(z.abs().max()),
            **_crispness(color, new),
        }
        seen = batch.mask[:, None]
        return figures, torch.where(seen, batch.color, color), drawn.nearness


def _crispness(color: Tensor, new: Tensor) -> dict[str, float]:
    """Return the share of new 8 x 8 windows with an edge, and how steep edges are (1: a step)."""
    luma = _luma_chroma(color, 1.0)[:, 0] * 127.5
    windows = luma.unfold(1, 8, 8).unfold(2, 8, 8)
    contrast = windows.amax((-1, -2)) - windows.amin((-1, -2))
    across, down = windows.diff(dim=-1).abs(), windows.diff(dim=-2).abs()
    largest = torch.maximum(across.amax((-1, -2)), down.amax((-1, -2)))
    inside = new.unfold(1, 8, 8).unfold(2, 8, 8).all(-1).all(-1)
    edge = (contrast > 32) & inside
    steep = (largest / contrast.clamp(min=1.0))[edge]
    return {
        "edge_windows": float(edge.sum() / inside.sum().clamp(min=1)),
        "steepness": float(steep.median()) if len(steep) else 0.0,
    }


def _take_weights(model: GuidedTokenizer, weights: Weights) -> None:
    """Load the weights of an earlier run, as far as their shapes are the model's."""
    own = model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    model.load_state_dict({**own, **fitting})


def _latent(model: GuidedTokenizer, batch: Batch, features: Any, known: Tensor) -> Tensor:
    """Return the latent [B, rows, columns, digits]; nearness that is not known is hidden."""
    flag = known.expand_as(batch.nearness).float()[:, None]
    unit = nearness_to_unit(batch.nearness)[:, None] * flag
    frame = torch.cat((batch.color, unit, flag, 1.0 - batch.guide[:, 4:5]), 1)
    z: Tensor = model.encoder(frame.contiguous(memory_format=torch.channels_last), features)
    return z.movedim(1, -1)


def train(
    pool: FramePool,
    held_out: FramePool,
    recipe: TokenizerRecipe,
    out: Path,
    start: Weights | None = None,
    log_every: int = 25,
    progress: Progress = silent,
) -> GuidedTokenizer:
    """Train into `out`, from its checkpoint where there is one; returns the average network.

    Without one, the run begins with the weights of `start` that fit.

    Every step draws from the seed and its own number, so an interrupted run continues with the
    steps that it would have taken.

    Raises TrainingError when the loss is no longer a number.
    """
    run = _Run(recipe, out, start)
    test = held_out.batch(_evaluation(recipe), np.random.default_rng(recipe.seed))
    began, first = time.monotonic(), run.step
    losses: deque[float] = deque(maxlen=100)
    for step in _steps(run):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        losses.append(run.learn(pool.batch(recipe, np.random.default_rng([recipe.seed, step]))))
        if run.step % log_every == 0:
            speed = (run.step - first) / (time.monotonic() - began)
            write_log(out, {"step": run.step, "loss": float(np.mean(losses)), "steps_per_s": speed})
            left = (recipe.steps - run.step) / speed / 60
            text = f"tokenizer, step {run.step}, loss {np.mean(losses):.3f}, {left:.0f} min left"
            progress(text, run.step / recipe.steps)
        if run.step % recipe.sheet_every == 0:
            figures, color, nearness = run.measure(test)
            write_log(out, {"step": run.step, "skipped": run.skipped, **figures})
            write_sheet(out / f"sheet-{run.step:06d}.png", test, color, nearness)
        if run.step % recipe.save_every == 0:
            run.save()
    run.save()
    return run.average


def _evaluation(recipe: TokenizerRecipe) -> TokenizerRecipe:
    return TokenizerRecipe(
        batch=24, crop=recipe.crop, guide_noise=0.0, empty=0.35, seed=recipe.seed
    )


def _steps(run: _Run) -> Iterator[int]:
    while run.step < run.recipe.steps:
        yield run.step
