"""What `worldbridge bench decode --json` prints of the modes that were measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from worldbridge.benchmarks.decode.lineup import Contender, Subject
from worldbridge.benchmarks.machine import (
    GpuWatch,
    datasheet_bandwidth,
    describe,
    describe_gpu,
    percent,
)
from worldbridge.benchmarks.timing import percentiles

__all__ = ["Run", "result_of"]

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
    """What a mode that guesses would do at other numbers of tokens per forward, as far as it can
    draw so many; nothing if nobody asked."""
    if not acceptances or run.most_tokens is None:
        return {}
    return {
        "frames_per_second_at": [
            {"tokens_per_forward": t, "frames_per_second": round(frames / run.seconds_at(t), 3)}
            for t in acceptances
            if t <= run.most_tokens
        ]
    }
