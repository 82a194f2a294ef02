"""How fast each decode mode of a world draws its latents, and whether all draw the same ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldbridge.models.transformer import VideoTransformer
from worldbridge.models.world_folder import EMBEDDED_WORLD, World, load_world, read_manifest
from worldbridge.models.worlds import THEMES
from worldbridge.runtime.ar_world import ArState, ArWorld
from worldbridge.runtime.bench.environment import describe
from worldbridge.runtime.bench.timing import percentiles, read_bandwidth
from worldbridge.runtime.cosmos_world import CosmosState, CosmosWorld
from worldbridge.runtime.decoding import DECODE_MODES, RASTER_MODES
from worldbridge.runtime.decoding.packed import PackedLinear
from worldbridge.runtime.registry import directory_of
from worldbridge.runtime.world import Progress, WorldStart

__all__ = ["bench_decode"]

_SEED = 7
_WARM_UP = 2  # latents before measuring: they are recorded, packed and paged in


@dataclass(frozen=True, slots=True)
class _Run:
    """What one mode did."""

    forwards_ms: list[float]
    latents_ms: list[float]
    frames: int
    codes: Tensor  # [latents, h, w]


def bench_decode(
    world: str, *, quick: bool, threads: int, progress: Progress
) -> dict[str, Any]:
    """Every mode draws the same stream of a world; what `worldbridge bench decode --json` prints.

    Sequential decoding, one token per forward and nothing recorded, is the plain way that the other
    modes are compared with, in the same run. Pixels are not made.
    Raises UnknownWorldError, DamagedWeightsError, ValueError for a world without a transformer.
    """
    torch.set_num_threads(threads)
    folder = _folder(world)
    loaded = load_world(folder)
    cosmos = read_manifest(folder).get("kind") == "cosmos"
    latents = (3 if cosmos else 15) if quick else (8 if cosmos else 90)
    device = next(loaded.transformer.parameters()).device
    progress("measuring how fast memory is read", 0.0)
    bandwidth = read_bandwidth(device, quick)
    modes = [m for m in (RASTER_MODES if cosmos else DECODE_MODES) if _has(loaded, m)]
    modes.sort(key=lambda name: name != "sequential")
    runs: dict[str, _Run] = {}
    for i, name in enumerate(modes):
        progress(f"decoding, {name}", 0.1 + 0.9 * i / len(modes))
        runs[name] = _run(_stream(loaded, cosmos, name), latents)
    progress("done", 1.0)
    read = _bytes_read(loaded.transformer, packed=not cosmos)
    return {
        "environment": describe(),
        "world": loaded.manifest["name"],
        "parameters": sum(p.numel() for p in loaded.transformer.parameters()),
        "trained": True,
        "threads": threads,
        "batch": 1,
        "context_tokens": _context_tokens(loaded.transformer),
        "latents": latents,
        "bytes_read_per_forward": read,
        "measured_read_bandwidth_gb_s": round(bandwidth / 1e9, 2),
        "baseline": "sequential",
        "modes": [
            _report(name, run, runs["sequential"], read, bandwidth) for name, run in runs.items()
        ],
    }


def _folder(world: str) -> Path:
    if world == "procedural":
        raise ValueError(
            "the procedural world draws no latents; expected a world with a transformer: pass "
            "`embedded` or the folder of a trained or converted world"
        )
    return directory_of(world) or EMBEDDED_WORLD


def _has(world: World, mode: str) -> bool:
    return mode != "medusa" or world.heads is not None


def _report(
    name: str, run: _Run, plain: _Run, read: int, bandwidth: float
) -> dict[str, Any]:
    forward = percentiles(run.forwards_ms)
    tokens = run.codes[0].numel() * len(run.codes)
    seconds = sum(run.latents_ms) / 1000
    return {
        "name": name,
        "exact": True,
        "identical_to_sequential": torch.equal(run.codes, plain.codes),
        "ms_per_forward": {key: round(value, 4) for key, value in forward.items()},
        "ms_per_latent": {k: round(v, 3) for k, v in percentiles(run.latents_ms).items()},
        "tokens_per_forward": round(tokens / len(run.forwards_ms), 3),
        "forwards_per_latent": round(len(run.forwards_ms) / len(run.codes), 2),
        "frames_per_second": round(run.frames / seconds, 3),
        "times_sequential": round(sum(plain.latents_ms) / sum(run.latents_ms), 2),
        "gb_per_second": round(read / (forward["p50"] / 1000) / 1e9, 3),
        "percent_of_measured_bandwidth": round(100 * read / (forward["p50"] / 1000) / bandwidth, 1),
    }


# -- streams ------------------------------------------------------------------------------------


class _Stream:
    """One session of a world that walks ahead and turns, one latent at a time."""

    def __init__(self, world: ArWorld | CosmosWorld) -> None:
        self.world: Any = world
        self.state: ArState | CosmosState = world.open(WorldStart(THEMES[0], _SEED))
        self.marks: list[float] = []
        self.world.decoder.between = lambda: self.marks.append(time.monotonic() * 1000)

    def latent(self, number: int) -> tuple[list[float], int]:
        """Begin of each forward, and the end of the last one, in ms; how many frames it gave."""
        self.marks.clear()
        action = torch.tensor([[0.0, 1.0, 0.5 if number // 10 % 2 else 0.0, 0.0]])
        drawn = self.world.step([self.state], action)
        marks, frames = [*self.marks, drawn.t_tokens], 1
        if isinstance(self.state, CosmosState):
            frames += len(self.state.pending)
            self.state.pending.clear()
        return marks, frames

    @property
    def codes(self) -> Tensor:
        if isinstance(self.state, ArState):
            return self.state.codes[-1]
        return self.state.session.window[-1]


def _stream(world: World, cosmos: bool, mode: str) -> _Stream:
    if cosmos:
        return _Stream(CosmosWorld(world, 1, mode))
    return _Stream(ArWorld(world, 1, mode))


@torch.inference_mode()
def _run(stream: _Stream, latents: int) -> _Run:
    forwards: list[float] = []
    whole: list[float] = []
    codes: list[Tensor] = []
    frames = 0
    for number in range(_WARM_UP + latents):
        marks, shown = stream.latent(number)
        codes.append(stream.codes.cpu().clone())
        if number < _WARM_UP:
            continue
        forwards += [b - a for a, b in zip(marks, marks[1:], strict=False)]
        whole.append(marks[-1] - marks[0])
        frames += shown
    return _Run(forwards, whole, frames, torch.stack(codes)[_WARM_UP:])


# -- how much is read ---------------------------------------------------------------------------


def _bytes_read(model: VideoTransformer, packed: bool) -> int:
    """Weights of all matrix products of a forward, and the keys and values of a full window."""
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    probe = PackedLinear(torch.zeros(8, 8)) if packed else None
    halved = probe is not None and probe.packed is not None
    weights = sum(w.numel() * (2 if halved else w.element_size()) for w in matrices)
    config = model.config
    pairs = 2 * config.n_layers * config.n_kv_heads * config.head_dim
    size = 4 if packed else model.norm.weight.element_size()
    return weights + _context_tokens(model) * pairs * size


def _context_tokens(model: VideoTransformer) -> int:
    """Of a full window."""
    latents, height, width = model.config.latent_shape
    if model.config.grid is not None:
        latents = model.config.grid.window_frames
    return latents * height * width
