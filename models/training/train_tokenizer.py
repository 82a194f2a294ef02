"""Train the embedded tokenizer on pictures of the procedural worlds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.conditioning.prompt_frames import to_unit
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.training.recipe import Recipe, TimedSchedule, save_checkpoint

__all__ = ["reconstruction_loss", "sharpness_loss", "train_tokenizer"]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of horizontal and vertical differences.

    The differences keep edges crisp; the squared error is what PSNR counts.
    """
    error = output - target
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2.0 * error.square().mean() + 0.5 * edges


def sharpness_loss(output: Tensor, target: Tensor) -> Tensor:
    """How far the contrast between neighbouring pixels is from the target's, place by place.

    Both errors above are least when the decoder averages over what it does not know, so edges come
    out softer than they were. Here only the amount of detail around a place counts, not its phase.
    [B, 3, T, H, W] in [-1, 1].
    """
    return (_detail(output) - _detail(target)).abs().mean()


def _detail(video: Tensor, block: int = 16) -> Tensor:
    """Root mean square of the differences to the neighbours, over blocks of pixels."""
    across = video.diff(dim=-1)[..., :-1, :].square()
    down = video.diff(dim=-2)[..., :, :-1].square()
    energy = F.avg_pool2d((across + down).mean(1).flatten(0, 1)[:, None], block, block // 2)
    return (energy + 1e-6).sqrt()


def train_tokenizer(
    model: VideoTokenizer,
    pictures: np.ndarray,
    recipe: Recipe,
    checkpoint: Path,
    progress: Callable[[str, float], None],
    device: str = "cpu",
) -> None:
    """Train in place for `recipe.tokenizer_minutes`; resumes from and saves to `checkpoint`.

    From the share `recipe.sharpen_from` of the time on, codes are as they are and the decoder alone
    learns to bring back the contrast that was there.
    """
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.tokenizer_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["share"]
    schedule = TimedSchedule(
        recipe.tokenizer_rate, recipe.tokenizer_minutes, recipe.warmup_steps, spent
    )
    random = np.random.default_rng(recipe.seed + step)
    mean_square = 0.02
    while schedule.share() < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = schedule.value(step)
        batch = sample_crops(pictures, recipe, random).to(device)
        output, _ = model(batch)
        loss = reconstruction_loss(output, batch)
        if schedule.share() >= recipe.sharpen_from:
            model.encoder.requires_grad_(False)
            model.quant_conv.requires_grad_(False)
            loss = loss + recipe.sharpen_weight * sharpness_loss(output, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        error = F.mse_loss(output.detach(), batch).item() / 4  # range [-1, 1] -> [0, 1]
        if not math.isfinite(error):
            raise RuntimeError(
                f"tokenizer training diverged at step {step}: the loss is {loss.item()}; lower "
                f"Recipe.tokenizer_rate (now {recipe.tokenizer_rate})"
            )
        mean_square += 0.02 * (error - mean_square)
        if step % 20 == 0:
            psnr = -10 * math.log10(mean_square)
            progress(f"tokenizer step {step}, {psnr:.2f} dB on training crops", schedule.share())
        if step % 500 == 0:
            _save(checkpoint, model, optimizer, step, schedule.share())
    _save(checkpoint, model, optimizer, step, 1.0)
    model.eval()


def sample_crops(pictures: np.ndarray, recipe: Recipe, random: np.random.Generator) -> Tensor:
    """Random crops of consecutive frames, [B, 3, T, h, w] in [-1, 1]."""
    height, width = recipe.tokenizer_crop
    crops = []
    for _ in range(recipe.tokenizer_batch):
        clip = random.integers(pictures.shape[0])
        start = random.integers(pictures.shape[1] - recipe.tokenizer_clip + 1)
        top = random.integers(pictures.shape[3] - height + 1)
        left = random.integers(pictures.shape[4] - width + 1)
        piece = pictures[
            clip, start : start + recipe.tokenizer_clip, :, top : top + height, left : left + width
        ]
        crops.append(torch.from_numpy(np.ascontiguousarray(piece)))
    return to_unit(torch.stack(crops)).transpose(1, 2).contiguous()


def _save(
    path: Path, model: VideoTokenizer, optimizer: torch.optim.Optimizer, step: int, share: float
) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save_checkpoint(path, {**state, "step": step, "share": share})
