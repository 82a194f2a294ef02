"""The recipe of the embedded world: every number that its training uses, and its schedule."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldbridge.models.errors import InputError

__all__ = ["GPU", "QUICK", "Recipe", "TimedSchedule", "save_checkpoint"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes, times and rates of a training run. Times are wall-clock minutes per stage."""

    seed: int = 1
    # pictures for the tokenizer
    picture_clips: int = 600
    picture_frames: int = 8
    # token clips for the transformer
    token_clips: int = 1_000
    token_frames: int = 32
    stubborn_share: float = 0.4  # of the clips show a player who walks into walls
    stubborn_lead_in: int = 300  # frames already played when such a clip begins, at most
    tokenizer_minutes: float = 40.0
    transformer_minutes: float = 60.0
    # tokenizer
    tokenizer_batch: int = 3  # clips a step
    tokenizer_clip: int = 3  # consecutive frames a clip
    tokenizer_crop: tuple[int, int] = (160, 256)
    tokenizer_rate: float = 1e-3
    sharpen_from: float = 0.75  # share of the time after which the decoder alone learns contrast
    sharpen_weight: float = 2.0
    # transformer
    transformer_batch: int = 3
    transformer_clip: int = 8  # latents a clip
    transformer_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_steps: int = 60
    ema_decay: float = 0.998
    # Latents that the network sees otherwise than they were, so that a stream of its own making
    # recovers from its slips: this share of the latents of this share of the clips.
    disturbed_clips: float = 0.75
    disturbed_latents: float = 0.6
    disturbed_tokens: float = 0.15  # at most this share of their tokens is moved at random
    drawn_tokens: float = 0.6  # at most this share of their tokens is the network's own draw
    # The older part of the past of this share of the clips is of another clip: the network learns
    # to return to the theme that the controls name from wherever its stream has strayed.
    strayed_clips: float = 0.12
    drawn_after: float = 0.1  # share of the time before which draws are too poor to be of use
    # Medusa heads, trained when the transformer is done
    heads_minutes: float = 7.0
    heads: int = 9
    heads_unfrozen_layers: int = 2  # last layers that learn too, with the unembedding; 0: neither
    heads_rate: float = 4e-3
    heads_network_rate: float = 3e-5  # of what is unfrozen
    heads_weight: float = 0.1  # of the sum of the heads' losses beside the network's own
    heads_rows: int = 768  # slots that the heads learn from at a time
    heads_repeats: int = 3  # times more that the heads alone learn from a batch's features
    heads_tolerance: float = 0.01  # nats a token that the network's own loss may rise
    threads: int = 2


QUICK = Recipe(
    picture_clips=10,
    picture_frames=6,
    token_clips=10,
    token_frames=10,
    tokenizer_minutes=0.4,
    transformer_minutes=0.4,
    transformer_batch=2,
    heads_minutes=0.2,
)

# On a GPU the arithmetic is free beside a CPU's: more play, larger steps.
GPU = Recipe(
    picture_clips=1_000,
    token_clips=5_000,
    tokenizer_batch=24,
    transformer_batch=48,
    warmup_steps=300,
    ema_decay=0.999,
)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint as a whole: a run that is killed while saving keeps the old one.

    Raises InputError where it cannot be written, such as on a full disk; the old one stays valid.
    """
    partial = path.with_suffix(".partial")
    try:
        torch.save(state, partial)
        partial.rename(path)
    except (OSError, RuntimeError) as error:  # torch writes archives with errors of its own
        partial.unlink(missing_ok=True)
        raise InputError(
            f"the checkpoint {path} cannot be written",
            expected="room on its disk",
            got=f"{type(error).__name__}: {error}"[:200],
            remedy="free some space and continue with the same command; the checkpoint before "
            "is whole",
        ) from error


class TimedSchedule:
    """Linear warm-up by steps, then cosine decay by wall-clock share of the budget.

    So a run of any length ends fully decayed.
    """

    def __init__(self, rate: float, minutes: float, warmup_steps: int, spent: float = 0.0) -> None:
        self.rate = rate
        self.seconds = minutes * 60
        self.warmup_steps = warmup_steps
        self.spent = spent  # share of the budget already used by an earlier, interrupted run
        self.start = time.monotonic()

    def share(self) -> float:
        """Used share of the budget, 0 to 1."""
        return min(1.0, self.spent + (time.monotonic() - self.start) / max(self.seconds, 1e-9))

    def value(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.rate * warm * max(0.02, 0.5 + 0.5 * math.cos(math.pi * self.share()))
