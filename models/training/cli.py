"""What `worldbridge train` does with its options."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path

import torch

from worldbridge.models.progress import Progress
from worldbridge.models.training.recipe import GPU, QUICK, Recipe
from worldbridge.models.training.stages import STAGES, run_stages

__all__ = ["STAGE_NAMES", "plan", "train"]


STAGE_NAMES = {
    "all": STAGES,
    "data": ("pictures",),
    "tokenizer": ("pictures", "tokenizer"),
    "world": ("tokens", "transformer", "heads", "export"),
    "heads": ("heads", "export"),
}
# Shares of the time on two cores; the rest renders and encodes play.
_TOKENIZER, _TRANSFORMER, _HEADS = 0.34, 0.46, 0.06


def plan(
    minutes: float, frames: int | None, quick: bool, threads: int, device: str = "cpu"
) -> Recipe:
    """The recipe for `minutes` in all and `frames` of recorded play."""
    if quick:
        return dataclasses.replace(QUICK, threads=threads)
    base = GPU if device == "cuda" else Recipe()
    if frames is None and device == "cuda":
        frames = base.token_clips * base.token_frames
    elif frames is None:  # as much as a seventh of the time renders and encodes on two cores
        frames = max(1_600, round(minutes * 190))
    return dataclasses.replace(
        base,
        token_clips=max(10, round(frames / base.token_frames)),
        tokenizer_minutes=minutes * _TOKENIZER,
        transformer_minutes=minutes * _TRANSFORMER,
        heads_minutes=minutes * _HEADS,
        threads=threads,
    )


def train(
    *,
    out: Path,
    minutes: float = 100.0,
    frames: int | None = None,
    stage: str = "all",
    resume: Path | None = None,
    device: str = "auto",
    quick: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train into `out` and return the finished world's folder, `out/world`.

    `resume` is an earlier run's folder; its parts are copied to `out` where they are missing there.
    `progress` is told what is done and its share; without it, lines are printed.
    Interrupted runs go on when the same command is given again. Raises ValueError for an unknown
    stage or a device that is not there.
    """
    if stage not in STAGE_NAMES:
        raise ValueError(f"unknown stage {stage!r}; expected one of {sorted(STAGE_NAMES)}")
    if resume is not None and resume != out:
        _copy_parts(resume, out)
    chosen = _device(device)
    recipe = plan(minutes, frames, quick, os.cpu_count() or 1, chosen)
    world = run_stages(out, recipe, STAGE_NAMES[stage], progress or lines(), chosen)
    if "export" in STAGE_NAMES[stage]:
        print(f"finished: {world}  (play it: worldbridge serve --world {world})")
    return world


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device 'cuda': expected a GPU that PyTorch can use, found none; use --device cpu"
        )
    return name


def _copy_parts(source: Path, out: Path) -> None:
    if not source.is_dir():
        raise ValueError(f"--resume {source}: expected the folder of an earlier run, found none")
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and not (out / path.name).exists():
            shutil.copy2(path, out / path.name)


def lines(every_s: float = 10.0) -> Progress:
    """Print a line when `every_s` seconds have passed, and at the end of a stage."""
    last = time.monotonic() - every_s

    def show(text: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s or share >= 1:
            last = now
            print(f"{share:6.1%}  {text}", flush=True)

    return show
