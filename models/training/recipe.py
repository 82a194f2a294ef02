"""The recipe of the embedded world: every number that its training uses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QUICK", "Recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes, times and rates of a training run. Times are wall-clock minutes per stage."""

    seed: int = 1
    # pictures for the tokenizer
    picture_clips: int = 250
    picture_frames: int = 16
    # token clips for the transformer
    token_clips: int = 1_300
    token_frames: int = 24
    tokenizer_minutes: float = 28.0
    transformer_minutes: float = 60.0
    # tokenizer
    tokenizer_batch: int = 3  # clips a step
    tokenizer_clip: int = 3  # consecutive frames a clip
    tokenizer_crop: tuple[int, int] = (160, 256)
    tokenizer_rate: float = 7e-4
    # transformer
    transformer_batch: int = 6
    transformer_clip: int = 8  # latents a clip
    transformer_rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    ema_decay: float = 0.998
    # share of clips whose earlier latents are disturbed, so that a stream recovers from its own slips
    disturbed_clips: float = 0.6
    disturbed_tokens: float = 0.25  # at most this share of their tokens
    threads: int = 2


QUICK = Recipe(
    picture_clips=10,
    picture_frames=6,
    token_clips=10,
    token_frames=10,
    tokenizer_minutes=0.4,
    transformer_minutes=0.4,
    transformer_batch=2,
)
