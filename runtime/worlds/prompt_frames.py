"""The pictures of a `WorldStart` as what a tokenizer encodes."""

from __future__ import annotations

from torch import Tensor

from worldbridge.bridge.protocol import WorldSpec
from worldbridge.models.conditioning.prompt_frames import (
    fit_prompt_frames,
    hold_first,
    to_unit,
    whole_latents,
)
from worldbridge.models.errors import PromptFrameError
from worldbridge.models.tokenizer import TokenizerConfig
from worldbridge.runtime.errors import BadPromptFrameError

__all__ = ["start_video"]


def start_video(pictures: Tensor, spec: WorldSpec, config: TokenizerConfig, least: int) -> Tensor:
    """`WorldStart.pictures` -> float32 [1, 3, T, height, width] in [-1, 1].

    T is at least `least`, and a number of frames that makes whole latents; while there are fewer
    pictures, the first one stands still. Raises BadPictureError.
    """
    try:
        fitted = fit_prompt_frames(
            pictures,
            spec.height,
            spec.width,
            most=spec.takes_pictures,
            spatial_compression=config.spatial_compression,
        )
    except PromptFrameError as error:
        raise BadPromptFrameError.of(error) from error
    frames = max(len(fitted), least)
    held = hold_first(fitted, whole_latents(frames, config.temporal_compression))
    return to_unit(held).transpose(0, 1)[None]
