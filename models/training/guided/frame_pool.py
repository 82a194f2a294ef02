"""Single plain frames with nearness, rendered for the tokenizer's training and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldbridge.models.errors import InputError
from worldbridge.models.procedural.plain import build_plain_scene
from worldbridge.models.procedural.policy import random_walk
from worldbridge.models.procedural.render import render_rgbd
from worldbridge.models.procedural.scene import THEMES
from worldbridge.models.progress import Progress, silent
from worldbridge.models.training.play_clips import HELD_OUT_SEEDS
from worldbridge.models.training.recorded_play import read_play, size_of

__all__ = ["FEWEST_FRAMES", "write_frames", "write_pools", "write_recorded_pools"]

FEWEST_FRAMES = 100  # of recorded play, of which every eighth is taken
_EVERY = 8  # frames of recorded play that follow each other are almost the same
_Frame = tuple[NDArray[Any], NDArray[Any], float]  # color, nearness, pitch

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
    frames: list[_Frame] = []
    for seed in seeds:
        scene = build_plain_scene(THEMES[seed % len(THEMES)], seed)
        _, states = random_walk(scene, seed, _STEPS, stubborn=seed % 4 == 3)
        for step in _SHOWN:
            color, nearness = render_rgbd(scene, states[step], height, width)
            near = nearness.numpy().astype(np.float16)
            frames.append((color.numpy(), near, float(states[step].pitch)))
    _save(prefix, frames)


def write_recorded_pools(
    out: Path, shards: Sequence[Path], height: int, width: int, progress: Progress = silent
) -> tuple[Path, Path]:
    """Write every eighth frame of recorded play to files; return the prefixes of `write_pools`.

    A tenth of the frames, in pieces of ten that follow each other, is held out. Files that were
    made of the same shards before are kept.

    Raises InputError for a file that is no such shard, too little play, or a folder with other
    frames; OSError when the disk cannot take them.
    """
    out.mkdir(parents=True, exist_ok=True)
    made, source = out / "recorded.json", json.dumps([[p.name, size_of(p)] for p in shards])
    if made.exists() and made.read_text() == source:
        return out / "frames", out / "held-out"
    if made.exists() or any(out.glob("*_rgb.npy")):
        raise InputError(
            f"{out} holds other frames",
            expected="an empty folder, or the frames of these recordings",
            got="frames of other play",
            remedy="choose another --out, or delete this folder",
        )
    known: list[_Frame] = []
    held_out: list[_Frame] = []
    count = parts = 0
    for number, shard in enumerate(shards):
        progress(f"reading {shard.name}", number / len(shards))
        for clip in read_play(shard, height, width):
            for t in range(0, len(clip.frames), _EVERY):
                frame = clip.frames[t].numpy(), clip.nearness[t].numpy(), float(clip.cameras[t, 3])
                (held_out if count // 10 % 10 == 9 else known).append(frame)
                count += 1
            if len(known) >= _PART * len(_SHOWN):
                _save(out / f"frames{parts:06d}", known)
                known, parts = [], parts + 1
    if count < FEWEST_FRAMES:
        raise InputError(
            "there is too little recorded play",
            expected=f"at least {FEWEST_FRAMES * _EVERY} frames",
            got=f"{count} of them, every {_EVERY}th taken",
            remedy="record more",
        )
    if known:
        _save(out / f"frames{parts:06d}", known)
    _save(out / "held-out", held_out)
    made.write_text(source)
    return out / "frames", out / "held-out"


def _save(prefix: Path, frames: Sequence[_Frame]) -> None:
    rgb, near, pitch = zip(*frames, strict=True)
    for name, values in (("near", near), ("pitch", pitch), ("rgb", rgb)):
        partial = prefix.with_name(f".{prefix.name}_{name}.partial.npy")
        np.save(partial, np.array(values))
        partial.rename(prefix.with_name(f"{prefix.name}_{name}.npy"))
