"""How many players a world carries: in time, by trying, and in memory, by its size.

Whole latents are timed: a latent of eight frames is sampled while those of the one before are
shown. Frames are submitted and polled as in the engine, back to back: pixels are made beside the
next tokens where they are when the world is served.

On a CPU time runs out first. On a GPU a player costs little time, so many are tried, and what ends
is the memory for their keys and values, which are allocated when the world is loaded.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.errors import SeatsError
from worldbridge.runtime.worlds.contract import Controls, WorldModel, WorldStart, wait_for_frames
from worldbridge.settings import MAX_SEATS

__all__ = [
    "MOST_ON_A_CPU",
    "Ring",
    "check_seats",
    "latent_times",
    "places_that_fit",
    "players_carried",
    "seats_of",
    "seats_tried",
    "stream_bytes",
    "usual_ms",
]

log = logging.getLogger(__name__)

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


# -- memory ----------------------------------------------------------------------------------------

MOST_ON_A_CPU = 4  # the embedded world, which is the smallest, carries two or three on two cores
_KEPT_FREE = 0.1  # of a device's memory: frames, graphs, the forward over a finished latent
# While modes are measured, the best decoder so far waits beside the one that is tried.
_DECODERS = 2
_ROWS = 32  # that a step feeds per session, at most in a usual mode
_SPLIT = 256  # slots of a ring that attention takes at a stretch
# The tokenizer's memory behind the frames that are shown, behind those that are there, and the
# next one while it is made.
_STREAMS = 3
_GRID = 4  # rows and columns of the latents that this memory is measured with


def seats_tried(config: WorkerConfig) -> int:
    """Return the seats, or how many are tried together if nobody said how many there may be."""
    return config.seats or (MOST_ON_A_CPU if config.device == "cpu" else MAX_SEATS)


def seats_of(world: WorldModel[Any], wanted: int) -> int:
    """Return how many of the wanted seats a world has places for."""
    return wanted if world.capacity is None else min(wanted, world.capacity - 1)


def check_seats(world: WorldModel[Any], wanted: int) -> None:
    """Raise SeatsError if a world has fewer."""
    held = seats_of(world, wanted)
    if held < wanted:
        raise SeatsError(
            "the device's memory does not hold so many players",
            expected=f"at most {held} beside this world's weights",
            got=f"{wanted}",
            remedy=f"ask for {held} or fewer, or leave the number out",
        )


@dataclass(frozen=True, slots=True)
class Ring:
    """What a session's place costs: keys and values of its window, and room in a step's buffers."""

    config: TransformerConfig
    latents: int  # of its window
    itemsize: int  # bytes of a key's number

    @property
    def slots(self) -> int:
        _, height, width = self.config.latent_shape
        return self.latents * height * width + _ROWS + 1

    @property
    def bytes(self) -> int:
        """Of one place in one decoder."""
        config = self.config
        pair = 2 * config.n_layers * config.n_kv_heads * config.head_dim * self.itemsize
        # logits and their partial sums, and attention's partial results, in float32
        row = 8 * config.vocab_size + 4 * config.n_heads * config.head_dim * (
            1 + -(-self.slots // _SPLIT)
        )
        return (self.slots + self._text) * pair + _ROWS * row

    @property
    def _text(self) -> int:
        """Rows of the context of cross-attention, which lie at the session and at its place."""
        return 2 * 512 if self.config.takes_text else 0


def places_that_fit(
    wanted: int, ring: Ring, more_bytes: Callable[[], int], device: torch.device
) -> int:
    """Return how many of `wanted` places of sessions fit into a device's free memory.

    At least 2: a world without a seat is none, and whether one fits shows when it is allocated.
    `more_bytes`: what a session needs besides its ring. A tenth of the memory stays free.
    """
    if device.type != "cuda":
        return wanted
    needed = _DECODERS * ring.bytes + more_bytes()
    torch.cuda.empty_cache()  # what only PyTorch's allocator holds is free
    free, total = torch.cuda.mem_get_info(device)
    fitting = max(2, int((free - _KEPT_FREE * total) // needed))
    if fitting < wanted:
        log.info(
            "memory for %d players: %.1f GB are free, each needs %.2f GB",
            fitting - 1,
            free / 1e9,
            needed / 1e9,
        )
    return min(wanted, fitting)


@torch.inference_mode()
def stream_bytes(tokenizer: VideoTokenizer, height: int, width: int, window: int) -> int:
    """Return the bytes that the tokenizer keeps of a stream of height x width latents.

    Its window is full then. Every part of it grows with the grid, so a small one is measured.
    """
    stream = tokenizer.decode_stream_init(1, _GRID, _GRID, window)
    device = tokenizer.post_quant_conv.conv3d.weight.device
    latent = torch.zeros(1, 1, _GRID, _GRID, dtype=torch.int64, device=device)
    for _ in range(window + 1):
        _, stream = tokenizer.decode_step(latent, stream, check_range=False)
    kept = sum(part.nbytes for part in stream.cache.values())
    return _STREAMS * kept * height * width // _GRID**2
