"""How fast each decode mode of a world draws its latents, and whether all draw the same ones."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from worldbridge.models.world_folder import (
    EMBEDDED_WORLD,
    DamagedWorldError,
    load_world,
    read_manifest,
)
from worldbridge.runtime.bench.environment import describe
from worldbridge.runtime.bench.gpus import datasheet_bandwidth, describe_gpu, need_device, percent
from worldbridge.runtime.bench.lineup import (
    Contender,
    GridLineup,
    Lineup,
    RasterLineup,
    Subject,
)
from worldbridge.runtime.bench.presets import preset_config, preset_world
from worldbridge.runtime.bench.streams import Stream
from worldbridge.runtime.bench.timing import Laps, percentiles, read_bandwidth
from worldbridge.runtime.errors import DamagedWeightsError
from worldbridge.runtime.registry import directory_of
from worldbridge.runtime.weights import Precision
from worldbridge.runtime.world import Progress

__all__ = ["bench_decode", "measure"]

_WARM_UP = 2  # latents before measuring: they are recorded, packed and paged in
_UNTRAINED = (
    "random weights: the times are those of a trained model of these shapes, but how often guesses "
    "are right, and with it the frames per second of a mode that guesses, say nothing about one"
)


@dataclass(frozen=True, slots=True)
class _Run:
    """What one contender did."""

    contender: Contender
    forwards_ms: list[float]
    latents_ms: list[float]
    context_tokens: float  # mean
    codes: Tensor  # [latents, h, w]

    @property
    def bytes_read(self) -> float:
        """By a forward: the weights once, and the keys and values that it attends to."""
        return self.contender.weight_bytes + self.context_tokens * self.contender.pair_bytes

    def seconds_a_latent(self, count: int) -> float:
        """Mean of the first `count`."""
        return statistics.fmean(self.latents_ms[:count]) / 1000


def bench_decode(
    world: str = "embedded",
    *,
    preset: str | None = None,
    device: str = "cpu",
    weights: str | None = None,
    context: int | None = None,
    only: Sequence[str] = (),
    quick: bool,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """Every mode draws the same stream; what `worldbridge bench decode --json` prints.

    `preset` stands for random weights of published shapes, in place of a world. `context` is how
    many latents every measured one begins behind; without it the window fills and slides as in
    play. `weights` ("bf16", "fp8", "int8") is the type in which weights are read, by default the
    model's own. `only` names the modes to measure besides the plain way and `sequential`.

    Raises UnknownWorldError, DamagedWeightsError, NoDeviceError, and ValueError for a world without
    a transformer, and for options that do not fit it.
    """
    torch.set_num_threads(threads)
    place = need_device(device)
    progress("loading weights", 0.0)
    subject = _loaded(world, place) if preset is None else _made(preset, place)
    subject = _with_options(subject, weights, context)
    return {"threads": threads, **measure(subject, only=only, quick=quick, progress=progress)}


def measure(
    subject: Subject, *, only: Sequence[str], quick: bool, progress: Progress
) -> dict[str, Any]:
    """As `bench_decode`, of weights that are there."""
    lineup: Lineup
    grid = subject.config.grid is not None
    lineup = GridLineup(subject, only) if grid else RasterLineup(subject, only)
    latents = lineup.latents[0 if quick else 1]
    few = max(2, latents // (5 if quick else 9))  # the plain way is slow
    progress("measuring how fast memory is read", 0.0)
    bandwidth = read_bandwidth(subject.device, quick)
    runs: list[_Run] = []
    for i, name in enumerate(lineup.names):
        progress(f"decoding, {name}", 0.1 + 0.9 * i / len(lineup.names))
        count = few if name == lineup.plain else latents
        runs.append(_run(*lineup.contender(name), count, subject.device))
    progress("done", 1.0)
    return _result(subject, lineup.plain, runs, bandwidth)


# -- what is decoded ----------------------------------------------------------------------------


def _made(preset: str, device: torch.device) -> Subject:
    """Random weights, behind as many latents as the model knows."""
    full = preset_config(preset).latent_shape[0] - 1
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return Subject(preset_world(preset, device, dtype), device, context=full, trained=False)


def _with_options(subject: Subject, weights: str | None, context: int | None) -> Subject:
    """Raises ValueError for a type of weights that the model has not and cannot be read in."""
    if context is not None:
        subject = dataclasses.replace(subject, context=context)
    if weights is None:
        return subject
    own = subject.world.transformer.norm.weight.dtype
    if weights in ("fp8", "int8"):
        return dataclasses.replace(subject, precision=cast(Precision, weights))
    if own != torch.bfloat16:
        raise ValueError(
            f"expected --weights fp8 or int8, or bf16 for a model in bfloat16, got {weights} for "
            f"one in {own}; leave --weights out to read its own type"
        )
    return subject


def _loaded(world: str, device: torch.device) -> Subject:
    """On a CPU in float32, on a GPU in the types of the files."""
    folder = _folder(world)
    try:
        loaded = load_world(folder, keep_types=device.type == "cuda")
        converted = read_manifest(folder).get("kind") == "cosmos"
    except DamagedWorldError as error:
        raise DamagedWeightsError.of(error) from error
    for module in (loaded.tokenizer, loaded.transformer, loaded.heads):
        if module is not None:
            module.to(device)
    # a converted checkpoint brings no record of its training
    trained = True if loaded.manifest.get("training") else None if converted else False
    return Subject(loaded, device, trained=trained)


def _folder(world: str) -> Path:
    if world == "procedural":
        raise ValueError(
            "the procedural world draws no latents; expected a world with a transformer: pass "
            "`embedded` or the folder of a trained or converted world"
        )
    return directory_of(world) or EMBEDDED_WORLD


# -- measuring ----------------------------------------------------------------------------------


@torch.inference_mode()
def _run(contender: Contender, stream: Stream, latents: int, device: torch.device) -> _Run:
    laps = Laps(device)
    forwards: list[float] = []
    whole: list[float] = []
    codes: list[Tensor] = []
    contexts: list[int] = []
    for number in range(_WARM_UP + latents):
        drawn = stream.latent(number, laps.mark)
        times = laps.take()
        if number < _WARM_UP:
            continue
        codes.append(drawn.cpu().clone())
        forwards += times
        whole.append(sum(times))
        contexts.append(stream.context_tokens)
    return _Run(contender, forwards, whole, statistics.fmean(contexts), torch.stack(codes))


def _result(
    subject: Subject, plain: str, runs: Sequence[_Run], bandwidth: float
) -> dict[str, Any]:
    by_name = {run.contender.name: run for run in runs}
    gpu = describe_gpu(subject.device)
    first, slow = by_name["sequential"], by_name[plain]
    peak = None if gpu is None else datasheet_bandwidth(gpu["name"])
    frames = int(subject.world.manifest["tokenizer"]["temporal_compression"])
    return {
        "environment": describe(),
        "device": str(subject.device),
        "gpu": gpu,
        "world": subject.world.manifest["name"],
        "parameters": sum(p.numel() for p in subject.world.transformer.parameters()),
        "trained": subject.trained,
        # weights of one byte draw other tokens than the model's own, in every mode
        "precision": subject.precision,
        **({"note": _UNTRAINED} if subject.trained is False else {}),
        "batch": 1,
        "context_latents": subject.context,
        "context_tokens": round(first.context_tokens),
        "latents": len(first.codes),
        "bytes_read_per_forward": round(first.bytes_read),
        "bytes_formula": "every matrix once (the unembedding twice where heads guess), keys and "
        "values of the context once",
        "measured_read_bandwidth_gb_s": round(bandwidth / 1e9, 2),
        "datasheet_bandwidth_gb_s": None if peak is None else peak / 1e9,
        "baseline": plain,
        "modes": [_report(run, first, slow, frames, bandwidth, peak) for run in runs],
    }


def _report(
    run: _Run, first: _Run, plain: _Run, frames: int, bandwidth: float, peak: float | None
) -> dict[str, Any]:
    """`first` is the sequential run. Comparisons are of latents that both drew."""
    forward, count = percentiles(run.forwards_ms), len(run.codes)
    rate = run.bytes_read / (forward["p50"] / 1000)
    both, few = min(count, len(first.codes)), min(count, len(plain.codes))
    same = run.codes[:both] == first.codes[:both]
    return {
        "name": run.contender.name,
        "how": run.contender.how(),
        "exact": run.contender.exact,
        "identical_to_sequential": bool(same.all()),
        "tokens_as_sequential": round(float(same.double().mean()), 4),
        "latents": count,
        "ms_per_forward": {key: round(value, 4) for key, value in forward.items()},
        "ms_per_latent": {k: round(v, 3) for k, v in percentiles(run.latents_ms).items()},
        "rows_per_forward": run.contender.rows,
        "tokens_per_forward": round(run.codes.numel() / len(run.forwards_ms), 3),
        "forwards_per_latent": round(len(run.forwards_ms) / count, 2),
        "frames_per_second": round(frames / run.seconds_a_latent(count), 3),
        "times_sequential": round(first.seconds_a_latent(both) / run.seconds_a_latent(both), 2),
        "times_plain": round(plain.seconds_a_latent(few) / run.seconds_a_latent(few), 2),
        "context_tokens": round(run.context_tokens),
        "gb_per_forward": round(run.bytes_read / 1e9, 6),
        "gb_per_second": round(rate / 1e9, 3),
        "percent_of_measured_bandwidth": percent(rate, bandwidth),
        "percent_of_datasheet": percent(rate, peak),
    }
