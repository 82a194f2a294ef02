"""What loading a world costs: time, parameters, memory."""

from __future__ import annotations

import mmap
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldbridge.models.checkpoint import read_manifest
from worldbridge.models.tokenizer import TokenizerConfig, VideoTokenizer
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.worlds.registry import open_world, spec_of

__all__ = ["LoadReport", "measure_load"]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Sizes in bytes. `peak_memory` is this process's largest so far, `before` the one before."""

    world: str
    seconds: float
    parameters: int
    weights: int
    peak_memory: int
    peak_memory_before: int


def measure_load(directory: Path) -> LoadReport:
    """Loads a world as a worker for one player does, and forgets it. Raises WorldError.

    Weights that are mapped from their files are in memory only once they are used, so all are read.
    """
    spec = spec_of(directory)
    before = _peak_memory()
    began = time.perf_counter()
    world = open_world(WorkerConfig(world=str(directory), seats=1, mode=None))
    if world.decoding is not None:
        _touch(world.decoding.tokenizer)
        _touch(world.decoding.transformer)
    seconds = time.perf_counter() - began
    del world
    manifest = read_manifest(directory)
    return LoadReport(
        spec.name, seconds, _parameters(manifest), _weights(manifest), _peak_memory(), before
    )


def _touch(network: nn.Module) -> None:
    """Read one number of every page of the weights."""
    for parameter in network.parameters():
        step = max(1, mmap.PAGESIZE // parameter.element_size())
        parameter.detach().flatten()[::step].float().sum()


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kibibytes


def _parameters(manifest: dict[str, Any]) -> int:
    with torch.device("meta"):
        networks = (
            VideoTokenizer(TokenizerConfig.from_dict(manifest["tokenizer"])),
            VideoTransformer(TransformerConfig.from_dict(manifest["transformer"])),
        )
    return sum(p.numel() for network in networks for p in network.parameters())


def _weights(manifest: dict[str, Any]) -> int:
    files = [f for e in manifest["files"].values() for f in (e if isinstance(e, list) else [e])]
    return sum(int(entry["bytes"]) for entry in files)
