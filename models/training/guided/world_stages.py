"""From a trained guided tokenizer to a world folder: clips, samples, transformer, export.

Every stage continues where it was interrupted, so the same call again finishes the work.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from worldbridge.models.errors import InputError
from worldbridge.models.guided.checkpoint import load_guided_world, save_guided_world
from worldbridge.models.guided.config import GuidedConfig
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.guided.transformer import GUIDED_TRANSFORMER, draw_active
from worldbridge.models.progress import Progress, silent
from worldbridge.models.training.guided.samples import (
    CLIPS_A_FILE,
    FrameSample,
    clip_frames,
    load_samples,
    write_samples,
)
from worldbridge.models.training.guided.sheet import png_bytes
from worldbridge.models.training.guided.train_world import WorldRecipe, train_world
from worldbridge.models.training.play_clips import ClipPlan, ClipShards, write_clip_shards
from worldbridge.models.transformer import VideoTransformer

__all__ = ["load_guided_tokenizer", "make_world", "write_world_sheet"]

_SHEET_FRAMES = (0, 3, 8, 16)


def load_guided_tokenizer(path: Path) -> GuidedTokenizer:
    """Return the average network of a tokenizer's checkpoint, or the tokenizer of a world folder.

    Raises InputError for a file that is none.
    """
    if path.is_dir():
        return load_guided_world(path).tokenizer
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        tokenizer = GuidedTokenizer(GuidedConfig(**state["config"]))
        tokenizer.load_state_dict(state["average"])
    except (OSError, KeyError, TypeError, RuntimeError, EOFError) as error:
        raise InputError(
            f"{path} is no checkpoint of a guided tokenizer",
            expected="tokenizer.pt of `worldbridge train tokenizer`",
            got=f"{type(error).__name__}: {error}"[:500],
            remedy="train the tokenizer first",
        ) from error
    return tokenizer.eval().requires_grad_(False)


def make_world(
    out: Path,
    tokenizer: Path,
    plan: ClipPlan,
    recipe: WorldRecipe,
    threads: int = 1,
    progress: Progress = silent,
    start: Path | None = None,
) -> Path:
    """Train a transformer beside a trained tokenizer; returns the world folder `out/world`.

    The transformer begins with the weights of the world folder `start`, if there is one, and that
    world's transformer draws the frames that fill the memory in half of the clips.

    `threads` are processes while play is rendered and encoded, then threads of the training.

    Raises InputError for a file that is no tokenizer, OSError when the disk cannot take the clips,
    RuntimeError when the loss is no longer a number.
    """
    network = load_guided_tokenizer(tokenizer)
    clips, samples = out / "clips", out / "samples"
    out.mkdir(parents=True, exist_ok=True)
    _in_processes(_render, plan.shards, (clips, plan), threads, "rendering play", progress)
    files = -(-plan.clips // CLIPS_A_FILE)
    shared = clips, tokenizer, samples, start
    _in_processes(_encode, files, shared, threads, "encoding play", progress)
    torch.set_num_threads(threads)
    shards = ClipShards(clips)
    held_out = clip_frames(shards.clip(len(shards) - 1), network)

    def sheet(model: VideoTransformer, step: int) -> None:
        write_world_sheet(out / f"sheet-{step:06d}.png", held_out, network, model)

    sizes = network.config
    config = replace(
        GUIDED_TRANSFORMER,
        latent_shape=(1, sizes.rows, sizes.columns),
        vocab_size=sizes.levels**sizes.digits,
    )
    earlier = None if start is None else load_guided_world(start)
    model = train_world(
        load_samples(samples),
        recipe,
        out,
        config,
        progress,
        sheet=sheet,
        start=earlier.transformer if earlier else None,
    )
    training = {"clips": plan.clips, "frames": plan.clips * plan.frames, "steps": recipe.steps}
    depth = earlier.depth if earlier else None
    save_guided_world(out / "world", network, model, {"training": training}, depth)
    return out / "world"


_Job = tuple[Callable[..., None], int, tuple[object, ...]]  # work, its number, what all share


def _in_processes(
    work: Callable[..., None],
    count: int,
    shared: tuple[object, ...],
    threads: int,
    text: str,
    progress: Progress,
) -> None:
    jobs: list[_Job] = [(work, number, shared) for number in range(count)]
    if threads == 1:
        for done, job in enumerate(jobs):
            progress(text, done / count)
            _run(job)
        return
    with multiprocessing.get_context("spawn").Pool(threads, _quietly) as pool:
        for done, _ in enumerate(pool.imap(_run, jobs)):
            progress(text, (done + 1) / count)


def _quietly() -> None:
    torch.set_num_threads(1)
    os.nice(10)


def _run(job: _Job) -> None:
    work, number, shared = job
    work(number, *shared)


def _render(number: int, clips: Path, plan: ClipPlan) -> None:
    write_clip_shards(clips, plan, range(number, number + 1))


def _encode(number: int, clips: Path, tokenizer: Path, samples: Path, start: Path | None) -> None:
    transformer = None if start is None else load_guided_world(start).transformer
    network = load_guided_tokenizer(tokenizer)
    write_samples(clips, network, samples, files=[number], transformer=transformer)


@torch.inference_mode()
def write_world_sheet(
    path: Path,
    frames: list[FrameSample],
    tokenizer: GuidedTokenizer,
    model: VideoTransformer,
    temperature: float = 0.8,
) -> None:
    """Write a PNG: per frame the truth, the guide, the frame of true codes, and of drawn codes."""
    rows = []
    for number in _SHEET_FRAMES:
        if number >= len(frames):
            break
        frame = frames[number]
        features = tokenizer.guide_features(frame.guide)
        generator = torch.Generator().manual_seed(number)
        drawn = draw_active(
            model,
            frame.active,
            frame.blocks.float(),
            torch.full_like(frame.digits, -1, dtype=torch.long),
            frame.condition,
            generator,
            temperature,
        )
        decoded = [
            tokenizer.decode(digits[None], frame.active[None], frame.guide, features)[0][0]
            for digits in (frame.digits, drawn.clamp_min(0))
        ]
        given = torch.where(frame.guide[0, 4:5] > 0, frame.guide[0, :3], -0.5)
        rows.append(torch.cat([frame.color, given, *decoded], 2))
    sheet = ((torch.cat(rows, 1).clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0)
    path.write_bytes(png_bytes(np.ascontiguousarray(sheet.numpy())))
