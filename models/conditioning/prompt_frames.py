"""Pictures of any size, made to fit a world that begins with them.

As the published inference of the autoregressive Cosmos models: a picture is scaled by
max(height / its height, width / its width), the sizes rounded up, and cropped around its centre;
bilinear, with the low-pass filter that shrinking needs. The sizes are computed in whole numbers,
where floats can come out one pixel larger. What those models do not take is defined here:
transparent pixels lie over black, and fewer pictures than a world needs are preceded by a still.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from worldbridge.models.errors import PromptFrameError

__all__ = [
    "MAX_ASPECT",
    "MAX_PICTURES",
    "MAX_PIXELS",
    "MIN_SIDE",
    "cover_size",
    "fit_prompt_frames",
    "hold_first",
    "to_unit",
    "whole_latents",
]

MAX_PICTURES = 9
MIN_SIDE = 16  # pixels
MAX_PIXELS = 36_000_000  # of one picture
MAX_ASPECT = 8  # the longer side


def fit_prompt_frames(
    pictures: Tensor,
    height: int,
    width: int,
    *,
    most: int = MAX_PICTURES,
    spatial_compression: int = 1,
) -> Tensor:
    """uint8 [T, 3 or 4, H, W], oldest first -> uint8 [T, 3, height, width].

    Raises PictureError for another type or shape, more than `most` pictures, sizes out of the
    limits above, and a height or width that the tokenizer's `spatial_compression` does not divide.
    """
    _check(pictures, most)
    for name, side in (("height", height), ("width", width)):
        if side < 1 or side % spatial_compression:
            raise PromptFrameError(
                f"pictures cannot be scaled to {height}x{width}",
                expected=f"a {name} that spatial_compression {spatial_compression} divides",
                got=f"{name} {side}",
                remedy=f"take {max(1, side // spatial_compression) * spatial_compression}",
            )
    opaque = _over_black(pictures)
    size = cover_size(opaque.shape[2], opaque.shape[3], height, width)
    if size != opaque.shape[2:]:
        opaque = interpolate(opaque, size, mode="bilinear", antialias=True)
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    return opaque[:, :, top : top + height, left : left + width].contiguous()


def cover_size(height: int, width: int, to_height: int, to_width: int) -> tuple[int, int]:
    """The smallest size of the same shape, rounded up, that covers to_height x to_width."""
    if width * to_height >= height * to_width:
        return to_height, -(-width * to_height // height)
    return -(-height * to_width // width), to_width


def hold_first(pictures: Tensor, count: int) -> Tensor:
    """At least `count` pictures [T, ...]: the first one stands still before it begins to move."""
    missing = count - len(pictures)
    if missing <= 0:
        return pictures
    return torch.cat([pictures[:1].expand(missing, *pictures.shape[1:]), pictures])


def whole_latents(frames: int, temporal_compression: int) -> int:
    """The next number of frames, at least `frames`, of the form 1 + temporal_compression * k."""
    return 1 + -(-(frames - 1) // temporal_compression) * temporal_compression


def _check(pictures: Tensor, most: int) -> None:
    got = f"{pictures.dtype} {list(pictures.shape)}".removeprefix("torch.")
    if pictures.dtype != torch.uint8 or pictures.dim() != 4 or pictures.shape[1] not in (3, 4):
        raise PromptFrameError(
            "these are no pictures",
            expected="uint8 [T, 3 or 4, H, W]",
            got=got,
            remedy="decode them to RGB or RGBA bytes, one picture after another",
        )
    count, _, height, width = pictures.shape
    if not 1 <= count <= most:
        raise PromptFrameError(
            "this world cannot begin with so many pictures",
            expected="1 picture" if most == 1 else f"1 to {most} pictures",
            got=f"{count}",
            remedy="give the newest ones",
        )
    sides = min(height, width), max(height, width)
    if height * width > MAX_PIXELS or sides[0] < MIN_SIDE or sides[1] > MAX_ASPECT * sides[0]:
        raise PromptFrameError(
            "the pictures have no usable size",
            expected=f"at most {MAX_PIXELS} pixels, sides of at least {MIN_SIDE}, one at most "
            f"{MAX_ASPECT} times the other",
            got=f"{width}x{height}",
            remedy="scale or crop them first",
        )


def _over_black(pictures: Tensor) -> Tensor:
    """RGBA [T, 4, H, W] over black, rounded; RGB as it is."""
    if pictures.shape[1] == 3:
        return pictures
    wide = pictures.int()
    return ((wide[:, :3] * wide[:, 3:] + 127) // 255).to(torch.uint8)


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in [-1, 1], as tokenizers take it."""
    return pictures.float() / 127.5 - 1
