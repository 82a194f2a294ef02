"""Train the embedded transformer on token clips."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.training.recipe import Recipe, TimedSchedule, save_checkpoint
from worldbridge.models.transformer import VideoTransformer
from worldbridge.models.transformer.wavefront import DigitHead

__all__ = ["as_seen", "disturb", "places_of", "stray", "take", "train_transformer"]


def disturb(
    codes: Tensor, share: Tensor, levels: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Replace a share of tokens by near codes (one digit moved by one) or by others of the batch.

    codes [B, T, H, W]; share [B, T] in [0, 1].
    """
    pick = torch.rand(codes.shape, generator=generator) < share[:, :, None, None]
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
    drawn = codes.copy()  # what the network last drew in the place of each latent
    while schedule.share() < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = schedule.value(step)
        places = places_of(codes, recipe, random)
        batch, leading = take(codes, places).long(), take(condition, places)
        own = take(drawn, places).long() if schedule.share() > recipe.drawn_after else None
        seen = as_seen(batch, own, recipe, grid.fsq_levels, generator)
        others = take(drawn, places_of(codes, recipe, random)).long()
        seen, strayed = stray(seen, others, recipe, generator)
        batch, leading, seen = batch.to(device), leading.to(device), seen.to(device)
        features = model.clip_features(seen, leading)[:, 1:]
        told = ~strayed[:, 1:].to(device)
        loss = head.nll(features[told].flatten(0, 2), batch[:, 1:][told].flatten())
        draws = head.draw(features.detach().flatten(0, 3), generator).view_as(batch[:, 1:]).cpu()
        for (clip, frames), latents, away in zip(places, draws, strayed[:, 0], strict=True):
            if not away:
                drawn[clip, frames.start + 1 : frames.stop] = latents.numpy()
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


def as_seen(
    codes: Tensor,
    own: Tensor | None,
    recipe: Recipe,
    levels: tuple[int, ...],
    generator: torch.Generator,
) -> Tensor:
    """Codes [B, T, H, W] as a stream of the network's own making might have them.

    In some latents of some clips, tokens are moved at random, and others are `own`: what the
    network drew there when it met the clip before, from a past that was its own in part. After
    some rounds such draws carry the errors of many steps, at no further cost (compare "Parallel
    Scheduled Sampling", Duckworth et al. 2019).
    """
    batch, frames = codes.shape[:2]

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    rough = (random(batch, 1) < recipe.disturbed_clips) & (
        random(batch, frames) < recipe.disturbed_latents
    )
    seen = codes
    if own is not None:
        share = random(batch, frames) * recipe.drawn_tokens * rough
        seen = torch.where(random(*codes.shape) < share[:, :, None, None], own, seen)
    share = random(batch, frames) * recipe.disturbed_tokens * rough
    return disturb(seen, share, levels, generator)


def stray(
    seen: Tensor, others: Tensor, recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Codes [B, T, H, W] with the beginning of some clips taken from `others`, and where [B, T].

    The controls still name the theme of the clip, so what the network learns there is to come back
    to it. Nothing is to be learned in the places taken: what is seen is not what is to be told.
    """
    batch, frames = seen.shape[:2]
    length = torch.randint(1, frames - 1, (batch, 1), generator=generator)
    away = torch.rand(batch, 1, generator=generator) < recipe.strayed_clips
    taken = (torch.arange(frames) < length) & away
    return torch.where(taken[..., None, None], others, seen), taken


_Place = tuple[int, slice]  # clip, and its latents


def places_of(codes: np.ndarray, recipe: Recipe, random: np.random.Generator) -> list[_Place]:
    """Where the clips of a random batch are in codes [N, T, H, W]."""
    latents = recipe.transformer_clip
    places = []
    for _ in range(recipe.transformer_batch):
        clip = int(random.integers(codes.shape[0]))
        start = int(random.integers(codes.shape[1] - latents + 1))
        places.append((clip, slice(start, start + latents)))
    return places


def take(data: np.ndarray, places: list[_Place]) -> Tensor:
    """Those places of data [N, T, ...], as [B, T', ...]."""
    return torch.stack([torch.from_numpy(data[clip, frames]) for clip, frames in places])


def _save(
    path: Path,
    model: VideoTransformer,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    step: int,
    share: float,
) -> None:
    save_checkpoint(
        path,
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "step": step,
            "share": share,
        },
    )
