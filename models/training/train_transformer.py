"""Train the embedded transformer on token clips."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.training.recipe import Recipe
from worldbridge.models.training.schedule import TimedSchedule
from worldbridge.models.transformer import VideoTransformer
from worldbridge.models.transformer.grid import DigitHead

__all__ = ["disturb", "train_transformer"]


def disturb(
    codes: Tensor, share: Tensor, levels: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Replace a share of tokens by near codes (one digit moved by one) or by others of the batch.

    codes [B, T, H, W]; share [B] in [0, 1].
    """
    pick = torch.rand(codes.shape, generator=generator) < share.view(-1, 1, 1, 1)
    axis = torch.randint(len(levels), codes.shape, generator=generator)
    basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
    size = torch.tensor(levels)
    digit = codes // basis[axis] % size[axis]
    move = torch.where(torch.rand(codes.shape, generator=generator) < 0.5, -1, 1)
    near = codes + ((digit + move).clamp_min(0).minimum(size[axis] - 1) - digit) * basis[axis]
    shuffled = codes.flatten()[torch.randperm(codes.numel(), generator=generator)].view_as(codes)
    other = torch.where(torch.rand(codes.shape, generator=generator) < 0.25, shuffled, near)
    return torch.where(pick, other, codes)


def train_transformer(
    model: VideoTransformer,
    codes: np.ndarray,
    condition: np.ndarray,
    recipe: Recipe,
    checkpoint: Path,
    progress: Callable[[str, float], None],
    device: str = "cpu",
) -> None:
    """Train in place for `recipe.transformer_minutes`; leaves the averaged weights in `model`.

    codes int32 [N, T, H, W]; condition float32 [N, T, C]. Resumes from and saves to `checkpoint`.
    """
    grid = model.config.grid
    head = model.output
    assert grid is not None and isinstance(head, DigitHead)
    model.to(device).train()
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(
        _groups(model, recipe), lr=recipe.transformer_rate, betas=(0.9, 0.95)
    )
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, spent = state["average"], state["step"], state["share"]
    schedule = TimedSchedule(
        recipe.transformer_rate, recipe.transformer_minutes, recipe.warmup_steps, spent
    )
    random = np.random.default_rng(recipe.seed + step)
    generator = torch.Generator().manual_seed(recipe.seed + step)
    smooth = 12.0
    while schedule.share() < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = schedule.value(step)
        batch, leading = _sample(codes, condition, recipe, random)
        share = torch.rand(len(batch), generator=generator) * recipe.disturbed_tokens
        share = share * (torch.rand(len(batch), generator=generator) < recipe.disturbed_clips)
        seen = disturb(batch, share, grid.fsq_levels, generator)
        batch, leading, seen = batch.to(device), leading.to(device), seen.to(device)
        features = model.clip_features(batch, leading, seen)[:, 1:]
        loss = head.nll(features.flatten(0, 3), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(recipe.ema_decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        if not math.isfinite(loss.item()):
            raise RuntimeError(
                f"transformer training diverged at step {step}: the loss is {loss.item()}; lower "
                f"Recipe.transformer_rate (now {recipe.transformer_rate})"
            )
        smooth += 0.02 * (loss.item() - smooth)
        if step % 20 == 0:
            progress(f"transformer step {step}, {smooth:.3f} nats a token", schedule.share())
        if step % 300 == 0:
            _save(checkpoint, model, optimizer, average, step, schedule.share())
    _save(checkpoint, model, optimizer, average, step, 1.0)
    model.load_state_dict(average)
    model.eval()


def _groups(model: VideoTransformer, recipe: Recipe) -> list[dict[str, object]]:
    """Weight decay for matrices only."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def _sample(
    codes: np.ndarray, condition: np.ndarray, recipe: Recipe, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    clips, latents = [], recipe.transformer_clip
    leading = []
    for _ in range(recipe.transformer_batch):
        clip = random.integers(codes.shape[0])
        start = random.integers(codes.shape[1] - latents + 1)
        clips.append(torch.from_numpy(codes[clip, start : start + latents].astype(np.int64)))
        leading.append(torch.from_numpy(condition[clip, start : start + latents]))
    return torch.stack(clips), torch.stack(leading)


def _save(
    path: Path,
    model: VideoTransformer,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    step: int,
    share: float,
) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "step": step,
            "share": share,
        },
        partial,
    )
    partial.rename(path)
