"""How fast each decode mode of a world draws its latents, and whether all draw the same ones."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldbridge.benchmarks.decode.lineup import (
    DRAFTING,
    Contender,
    Lineup,
    RasterLineup,
    Subject,
    WavefrontLineup,
    check_acceptances,
    check_choices,
    precision_of,
)
from worldbridge.benchmarks.decode.presets import preset_config, preset_world
from worldbridge.benchmarks.decode.streams import Stream
from worldbridge.benchmarks.machine import (
    GpuWatch,
    datasheet_bandwidth,
    describe,
    describe_gpu,
    need_device,
    percent,
    watching,
)
from worldbridge.benchmarks.timing import Laps, percentiles, read_bandwidth
from worldbridge.models.checkpoint import EMBEDDED_WORLD, load_world, read_manifest
from worldbridge.models.errors import DamagedWorldError
from worldbridge.runtime.errors import DamagedWeightsError
from worldbridge.runtime.worlds.contract import Progress
from worldbridge.runtime.worlds.registry import directory_of

__all__ = ["Run", "bench_decode", "measure", "result_of"]


_WARM_UP = 2  # latents before measuring: they are recorded, packed and paged in


def bench_decode(
    world: str = "embedded",
    *,
    preset: str | None = None,
    device: str = "cpu",
    weights: str | None = None,
    context: int | None = None,
    only: Sequence[str] = (),
    widths: Sequence[int] = (),
    diagonals: Sequence[int] = (),
    acceptances: Sequence[float] = (),
    quick: bool,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """Every mode draws the same stream; what `worldbridge bench decode --json` prints.

    `preset` stands for random weights of published shapes, in place of a world. `context` is how
    many latents every measured one begins behind; without it the window fills and slides as in
    play. `weights` ("bf16", "fp8", "int8") is the type in which weights are read, by default the
    model's own. `only` names the modes to measure besides the plain way and `sequential`. `widths`
    are windows of mode jacobi and `diagonals` steps of mode diagonal, each measured by itself.

    `acceptances` are tokens per forward. For each, a mode that drafts and can sample that many says
    under `frames_per_second_at` how fast it would be: frames of a latent / (tokens_per_latent /
    tokens_per_forward * ms_per_forward.p50 + ms_closing_forward) * 1000. So what random weights
    measure can be read for an acceptance that was found elsewhere.

    Raises UnknownWorldError, DamagedWeightsError, NoDeviceError, and ValueError for a world without
    a transformer, and for options that do not fit it.
    """
    torch.set_num_threads(threads)
    place = need_device(device)
    if preset is not None:  # what cannot be is reported before gigabytes are made
        check_choices(preset_config(preset), place, widths, diagonals)
        check_acceptances(preset_config(preset), acceptances)
    progress("loading weights", 0.0)
    subject = _loaded(world, place) if preset is None else _made(preset, place)
    subject = _with_options(subject, weights, context)
    subject = dataclasses.replace(subject, widths=tuple(widths), diagonals=tuple(diagonals))
    result = measure(subject, only=only, acceptances=acceptances, quick=quick, progress=progress)
    return {"threads": threads, **result}


def measure(
    subject: Subject,
    *,
    only: Sequence[str],
    acceptances: Sequence[float] = (),
    quick: bool,
    progress: Progress,
) -> dict[str, Any]:
    """As `bench_decode`, of weights that are there."""
    lineup: Lineup
    grid = subject.config.grid is not None
    lineup = WavefrontLineup(subject, only) if grid else RasterLineup(subject, only)
    _check_drafting(lineup, acceptances)
    check_acceptances(subject.config, acceptances)
    latents = lineup.latents[0 if quick else 1]
    few = max(2, latents // (5 if quick else 9))  # the plain way is slow
    runs: list[Run] = []
    with watching(subject.device) as watch:
        progress("measuring how fast memory is read", 0.0)
        bandwidth = read_bandwidth(subject.device, quick)
        for i, name in enumerate(lineup.names):
            progress(f"decoding, {name}", 0.1 + 0.9 * i / len(lineup.names))
            count = few if name == lineup.plain else latents
            runs.append(_run(*lineup.contender(name), count, subject.device))
    progress("done", 1.0)
    return result_of(subject, lineup.plain, runs, bandwidth, acceptances, watch)


def _check_drafting(lineup: Lineup, acceptances: Sequence[float]) -> None:
    """Raises ValueError."""
    if acceptances and not any(name.split()[0] in DRAFTING for name in lineup.names):
        raise ValueError(
            f"--acceptance belongs to drafting modes: expected {' or '.join(DRAFTING)} among the "
            f"modes, got {', '.join(lineup.names)}; add --mode, or leave --acceptance out"
        )


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
    own = subject.world.transformer.norm.weight.dtype
    return dataclasses.replace(subject, precision=precision_of(weights, own))


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
def _run(contender: Contender, stream: Stream, latents: int, device: torch.device) -> Run:
    laps = Laps(device)
    forwards: list[float] = []
    closing: list[float] = []
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
        closing += times[-1:] if stream.closes else []
        whole.append(sum(times))
        contexts.append(stream.context_tokens)
    return Run(contender, forwards, closing, whole, statistics.fmean(contexts), torch.stack(codes))


_UNTRAINED = (
    "random weights: the times are those of a trained model of these shapes, but how often guesses "
    "are right, and with it the frames per second of a mode that guesses, say nothing about one"
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one contender did."""

    contender: Contender
    forwards_ms: list[float]
    closing_ms: list[float]  # of these, the ones that feed a finished latent once more
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

    def seconds_at(self, tokens_per_forward: float) -> float:
        """What a latent would take if guesses were right so often, from the medians of what was
        measured: tokens of a latent / tokens per forward * ms of a forward, and the forward that
        closes the latent, where there is one. A forward takes the same however many of its guesses
        are right."""
        drawing = self.codes[0].numel() / tokens_per_forward * statistics.median(self.forwards_ms)
        return (drawing + (self.closing or 0.0)) / 1000

    @property
    def closing(self) -> float | None:
        """Median ms of the forward that closes a latent, where there is one."""
        return statistics.median(self.closing_ms) if self.closing_ms else None

    @property
    def most_tokens(self) -> float | None:
        """Per forward, if all guesses are right; None for a mode that does not guess."""
        least = self.contender.least_forwards
        return None if least is None else self.codes[0].numel() / least


