"""Write a checkpoint of random weights: `python -m worldbridge.models.convert.synthetic`.

It tries a conversion at full size without the published weights. The files have the published
layout. The weights are never all in memory: a file is written with holes for the data, which are
then filled through a memory map, about a gigabyte at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import mmap
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from worldbridge.models.convert.checkpoint import split_dimension
from worldbridge.models.convert.convert import plan_shards
from worldbridge.models.convert.detect import SIZES, shapes_of
from worldbridge.models.convert.files import Info
from worldbridge.models.tokenizer import DV8X16X16, TokenizerConfig, VideoTokenizer
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.models.transformer.config import COSMOS

__all__ = ["write_checkpoint", "write_tokenizer"]

_GIB = 1 << 30
_PREFIX = "model."


def write_checkpoint(
    folder: Path, config: TransformerConfig, *, ranks: int = 1, seed: int = 0
) -> list[Path]:
    """Write model.pt, or one file for each of several ranks, in bfloat16; return the paths.

    Tensors that are not divided are equal in all ranks, as training leaves them.
    """
    with torch.device("meta"):
        shapes = shapes_of(VideoTransformer(config))
    paths = [folder / "model.pt"]
    if ranks > 1:
        paths = [folder / f"model_model_mp_{rank}.pt" for rank in range(ranks)]
    for rank, path in enumerate(paths):
        part = {_PREFIX + name: _share(name, shape, ranks) for name, shape in shapes.items()}
        _write(path, part, "model", seed, rank)
    return paths


def write_tokenizer(folder: Path, config: TokenizerConfig = DV8X16X16, *, seed: int = 0) -> Path:
    """Write autoencoder.pt, a plain state dict in bfloat16, and return its path."""
    with torch.device("meta"):
        shapes = shapes_of(VideoTokenizer(config))
    _write(folder / "autoencoder.pt", shapes, None, seed)
    return folder / "autoencoder.pt"


def _share(name: str, shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:
    dimension = split_dimension(name)
    if dimension is None:
        return shape
    if shape[dimension] % ranks:
        raise ValueError(f"{name} {list(shape)} cannot be divided among {ranks} ranks")
    return tuple(n // ranks if axis == dimension else n for axis, n in enumerate(shape))


def _write(
    path: Path, shapes: Mapping[str, tuple[int, ...]], top: str | None, seed: int, rank: int = 0
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # empty tensors are never written, so the system gives them no memory
    state = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    with torch.serialization.skip_data():
        torch.save(state if top is None else {top: state}, path)
    del state
    infos = {name: Info(shape, torch.bfloat16) for name, shape in shapes.items()}
    own, common = (torch.Generator().manual_seed(n) for n in (seed + rank, seed - 1))
    for names in plan_shards(infos, _GIB):
        # opened again for each group: what is mapped counts as memory until it is closed
        with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
            data = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        filled: dict[str, Tensor] = data if top is None else data[top]
        for name in names:
            _fill(name, filled[name], own if split_dimension(name) is not None else common)


def _fill(name: str, value: Tensor, generator: torch.Generator) -> None:
    if name.endswith("norm.weight"):
        value.fill_(1.0)
    else:
        value.uniform_(-0.03, 0.03, generator=generator)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worldbridge.models.convert.synthetic",
        description="Write a checkpoint of random weights in the published layout.",
    )
    parser.add_argument("out", type=Path, help="folder for model.pt and autoencoder.pt")
    parser.add_argument("--size", choices=SIZES, default="4b", help="default: 4b (8 GB)")
    parser.add_argument("--layers", type=int, help="fewer layers than the size has")
    parser.add_argument("--actions", type=int, help="size of its action vector (5b and 13b)")
    parser.add_argument("--camera", action="store_true", help="conditioned on cameras")
    parser.add_argument("--ranks", type=int, default=1, help="divide it for tensor parallelism")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    chosen = parser.parse_args(arguments)
    config = COSMOS[SIZES[chosen.size]]
    if chosen.layers is not None:
        config = dataclasses.replace(config, n_layers=chosen.layers)
    if chosen.actions is not None:
        if config.context_dim is None:
            parser.error(f"--actions needs cross-attention, which {chosen.size} has not; take 5b")
        config = dataclasses.replace(
            config, conditioning="cross_attention", condition_dim=chosen.actions
        )
    if chosen.camera:
        config = dataclasses.replace(config, camera="pluecker")
    paths = write_checkpoint(chosen.out, config, ranks=chosen.ranks, seed=chosen.seed)
    for path in [*paths, write_tokenizer(chosen.out, seed=chosen.seed)]:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
