"""Training data: play of the procedural worlds, as pictures or as tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.condition import condition_vector
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.worlds.policy import random_walk
from worldbridge.models.worlds.render import render_batch
from worldbridge.models.worlds.scene import THEMES, build_scene

__all__ = ["Clip", "EVALUATION_SEEDS", "make_clip", "make_pictures", "make_tokens", "to_unit"]

Progress = Callable[[str, float], None]

# Scenes with these seeds are never trained on.
EVALUATION_SEEDS = range(900_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Clip:
    """Recorded play: frames uint8 [T, 3, H, W]; condition float32 [T, C] leading to each frame."""

    theme: str
    seed: int
    frames: Tensor
    actions: Tensor
    condition: Tensor


def make_clip(theme: str, seed: int, frames: int) -> Clip:
    """Play `frames` frames of one scene with the scripted player."""
    scene = build_scene(theme, seed)
    actions, states = random_walk(scene, seed, frames)
    pitch = torch.tensor([float(state.pitch) for state in states])
    condition = condition_vector(actions, pitch, theme)
    return Clip(theme, seed, render_batch(scene, states), actions, condition)


def clip_identity(index: int, recipe_seed: int) -> tuple[str, int]:
    """Theme and scene seed of training clip `index`; never an evaluation seed."""
    return THEMES[index % len(THEMES)], recipe_seed * 100_000 % 800_000 + index


def make_pictures(
    path: Path, clips: int, frames: int, recipe_seed: int, progress: Progress
) -> np.ndarray:
    """Render clips into a uint8 memory map [clips, frames, 3, 320, 512] at `path` (.npy).

    A complete file of the same shape is used again.
    """
    shape = (clips, frames, 3, 320, 512)
    if path.exists():
        stored = np.load(path, mmap_mode="r")
        if stored.shape == shape:
            return stored
    partial = path.with_suffix(".partial.npy")
    array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    for i in range(clips):
        theme, seed = clip_identity(i, recipe_seed)
        array[i] = make_clip(theme, seed, frames).frames.numpy()
        progress("rendering pictures", (i + 1) / clips)
    array.flush()
    partial.rename(path)
    return np.load(path, mmap_mode="r")


def make_tokens(
    path: Path,
    tokenizer: VideoTokenizer,
    indices: range,
    frames: int,
    recipe_seed: int,
    progress: Progress,
) -> None:
    """Render and encode clips; writes codes [N, T, h, w], condition [N, T, C] to `path` (.npz)."""
    codes, conditions = [], []
    for n, i in enumerate(indices):
        theme, seed = clip_identity(i, recipe_seed)
        clip = make_clip(theme, seed, frames)
        with torch.inference_mode():
            encoded = tokenizer.encode(to_unit(clip.frames).transpose(0, 1)[None])
        codes.append(encoded[0].to(torch.int16).numpy())
        conditions.append(clip.condition.numpy())
        progress("rendering and encoding play", (n + 1) / len(indices))
    np.savez(path, codes=np.stack(codes), condition=np.stack(conditions))


def to_unit(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1
