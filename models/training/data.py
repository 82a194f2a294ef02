"""Training data: play of the procedural worlds, as pictures or as tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.conditioning.actions import condition_vector
from worldbridge.models.conditioning.prompt_frames import to_unit
from worldbridge.models.procedural.camera import spawn, step_camera
from worldbridge.models.procedural.policy import random_walk
from worldbridge.models.procedural.render import render_batch
from worldbridge.models.procedural.scene import THEMES, build_scene, soften
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.training.recipe import Recipe

__all__ = [
    "Clip",
    "EVALUATION_SEEDS",
    "make_clip",
    "make_ending",
    "make_prompt_frames",
    "make_play",
    "make_tokens",
]

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


def make_clip(
    theme: str, seed: int, frames: int, *, stubborn: bool = False, lead_in: int = 0
) -> Clip:
    """Play `frames` frames of one scene, in soft focus, with the scripted player.

    `stubborn` and `lead_in` as in `random_walk`.
    """
    scene = soften(build_scene(theme, seed))
    actions, states = random_walk(scene, seed, frames, stubborn=stubborn, lead_in=lead_in)
    pitch = torch.tensor([float(state.pitch) for state in states])
    condition = condition_vector(actions, pitch, theme)
    return Clip(theme, seed, render_batch(scene, states), actions, condition)


def clip_identity(index: int, recipe_seed: int) -> tuple[str, int]:
    """Theme and scene seed of training clip `index`; never an evaluation seed."""
    return THEMES[index % len(THEMES)], recipe_seed * 100_000 % 800_000 + index


def make_ending(theme: str, seed: int, actions: Tensor, frames: int) -> Tensor:
    """The last `frames` pictures, uint8 [frames, 3, H, W], of a scene played by these actions.

    actions float32 [T, 4], T >= frames.
    """
    scene = soften(build_scene(theme, seed))
    states = [spawn(scene, seed)]
    for action in actions.tolist():
        states.append(step_camera(scene, states[-1], action))
    return render_batch(scene, states[-frames:])


def make_play(index: int, recipe: Recipe) -> Clip:
    """Training clip `index` of the transformer.

    The first begin at a spawn and keep clear of walls. In the last `recipe.stubborn_share` of them
    a stubborn player has been under way for a while: they show walls from near, and what comes
    into view when one turns from them.
    """
    theme, seed = clip_identity(index, recipe.seed)
    if index < round(recipe.token_clips * (1 - recipe.stubborn_share)):
        return make_clip(theme, seed, recipe.token_frames)
    lead_in = 37 * index % recipe.stubborn_lead_in
    return make_clip(theme, seed, recipe.token_frames, stubborn=True, lead_in=lead_in)


def make_prompt_frames(path: Path, indices: range, frames: int, recipe_seed: int) -> None:
    """Render clips `indices` into uint8 [n, frames, 3, 320, 512] at `path` (.npy)."""
    clips = [make_clip(*clip_identity(i, recipe_seed), frames).frames.numpy() for i in indices]
    np.save(path, np.stack(clips))


def make_tokens(path: Path, tokenizer: VideoTokenizer, indices: range, recipe: Recipe) -> None:
    """Render and encode clips; writes codes [N, T, h, w], condition [N, T, C] to `path` (.npz)."""
    codes, conditions = [], []
    for i in indices:
        clip = make_play(i, recipe)
        with torch.inference_mode():
            encoded = tokenizer.encode(to_unit(clip.frames).transpose(0, 1)[None])
        codes.append(encoded[0].to(torch.int32).numpy())
        conditions.append(clip.condition.numpy())
    np.savez(path, codes=np.stack(codes), condition=np.stack(conditions))
