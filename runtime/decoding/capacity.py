"""How many players a world carries at its frame rate, by trying.

Whole latents are timed: a latent of eight frames is sampled while those of the one before are
shown. Frames are submitted and polled as in the engine, back to back: pixels are made beside the
next tokens where they are when the world is served.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from itertools import islice
from typing import Any

from worldbridge.runtime.worlds.contract import Controls, WorldModel, WorldStart, wait_for_frames

__all__ = ["latent_times", "players_carried", "usual_ms"]

_WARM_UP = 3  # steps, or as many more as complete a latent
_LATENTS = 8
_HOPELESS = 2.0  # times as long as there is; the latent that says so was a world's first


def players_carried(
    world: WorldModel[Any],
    most: int,
    alone_ms: float,
    trying: Callable[[int], None] = lambda players: None,
) -> int:
    """The largest number of sessions, at least 1 and at most `most`, that keep its frame rate.

    `alone_ms` is what a latent of one session took. `trying` is called with each number that is
    tried: twice as many as before until that is too many, then those between.
    """
    limit_ms = _limit_ms(world)
    if alone_ms > _HOPELESS * limit_ms:
        return 1
    carried, too_many = 1, most + 1
    while too_many - carried > 1:
        doubling = too_many > most
        players = min(2 * carried, most) if doubling else (carried + too_many) // 2
        trying(players)
        if _keeps(world, players, limit_ms):
            carried = players
        else:
            too_many = players
    return carried


def latent_times(world: WorldModel[Any], players: int) -> Generator[float, None, None]:
    """Milliseconds of one whole latent after the other, for so many fresh sessions, endlessly.

    A latent is `frames_per_latent` steps that follow each other back to back.
    """
    steps = _step_times(world, players)
    frames = world.spec.frames_per_latent
    try:
        # the sessions are in step with each other, so any so many steps hold one drawing
        for _ in range(-(-_WARM_UP // frames) * frames):
            next(steps)
        while True:
            yield sum(islice(steps, frames))
    finally:
        steps.close()


def usual_ms(times: Sequence[float]) -> float:
    """The mean of what at least one latent took; of eight or more without the slowest, which on a
    machine that others use may be somebody else's."""
    return statistics.fmean(sorted(times)[: len(times) - (len(times) >= _LATENTS)])


def _limit_ms(world: WorldModel[Any]) -> float:
    """A latent's time at the world's frame rate."""
    return 1000 / world.spec.fps * world.spec.frames_per_latent


def _keeps(world: WorldModel[Any], players: int, limit_ms: float) -> bool:
    """Whether `usual_ms` of their latents is within the limit; known as soon as it cannot be."""
    times: list[float] = []
    running = latent_times(world, players)
    try:
        for ms in islice(running, _LATENTS):
            times.append(ms)
            if sum(times) - max(times) > limit_ms * (_LATENTS - 1):
                return False
    finally:
        running.close()
    return True


def _step_times(world: WorldModel[Any], players: int) -> Generator[float, None, None]:
    """Milliseconds of each step, back to back."""
    states = [world.open(WorldStart(world.spec.themes[0], seed)) for seed in range(players)]
    controls = [Controls((0.0, 1.0, 0.3, 0.0))] * players
    unfinished = 0
    try:
        last = time.perf_counter()
        while True:
            world.submit(states, controls)
            unfinished += 1
            if unfinished > world.overlap:
                unfinished -= 1
                wait_for_frames(world, states)
            now = time.perf_counter()
            yield (now - last) * 1000
            last = time.perf_counter()
    finally:
        for _ in range(unfinished):
            wait_for_frames(world, states)
