"""Training data: play of the procedural worlds, as pictures or as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.condition import condition_vector
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.worlds.policy import random_walk
from worldbridge.models.worlds.render import render_batch
from worldbridge.models.worlds.scene import THEMES, build_scene, soften

__all__ = ["Clip", "EVALUATION_SEEDS", "make_clip", "make_pictures", "make_tokens", "to_unit"]

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
    """Play `frames` frames of one scene, in soft focus, with the scripted player."""
    scene = soften(build_scene(theme, seed))
    actions, states = random_walk(scene, seed, frames)
    pitch = torch.tensor([float(state.pitch) for state in states])
    condition = condition_vector(actions, pitch, theme)
    return Clip(theme, seed, render_batch(scene, states), actions, condition)


def clip_identity(index: int, recipe_seed: int) -> tuple[str, int]:
    """Theme and scene seed of training clip `index`; never an evaluation seed."""
    return THEMES[index % len(THEMES)], recipe_seed * 100_000 % 800_000 + index


def make_pictures(path: Path, indices: range, frames: int, recipe_seed: int) -> None:
    """Render clips `indices` into uint8 [n, frames, 3, 320, 512] at `path` (.npy)."""
    clips = [make_clip(*clip_identity(i, recipe_seed), frames).frames.numpy() for i in indices]
    np.save(path, np.stack(clips))


def make_tokens(
    path: Path,
    tokenizer: VideoTokenizer,
    indices: range,
    frames: int,
    recipe_seed: int,
) -> None:
    """Render and encode clips; writes codes [N, T, h, w], condition [N, T, C] to `path` (.npz)."""
    codes, conditions = [], []
    for i in indices:
        theme, seed = clip_identity(i, recipe_seed)
        clip = make_clip(theme, seed, frames)
        with torch.inference_mode():
            encoded = tokenizer.encode(to_unit(clip.frames).transpose(0, 1)[None])
        codes.append(encoded[0].to(torch.int32).numpy())
        conditions.append(clip.condition.numpy())
    np.savez(path, codes=np.stack(codes), condition=np.stack(conditions))


def to_unit(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1
