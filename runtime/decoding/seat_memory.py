"""How many players a worker has places for, before anybody measures how many it carries in time.

On a CPU time runs out first. On a GPU a player costs little time, so many are tried, and what ends
is the memory for their keys and values, which are allocated when the world is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.errors import SeatsError
from worldbridge.runtime.worlds.contract import WorldModel
from worldbridge.settings import MAX_SEATS

__all__ = [
    "MOST_ON_A_CPU",
    "Ring",
    "check_seats",
    "seats_tried",
    "places_that_fit",
    "seats_of",
    "stream_bytes",
]

log = logging.getLogger(__name__)

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
    """How many of the wanted seats a world has places for."""
    return wanted if world.capacity is None else min(wanted, world.capacity - 1)


def check_seats(world: WorldModel[Any], wanted: int) -> None:
    """Raises SeatsError if a world has fewer."""
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
    """How many of `wanted` places of sessions fit into what is free of a device's memory now.

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
    """What the tokenizer keeps of a stream of height x width latents when its window is full.

    Every part of it grows with the grid, so it is measured on a small one.
    """
    stream = tokenizer.decode_stream_init(1, _GRID, _GRID, window)
    device = tokenizer.post_quant_conv.conv3d.weight.device
    latent = torch.zeros(1, 1, _GRID, _GRID, dtype=torch.int64, device=device)
    for _ in range(window + 1):
        _, stream = tokenizer.decode_step(latent, stream, check_range=False)
    kept = sum(part.nbytes for part in stream.cache.values())
    return _STREAMS * kept * height * width // _GRID**2