def result_of(
    subject: Subject,
    plain: str,
    runs: Sequence[Run],
    bandwidth: float,
    acceptances: Sequence[float],
    watch: GpuWatch,
) -> dict[str, Any]:
    by_name = {run.contender.name: run for run in runs}
    gpu = describe_gpu(subject.device)
    first, slow = by_name["sequential"], by_name[plain]
    peak = None if gpu is None else datasheet_bandwidth(gpu["name"])
    frames = int(subject.world.manifest["tokenizer"]["temporal_compression"])
    return {
        "environment": describe(watch),
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
        "bytes_formula": "every matrix once (heads and unembedding once more where a pass of "
        "its own turns guesses into logits), keys and values of the context once",
        "measured_read_bandwidth_gb_s": round(bandwidth / 1e9, 2),
        "datasheet_bandwidth_gb_s": None if peak is None else peak / 1e9,
        "baseline": plain,
        "frames_per_latent": frames,
        "modes": [
            _report(run, first, slow, frames, bandwidth, peak) | _at(run, frames, acceptances)
            for run in runs
        ],
    }


def _report(
    run: Run, first: Run, plain: Run, frames: int, bandwidth: float, peak: float | None
) -> dict[str, Any]:
    """`first` is the sequential run. Comparisons are of latents that both drew."""
    forward, count = percentiles(run.forwards_ms), len(run.codes)
    rate = run.bytes_read / (forward["p50"] / 1000)
    both, few = min(count, len(first.codes)), min(count, len(plain.codes))
    same = run.codes[:both] == first.codes[:both]
    return {
        "name": run.contender.name,
        "mode": run.contender.mode,
        "width": run.contender.width,
        "diagonal": run.contender.diagonal,
        "how": run.contender.how(),
        "exact": run.contender.exact,
        "identical_to_sequential": bool(same.all()),
        "tokens_as_sequential": round(float(same.double().mean()), 4),
        "batch": 1,
        "latents": count,
        "tokens_per_latent": run.codes[0].numel(),
        "ms_per_forward": {key: round(value, 4) for key, value in forward.items()},
        "ms_closing_forward": run.closing and round(run.closing, 4),
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


def _at(run: Run, frames: int, acceptances: Sequence[float]) -> dict[str, Any]:
    """Return what a mode that drafts would do at other numbers of tokens per forward.

    Nothing beyond what it can sample, and nothing if nobody asked.
    """
    if not acceptances or run.most_tokens is None:
        return {}
    return {
        "frames_per_second_at": [
            {"tokens_per_forward": t, "frames_per_second": round(frames / run.seconds_at(t), 3)}
            for t in acceptances
            if t <= run.most_tokens
        ]
    }
