"""Single plain frames with nearness, rendered for the tokenizer's training and kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldbridge.models.procedural.plain import build_plain_scene
from worldbridge.models.procedural.policy import random_walk
from worldbridge.models.procedural.render import render_rgbd
from worldbridge.models.procedural.scene import THEMES
from worldbridge.models.progress import Progress, silent
from worldbridge.models.training.play_clips import HELD_OUT_SEEDS

__all__ = ["write_frames", "write_pools"]

_STEPS = 120  # of play in a scene
_SHOWN = (0, 30, 60, 90, 119)  # of these steps are the frames of a scene
_PART = 140  # scenes in a file
_HELD_OUT_SCENES = 60


def write_pools(out: Path, scenes: int, progress: Progress = silent) -> tuple[Path, Path]:
    """Write the missing files of frames to train on and of held-out ones; return their prefixes.

    Raises OSError when the disk cannot take them.
    """
    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, scenes, _PART)
    parts = [(f"frames{n:06d}", range(n, min(n + _PART, scenes))) for n in starts]
    first = HELD_OUT_SEEDS.start
    parts.append(("held-out", range(first, first + _HELD_OUT_SCENES)))
    for done, (name, seeds) in enumerate(parts):
        progress("rendering frames", done / len(parts))
        if not (out / f"{name}_rgb.npy").exists():
            write_frames(out / name, seeds)
    return out / "frames", out / "held-out"


def write_frames(prefix: Path, seeds: range, height: int = 320, width: int = 512) -> None:
    """Render five frames of play of each scene to PREFIX_{near,pitch,rgb}.npy.

    rgb uint8 [N, 3, height, width], near float16 [N, height, width] in 1/m, pitch float64 [N] in
    radians. The colours are written last, and every file appears when it is whole.
    """
    rgb, near, pitch = [], [], []
    for seed in seeds:
        scene = build_plain_scene(THEMES[seed % len(THEMES)], seed)
        _, states = random_walk(scene, seed, _STEPS, stubborn=seed % 4 == 3)
        for step in _SHOWN:
            color, nearness = render_rgbd(scene, states[step], height, width)
            rgb.append(color.numpy())
            near.append(nearness.numpy().astype(np.float16))
            pitch.append(float(states[step].pitch))
    for name, values in (("near", near), ("pitch", pitch), ("rgb", rgb)):
        partial = prefix.with_name(f".{prefix.name}_{name}.partial.npy")
        np.save(partial, np.array(values))
        partial.rename(prefix.with_name(f"{prefix.name}_{name}.npy"))
