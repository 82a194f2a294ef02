"""How many players a world carries at its frame rate."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from worldbridge.runtime.bench.environment import describe
from worldbridge.runtime.bench.gpus import describe_gpu, need_device
from worldbridge.runtime.bench.presets import preset_config, preset_world
from worldbridge.runtime.bench.timing import percentiles
from worldbridge.runtime.capacity import step_times
from worldbridge.runtime.cosmos_world import CosmosWorld
from worldbridge.runtime.modes import DecodedWorld, Wanted, check_wanted, set_mode
from worldbridge.runtime.registry import open_world
from worldbridge.runtime.world import Progress, WorldModel

__all__ = ["bench_players"]


def bench_players(
    world: str = "embedded",
    *,
    preset: str | None = None,
    most: int,
    quick: bool,
    threads: int,
    device: str,
    mode: str = "auto",
    progress: Progress,
) -> dict[str, Any]:
    """Steps 1, 2, ... `most` sessions together; what `worldbridge bench players --json` prints.

    Pixels are made too, on their own thread where the world does that, as when it is served;
    encoding and sending are not part of it. `preset` stands for random weights of published shapes,
    in place of a world. Raises as `open_world`, and ValueError for an unknown preset.
    """
    torch.set_num_threads(threads)
    progress("loading the world", 0.0)
    model = _opened(world, preset, device, most, Wanted(mode), progress)
    steps = 12 if quick else 45
    rows: list[dict[str, Any]] = []
    for count in range(1, most + 1):
        progress(f"{count} players", count / (most + 1))
        times = step_times(model, count, steps)
        rate = 1000 / statistics.fmean(times)
        step = {key: round(value, 2) for key, value in percentiles(times).items()}
        rows.append(
            {"players": count, "ms_per_step": step, "frames_per_second_each": round(rate, 2)}
        )
    progress("done", 1.0)
    carried = [r["players"] for r in rows if r["frames_per_second_each"] >= model.spec.fps]
    first, last = rows[0]["ms_per_step"]["p50"], rows[-1]["ms_per_step"]["p50"]
    return {
        "environment": describe(),
        "world": model.spec.name,
        "device": device,
        "mode": str(model.decoder.mode) if isinstance(model, DecodedWorld) else None,
        "gpu": describe_gpu(torch.device(device)),
        "weights": "the world's" if preset is None else "random",
        "threads": threads,
        "frames_per_second_of_the_world": model.spec.fps,
        "players_at_that_rate": max(carried, default=0),
        "ms_per_further_player": round((last - first) / (most - 1), 2) if most > 1 else None,
        "by_players": rows,
    }


def _opened(
    world: str,
    preset: str | None,
    device: str,
    seats: int,
    wanted: Wanted,
    progress: Progress,
) -> WorldModel:
    def measuring(stage: str, share: float) -> None:
        progress(stage, 0.0)  # the players are still to come

    if preset is None:
        return open_world(world, device=device, seats=seats, wanted=wanted, progress=measuring)
    preset_config(preset)  # an unknown name is told before anything is made
    place = need_device(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    made = preset_world(preset, place, dtype)
    check_wanted(wanted, made.manifest | {"heads": made.heads})
    model = CosmosWorld(made, capacity=seats + 1)
    set_mode(model, wanted, measuring)
    return model
