"""How many players a world carries at its frame rate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import torch

from worldbridge.benchmarks.decode.lineup import DRAFTING, check_acceptances, precision_of
from worldbridge.benchmarks.decode.presets import preset_config, preset_world
from worldbridge.benchmarks.decode.streams import ForwardMarks
from worldbridge.benchmarks.machine import describe, describe_gpu, need_device, watching
from worldbridge.benchmarks.timing import Laps, percentiles
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.decoding.autotune import DecodedWorld, check_mode, set_mode
from worldbridge.runtime.decoding.capacity import check_seats, latent_times, usual_ms
from worldbridge.runtime.decoding.options import check_weight_dtype
from worldbridge.runtime.worlds.contract import Progress, WorldModel
from worldbridge.runtime.worlds.cosmos import CosmosWorld
from worldbridge.runtime.worlds.registry import open_world

__all__ = ["Forwards", "bench_players"]


# Steps of a world whose latents are one frame, and latents of any world: quick, and not.
_STEPS = 12, 45
_LATENTS = 3, 8
_METHOD = (
    "a step shows every player one frame. Whole latents are timed, of all players together: "
    "ms_per_step is the time of a latent over its frames, the percentiles are those of latents. "
    "frames_per_second_each is of the mean latent, of eight or more without the slowest. "
    "ms_per_frame_per_further_player is how much p50 of ms_per_step grows with each player"
)


def bench_players(
    world: str = "embedded",
    *,
    preset: str | None = None,
    most: int,
    quick: bool,
    threads: int,
    device: str,
    mode: str = "auto",
    diagonal: int | None = None,
    weights: str | None = None,
    acceptances: Sequence[float] = (),
    progress: Progress,
) -> dict[str, Any]:
    """Steps 1, 2, ... `most` sessions together; what `worldbridge bench players --json` prints.

    Pixels are made too, beside the tokens of the next latent, as when the world is served; encoding
    and sending are not part of it. `preset` stands for random weights of published shapes, in place
    of a world. `diagonal` belongs to mode "diagonal"; `weights` ("bf16", "fp8", "int8") is the type
    in which weights are read, by default the model's own.

    `acceptances` are tokens per forward. If the mode drafts and can sample that many, each number
    of players says under `frames_per_second_at` their rate: of a latent's mean time, the
    drawing forwards that it had (`forwards_per_latent`, of one player) are replaced by tokens of a
    latent / tokens per forward, at `ms_per_forward`.p50 each. `players_at` says how many then keep
    the rate.

    Raises as `open_world`, SeatsError when the memory does not hold the players, and ValueError
    for an unknown preset and for weights that do not fit the world.
    """
    torch.set_num_threads(threads)
    _check_drafting(mode, acceptances)
    progress("loading the world", 0.0)
    model = _opened(world, preset, device, weights, most, mode, diagonal, progress)
    check_seats(model, most)
    decoding = model.decoding
    if acceptances and decoding is not None:
        check_acceptances(_config(decoding), acceptances)
    per_latent = model.spec.frames_per_latent
    latents = max(_LATENTS[not quick], _STEPS[not quick] // per_latent)
    rows: list[dict[str, Any]] = []
    forwards = None
    if decoding is not None and str(decoding.decoder.mode) in DRAFTING:
        forwards = Forwards(decoding, torch.device(device))
    with watching(torch.device(device)) as watch:
        for count in range(1, most + 1):
            progress(f"{count} players", count / (most + 1))
            rows.append(_row(model, count, latents, forwards, acceptances))
    progress("done", 1.0)
    fps = model.spec.fps
    first, last = rows[0]["ms_per_step"]["p50"], rows[-1]["ms_per_step"]["p50"]
    decoder = None if decoding is None else decoding.decoder
    return {
        "environment": describe(watch),
        "world": model.spec.name,
        "device": device,
        "mode": None if decoder is None else str(decoder.mode),
        "diagonal": None if decoder is None else _diagonal_of(decoder),
        "gpu": describe_gpu(torch.device(device)),
        "weights": "the world's" if preset is None else "random",
        "precision": getattr(model, "weights", "model"),
        "threads": threads,
        "method": f"{_METHOD}. {_beside(model)}",
        "frames_per_latent": per_latent,
        "latents": latents,
        "frames_per_second_of_the_world": fps,
        "players_at_that_rate": _carried(rows, fps),
        **({"players_at": _carried_at(rows, fps, acceptances)} if acceptances else {}),
        "ms_per_frame_per_further_player": _further(first, last, most),
        "by_players": rows,
    }


def _diagonal_of(decoder: object) -> int | None:
    """How far a row is ahead of the next one, where rows are drawn together."""
    schedule = getattr(getattr(decoder, "executor", None), "schedule", None)
    return None if schedule is None else int(schedule.row_lag)


def _row(
    model: WorldModel[Any],
    players: int,
    latents: int,
    forwards: Forwards | None,
    acceptances: Sequence[float],
) -> dict[str, Any]:
    """`forwards`: of a mode that guesses."""
    per_latent = model.spec.frames_per_latent
    times = _latents(model, players, latents, forwards)
    steps = [ms / per_latent for ms in times]
    row = {
        "players": players,
        "ms_per_step": {key: round(value, 2) for key, value in percentiles(steps).items()},
        "frames_per_second_each": round(1000 / usual_ms(steps), 2),
    }
    if forwards is None:
        return row
    assert model.decoding is not None
    tokens = math.prod(_config(model.decoding).latent_shape[1:])
    row["ms_per_forward"] = {k: round(v, 4) for k, v in percentiles(forwards.ms).items()}
    row["forwards_per_latent"] = round(forwards.a_latent(players), 2)
    if acceptances:
        reachable = [t for t in acceptances if t <= tokens / model.decoding.decoder.least_forwards]
        at = [(t, forwards.latent_ms_at(usual_ms(times), players, tokens, t)) for t in reachable]
        row["frames_per_second_at"] = [
            {"tokens_per_forward": t, "frames_per_second": round(1000 * per_latent / ms, 2)}
            for t, ms in at
        ]
    return row


def _latents(
    model: WorldModel[Any], players: int, latents: int, forwards: Forwards | None
) -> list[float]:
    """Milliseconds of each."""
    running = latent_times(model, players)
    try:
        if forwards is None:
            return list(islice(running, latents))
        forwards.begin()
        times = []
        with forwards.seen():
            for ms in islice(running, latents):
                times.append(ms)
                forwards.latent_ends()
        return times
    finally:
        running.close()


def _config(model: DecodedWorld) -> TransformerConfig:
    """Every world that draws tokens has one."""
    return cast(Any, model).config  # type: ignore[no-any-return]


def _carried(rows: Sequence[dict[str, Any]], fps: float) -> int:
    return max((r["players"] for r in rows if r["frames_per_second_each"] >= fps), default=0)


def _carried_at(
    rows: Sequence[dict[str, Any]], fps: float, acceptances: Sequence[float]
) -> list[dict[str, Any]]:
    """As `_carried`, for each number of tokens per forward that the mode can draw."""
    found = []
    for tokens in acceptances:
        kept = [
            {"players": row["players"], "frames_per_second_each": at["frames_per_second"]}
            for row in rows
            for at in row.get("frames_per_second_at", [])
            if at["tokens_per_forward"] == tokens
        ]
        if kept:
            found.append({"tokens_per_forward": tokens, "players": _carried(kept, fps)})
    return found


def _check_drafting(mode: str, acceptances: Sequence[float]) -> None:
    """Raises ValueError."""
    if acceptances and mode not in (*DRAFTING, "auto"):
        raise ValueError(
            f"--acceptance belongs to drafting modes: expected --mode {' or '.join(DRAFTING)}, "
            f"got {mode}; choose one of these, or leave --acceptance out"
        )


def _further(first: float, last: float, most: int) -> float | None:
    return round((last - first) / (most - 1), 3) if most > 1 else None


def _beside(model: WorldModel[Any]) -> str:
    if model.decoding is None:
        return "Pixels are part of the step, as when the world is served"
    return "Pixels are made beside the next latent's tokens, as when the world is served"


def _opened(
    world: str,
    preset: str | None,
    device: str,
    weights: str | None,
    seats: int,
    mode: str,
    row_lag: int | None,
    progress: Progress,
) -> WorldModel[Any]:
    def measuring(stage: str, share: float) -> None:
        progress(stage, 0.0)  # the players are still to come

    if preset is None:
        precision = precision_of(weights, torch.bfloat16)  # its own type is known once it is there
        options: dict[str, Any] = {"device": device, "mode": mode, "weight_dtype": precision}
        config = WorkerConfig(world=world, seats=seats, row_lag=row_lag, **options)
        model = open_world(config, progress=measuring)
        precision_of(weights, _type_of(model))
        return model
    shape = preset_config(preset)  # what cannot be is reported before anything is made
    manifest = {"transformer": shape.to_dict(), "heads": {}}
    check_mode(mode, row_lag, manifest)
    place = need_device(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    precision = precision_of(weights, dtype)
    check_weight_dtype(precision, manifest, device)
    made = CosmosWorld(preset_world(preset, place, dtype), capacity=seats + 1, weights=precision)
    set_mode(made, mode, row_lag, measuring)
    return made


def _type_of(model: WorldModel[Any]) -> torch.dtype | None:
    transformer = getattr(model, "transformer", None)
    return None if transformer is None else transformer.norm.weight.dtype


class Forwards:
    """The forwards that draw, of all sessions together, latent by latent.

    Times are medians: a latent has a few marks of another kind, one for each session whose finished
    latent is fed once more.
    """

    def __init__(self, world: DecodedWorld, device: torch.device) -> None:
        self._decoder = world.decoder
        self._marks, self._laps = ForwardMarks(self._decoder), Laps(device)
        self.begin()

    def begin(self) -> None:
        """Forget what was seen."""
        self._times: list[float] = []
        self._counted: list[int] = []

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Forwards within the block are."""
        with self._marks.made_by(self._laps.mark):
            yield

    def latent_ends(self) -> None:
        """Of every session."""
        self._times += self._laps.take()
        self._counted.append(int(self._decoder.counts.forwards))

    @property
    def ms(self) -> list[float]:
        return self._times

    def a_latent(self, sessions: int) -> float:
        """How many draw a latent, on average, of all latents but the first; counted by session, and
        each counts as long as its session is not done."""
        done = self._counted[-1] - self._counted[0]
        return done / (sessions * (len(self._counted) - 1))

    def latent_ms_at(
        self, latent_ms: float, sessions: int, tokens: int, tokens_per_forward: float
    ) -> float:
        """What a latent of `tokens` tokens would take if guesses were right so often, where it took
        `latent_ms`: the forwards that it then has more or fewer of take the median each."""
        more = tokens / tokens_per_forward - self.a_latent(sessions)
        return latent_ms + more * statistics.median(self._times)
