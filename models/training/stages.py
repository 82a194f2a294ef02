"""Training from nothing to a world folder, stage by stage; every stage can be resumed."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.tokenizer.configs import EMBEDDED
from worldbridge.models.training.data import make_pictures, make_tokens
from worldbridge.models.training.embedded import EMBEDDED_TRANSFORMER
from worldbridge.models.training.recipe import Recipe
from worldbridge.models.training.train_tokenizer import train_tokenizer
from worldbridge.models.training.train_transformer import train_transformer
from worldbridge.models.transformer import VideoTransformer
from worldbridge.models.world_folder import save_world

__all__ = ["STAGES", "run_stages"]

STAGES = ("pictures", "tokenizer", "tokens", "transformer", "export")

Progress = Callable[[str, float], None]


def run_stages(
    out: Path,
    recipe: Recipe,
    stages: tuple[str, ...] = STAGES,
    progress: Progress = lambda text, share: None,
    device: str = "cpu",
) -> Path:
    """Run the stages in order in folder `out`; returns the world folder `out/world`."""
    unknown = [name for name in stages if name not in STAGES]
    if unknown:
        raise ValueError(f"unknown stages {unknown}; expected some of {list(STAGES)}")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer = VideoTokenizer(EMBEDDED)
    transformer = VideoTransformer(EMBEDDED_TRANSFORMER)
    if "pictures" in stages:
        _pictures(out, recipe, progress)
    if "tokenizer" in stages:
        pictures = _pictures(out, recipe, progress)
        train_tokenizer(tokenizer, pictures, recipe, out / "tokenizer.pt", progress, device)
    if "tokens" in stages:
        _tokens(out, recipe, progress)
    if "transformer" in stages:
        codes, condition = _load_tokens(out)
        checkpoint = out / "transformer.pt"
        train_transformer(transformer, codes, condition, recipe, checkpoint, progress, device)
    if "export" in stages:
        tokenizer.load_state_dict(_load(out / "tokenizer.pt")["model"])
        transformer.load_state_dict(_load(out / "transformer.pt")["average"])
        save_world(out / "world", tokenizer.cpu(), transformer.cpu())
    return out / "world"


def _pictures(out: Path, recipe: Recipe, progress: Progress) -> np.ndarray:
    path = out / "pictures.npy"
    return make_pictures(path, recipe.picture_clips, recipe.picture_frames, recipe.seed, progress)


def _tokens(out: Path, recipe: Recipe, progress: Progress) -> None:
    """Encode play in one process a thread; parts that exist already are kept."""
    parts = [range(i, min(i + 50, recipe.token_clips)) for i in range(0, recipe.token_clips, 50)]
    todo = [(out, recipe, part) for part in parts if not _part(out, part).exists()]
    done = len(parts) - len(todo)
    context = multiprocessing.get_context("spawn")
    with context.Pool(max(1, min(recipe.threads, len(todo)))) as pool:
        for _ in pool.imap_unordered(_encode_part, todo):
            done += 1
            progress("rendering and encoding play", done / len(parts))


def _part(out: Path, indices: range) -> Path:
    return out / f"tokens-{indices.start:05d}-{indices.stop:05d}.npz"


def _encode_part(job: tuple[Path, Recipe, range]) -> None:
    out, recipe, indices = job
    torch.set_num_threads(1)
    tokenizer = VideoTokenizer(EMBEDDED)
    tokenizer.load_state_dict(_load(out / "tokenizer.pt")["model"])
    tokenizer.eval()
    path = _part(out, indices)
    partial = path.with_suffix(".partial.npz")
    make_tokens(partial, tokenizer, indices, recipe.token_frames, recipe.seed, lambda *_: None)
    partial.rename(path)


def _load_tokens(out: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted(p for p in out.glob("tokens-*.npz") if ".partial" not in p.name)
    if not paths:
        raise FileNotFoundError(
            f"no tokens-*.npz in {out}: run the stage 'tokens' before 'transformer'"
        )
    files = [np.load(path) for path in paths]
    return np.concatenate([f["codes"] for f in files]), np.concatenate([f["condition"] for f in files])


def _load(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the stage that makes it first")
    state: dict[str, dict[str, torch.Tensor]] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def console_progress() -> Progress:
    """Print a line when the text changes its head or ten seconds have passed."""
    last = [0.0]

    def show(text: str, share: float) -> None:
        now = time.monotonic()
        if now - last[0] >= 10 or share >= 1:
            last[0] = now
            print(f"{share:6.1%}  {text}", flush=True)

    return show
