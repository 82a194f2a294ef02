"""Fit prompt frames of any size to a world.

As the published inference of the autoregressive Cosmos models does: an image is scaled by
max(height / its height, width / its width), sizes rounded up, and cropped around its center;
bilinear, with the low-pass filter that shrinking needs. Sizes are computed in integers, because
floats can come out one pixel larger. Two cases that those models do not take are defined here:
transparent pixels lie over black, and if a world needs more frames, the first one is repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from worldbridge.models.errors import PromptFrameError

__all__ = [
    "MAX_ASPECT",
    "MAX_PROMPT_FRAMES",
    "MAX_PIXELS",
    "MIN_SIDE",
    "cover_size",
    "fit_nearness",
    "fit_prompt_frames",
    "hold_first",
    "to_unit",
    "whole_latents",
]

MAX_PROMPT_FRAMES = 9
MIN_SIDE = 16  # pixels
MAX_PIXELS = 64_000_000  # of one image
MAX_ASPECT = 8  # the longer side


def fit_prompt_frames(
    images: Tensor,
    height: int,
    width: int,
    *,
    most: int = MAX_PROMPT_FRAMES,
    spatial_compression: int = 1,
) -> Tensor:
    """Scale and crop images uint8 [T, 3 or 4, H, W], oldest first, to uint8 [T, 3, height, width].

    Raises PromptFrameError for another type or shape, more than `most` images, sizes out of the
    limits above, and a height or width that the tokenizer's `spatial_compression` does not divide.
    """
    _check(images, most)
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % spatial_compression:
            raise PromptFrameError(
                f"images cannot be scaled to {height}x{width}",
                expected=f"a {name} that spatial_compression {spatial_compression} divides",
                got=f"{name} {side}",
                remedy=f"take {max(1, side // spatial_compression) * spatial_compression}",
            )
    opaque = _over_black(images)
    size = cover_size(opaque.shape[2], opaque.shape[3], height, width)
    if size != opaque.shape[2:]:
        opaque = interpolate(opaque, size, mode="bilinear", antialias=True)
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    return opaque[:, :, top : top + height, left : left + width].contiguous()


def fit_nearness(nearness: Tensor, height: int, width: int) -> Tensor:
    """Scale and crop the nearness of an image, float [h, w], as the image is; nothing is blended.

    Raises PromptFrameError for another shape, sizes out of the limits above, and values that are
    negative or not finite.
    """
    if nearness.dim() != 2 or not nearness.is_floating_point():
        raise PromptFrameError(
            "this is no depth of an image",
            expected="float [h, w]",
            got=f"{nearness.dtype} {list(nearness.shape)}".removeprefix("torch."),
        )
    _check_size(*nearness.shape)
    if not bool((nearness.isfinite() & (nearness >= 0)).all()):
        raise PromptFrameError(
            "the depth of a prompt frame cannot be used",
            expected="finite numbers of at least 0, in 1/m",
            got=f"{float(nearness.min())} to {float(nearness.max())}",
            remedy="give 0 where the depth is unknown",
        )
    size = cover_size(nearness.shape[0], nearness.shape[1], height, width)
    fitted = interpolate(nearness[None, None].float(), size)[0, 0]
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    return fitted[top : top + height, left : left + width].contiguous()


def cover_size(height: int, width: int, to_height: int, to_width: int) -> tuple[int, int]:
    """Return the smallest size of the same shape, rounded up, that covers to_height x to_width."""
    if width * to_height >= height * to_width:
        return to_height, -(-width * to_height // height)
    return -(-height * to_width // width), to_width


def hold_first(frames: Tensor, count: int) -> Tensor:
    """Repeat the first of frames [T, ...] until there are at least `count`."""
    missing = count - len(frames)
    if missing <= 0:
        return frames
    return torch.cat([frames[:1].expand(missing, *frames.shape[1:]), frames])


def whole_latents(frames: int, temporal_compression: int) -> int:
    """Return the smallest number of the form 1 + temporal_compression * k that is >= frames."""
    return 1 + -(-(frames - 1) // temporal_compression) * temporal_compression


def to_unit(frames: Tensor) -> Tensor:
    """Convert uint8 of any shape to float32 in [-1, 1], as tokenizers take it."""
    return frames.float() / 127.5 - 1


def _check(images: Tensor, most: int) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (3, 4):
        raise PromptFrameError(
            "these are no images",
            expected="uint8 [T, 3 or 4, H, W]",
            got=f"{images.dtype} {list(images.shape)}".removeprefix("torch."),
            remedy="decode them to RGB or RGBA bytes, one image after another",
        )
    count, _, height, width = images.shape
    if not 1 <= count <= most:
        raise PromptFrameError(
            "wrong number of prompt frames for this world",
            expected="1 image" if most == 1 else f"1 to {most} images",
            got=f"{count}",
            remedy="send the newest ones",
        )
    _check_size(height, width)


def _check_size(height: int, width: int) -> None:
    shorter, longer = min(height, width), max(height, width)
    if height * width > MAX_PIXELS or shorter < MIN_SIDE or longer > MAX_ASPECT * shorter:
        raise PromptFrameError(
            "the images have no usable size",
            expected=f"at most {MAX_PIXELS} pixels, sides of at least {MIN_SIDE}, one at most "
            f"{MAX_ASPECT} times the other",
            got=f"{width}x{height}",
            remedy="scale or crop them first",
        )


def _over_black(images: Tensor) -> Tensor:
    """Blend RGBA [T, 4, H, W] over black, rounded; return RGB as it is."""
    if images.shape[1] == 3:
        return images
    wide = images.int()
    return ((wide[:, :3] * wide[:, 3:] + 127) // 255).to(torch.uint8)
