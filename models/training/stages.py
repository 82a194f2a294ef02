"""Training from nothing to a world folder, stage by stage; every stage can be resumed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldbridge.models.checkpoint import save_world
from worldbridge.models.conditioning.actions import CONDITION_DIM
from worldbridge.models.progress import Progress
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.tokenizer.config import EMBEDDED
from worldbridge.models.training.data import make_prompt_frames, make_tokens
from worldbridge.models.training.recipe import Recipe
from worldbridge.models.training.train_heads import fingerprint, train_heads
from worldbridge.models.training.train_tokenizer import train_tokenizer
from worldbridge.models.training.train_transformer import train_transformer
from worldbridge.models.transformer import (
    MedusaHeads,
    TransformerConfig,
    VideoTransformer,
    WavefrontConfig,
)

__all__ = ["EMBEDDED_TRANSFORMER", "STAGES", "run_stages"]


# Modulation instead of the published cross-attention recipe: the action reaches every layer and
# every position of the latent as a scale and a shift, at the price of two multiply-adds a token
# and no attention, and it starts as the identity, so pictures are learned before controls.
EMBEDDED_TRANSFORMER = TransformerConfig(
    dim=192,
    n_layers=4,
    n_heads=3,
    n_kv_heads=1,
    head_dim=64,
    ffn_hidden_size=576,
    vocab_size=8**6,
    latent_shape=(8, 10, 16),
    rope_theta=100.0,
    conditioning="modulation",
    condition_dim=CONDITION_DIM,
    grid=WavefrontConfig(),
)


STAGES = ("pictures", "tokenizer", "tokens", "transformer", "heads", "export")


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
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
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
    if "heads" in stages:
        _heads(out, recipe, progress, device)
    if "export" in stages:
        _export(out, recipe, progress)
    return out / "world"


def _heads(out: Path, recipe: Recipe, progress: Progress, device: str) -> None:
    transformer = VideoTransformer(EMBEDDED_TRANSFORMER)
    transformer.load_state_dict(_load(out / "transformer.pt")["average"])
    heads = MedusaHeads(EMBEDDED_TRANSFORMER.dim, recipe.heads)
    codes, condition = _load_tokens(out)
    path = out / "heads.pt"
    train_heads(transformer, heads, codes, condition, recipe, path, progress, device)


def _export(out: Path, recipe: Recipe, progress: Progress) -> None:
    tokenizer, transformer = VideoTokenizer(EMBEDDED), VideoTransformer(EMBEDDED_TRANSFORMER)
    told = _load(out / "tokenizer.pt"), _load(out / "transformer.pt")
    tokenizer.load_state_dict(told[0]["model"])
    transformer.load_state_dict(told[1]["average"])
    how = _how_trained(out, recipe, *told)
    heads = None
    if (out / "heads.pt").exists():
        heads = _put_heads(_load(out / "heads.pt"), transformer, how, recipe)
        if heads is None:
            progress("heads.pt is unfinished or for another transformer and was left out", 1.0)
    save_world(out / "world", tokenizer, transformer, {"training": how}, heads)


def _put_heads(
    state: dict[str, Any], transformer: VideoTransformer, how: dict[str, Any], recipe: Recipe
) -> MedusaHeads | None:
    """The heads, if they are finished and for this network; what learned with them is put there."""
    if state["base"] != fingerprint(transformer.state_dict()) or state["share"] < 1:
        return None
    trained = dict(state["average"])
    heads = MedusaHeads(transformer.config.dim, state["count"])
    heads.load_state_dict({"weight": trained.pop("heads.weight")})
    transformer.load_state_dict(transformer.state_dict() | trained)
    how |= {
        "heads_steps": state["step"],
        "heads_minutes": recipe.heads_minutes,
        "network_nats_before_heads": round(state["loss_before"], 4),
        "network_nats_tried": round(state["loss_tried"], 4),
        "network_nats_with_heads": round(state["loss_after"], 4),
    }
    return heads


def _how_trained(
    out: Path, recipe: Recipe, tokenizer: dict[str, Any], transformer: dict[str, Any]
) -> dict[str, Any]:
    """What went into a world, for its world.json."""
    codes, _ = _load_tokens(out)
    return {
        "pictures": recipe.picture_clips * recipe.picture_frames,
        "frames_of_play": codes.shape[0] * codes.shape[1],
        "tokenizer_steps": tokenizer["step"],
        "tokenizer_minutes": recipe.tokenizer_minutes,
        "transformer_steps": transformer["step"],
        "transformer_minutes": recipe.transformer_minutes,
    }


def _pictures(out: Path, recipe: Recipe, progress: Progress) -> np.ndarray:
    """All training pictures [clips, frames, 3, H, W], rendered in one process a thread."""
    jobs = _parts(recipe.picture_clips, 20)
    _in_processes(_render_part, out, recipe, jobs, "rendering pictures", progress)
    return np.concatenate([np.load(_path(_render_part, out, part)) for part in jobs])


def _tokens(out: Path, recipe: Recipe, progress: Progress) -> None:
    jobs = _parts(recipe.token_clips, 20)
    _in_processes(_encode_part, out, recipe, jobs, "rendering and encoding play", progress)


def _parts(count: int, size: int) -> list[range]:
    return [range(i, min(i + size, count)) for i in range(0, count, size)]


_Job = tuple[Path, Recipe, range]


def _in_processes(
    work: Callable[[_Job], None],
    out: Path,
    recipe: Recipe,
    parts: list[range],
    text: str,
    progress: Progress,
) -> None:
    """Run `work` for every part whose file is not there yet."""
    todo = [(out, recipe, part) for part in parts if not _path(work, out, part).exists()]
    if not todo:
        return
    done = len(parts) - len(todo)
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(recipe.threads, len(todo))) as pool:
        for _ in pool.imap_unordered(work, todo):
            done += 1
            progress(text, done / len(parts))


def _path(work: Callable[[_Job], None], out: Path, indices: range) -> Path:
    kind, ending = ("pictures", "npy") if work is _render_part else ("tokens", "npz")
    return out / f"{kind}-{indices.start:05d}-{indices.stop:05d}.{ending}"


def _render_part(job: _Job) -> None:
    out, recipe, indices = job
    torch.set_num_threads(1)
    path = _path(_render_part, out, indices)
    partial = path.with_name("partial-" + path.name)
    make_prompt_frames(partial, indices, recipe.picture_frames, recipe.seed)
    partial.rename(path)


def _encode_part(job: _Job) -> None:
    out, recipe, indices = job
    torch.set_num_threads(1)
    tokenizer = VideoTokenizer(EMBEDDED)
    tokenizer.load_state_dict(_load(out / "tokenizer.pt")["model"])
    tokenizer.eval()
    path = _path(_encode_part, out, indices)
    partial = path.with_name("partial-" + path.name)
    make_tokens(partial, tokenizer, indices, recipe)
    partial.rename(path)


def _load_tokens(out: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted(out.glob("tokens-*.npz"))
    if not paths:
        raise FileNotFoundError(
            f"no tokens-*.npz in {out}: run the stage 'tokens' before it is trained on"
        )
    files = [np.load(path) for path in paths]
    return np.concatenate([f["codes"] for f in files]), np.concatenate(
        [f["condition"] for f in files]
    )


def _load(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run the stage that makes it first")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
