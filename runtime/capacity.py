"""How many players a world carries at its frame rate, by trying."""

from __future__ import annotations

import statistics
import time

import torch

from worldbridge.runtime.world import PipelinedWorld, UnfinishedFrames, WorldModel, WorldStart

__all__ = ["players_carried", "step_times"]

_WARM_UP = 3
_STEPS = 8


def players_carried(world: WorldModel, most: int, alone_ms: float) -> int:
    """The largest number of sessions, at least 1 and at most `most`, that keep its frame rate.

    `alone_ms` is what a step of one session took. Stops at the first number that does not keep the
    rate, so that a slow machine is done soon.
    """
    period_ms = 1000 / world.spec.fps
    # a latent of several frames is drawn in the step of its first one
    steps = max(_STEPS, 2 * world.spec.frames_per_latent)
    if alone_ms > period_ms * world.spec.frames_per_latent:
        return 1
    for players in range(2, most + 1):
        # the slowest step is left out: on a machine that others use, one in eight is not our own
        if statistics.fmean(sorted(step_times(world, players, steps))[:-1]) > period_ms:
            return players - 1
    return most


def step_times(world: WorldModel, players: int, steps: int) -> list[float]:
    """Milliseconds of each of `steps` steps of so many fresh sessions, back to back."""
    states = [world.open(WorldStart(world.spec.themes[0], seed)) for seed in range(players)]
    actions = torch.tensor([[0.0, 1.0, 0.3, 0.0]]).repeat(players, 1)
    ends: list[float] = []
    before: UnfinishedFrames | None = None
    for _ in range(_WARM_UP + steps):
        if isinstance(world, PipelinedWorld):
            # the pixels of the step before are made meanwhile, as in the engine
            begun = world.begin(states, actions)
            if before is not None:
                before.frames()
            before = begun
        else:
            world.step(states, actions)
        ends.append(time.perf_counter() * 1000)
    if before is not None:
        before.frames()
    times = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    return times[_WARM_UP - 1 :]
