"""Prompt frames as a program has them, turned into files for the server."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldbridge.bridge.protocol import (
    DEPTH_SCALE,
    MAX_PART,
    MAX_PROMPT_BYTES,
    MAX_PROMPT_FRAMES,
    BridgeError,
    PromptDepthPart,
    PromptFramePart,
)

__all__ = [
    "Metres",
    "PromptDepth",
    "PromptFrame",
    "PromptFrames",
    "as_files",
    "depth_in_parts",
    "in_parts",
]

_MOST: Final = 65_535  # steps of a depth
_COARSEST: Final = 10.0  # metres a step
_SKY_SCALE: Final = 0.005  # the same, where the sky is in view: 16 bits reach to 327 m

PromptFrame: TypeAlias = "bytes | str | os.PathLike[str] | NDArray[np.uint8]"
PromptFrames: TypeAlias = "PromptFrame | Sequence[PromptFrame]"
Metres: TypeAlias = "NDArray[np.floating[Any]]"


def as_files(frames: PromptFrames) -> tuple[bytes, ...]:
    """Return the files of one prompt frame or of several, oldest first.

    A frame is a path, the bytes of a PNG, JPEG or WebP file, or what an engine rendered as uint8
    [height, width, 3 or 4], top row first.

    Raises:
        OSError: a file cannot be read.
        ValueError: an array of another kind.
        BridgeError: bad_prompt_frame, for more than the protocol carries.
    """
    alone = isinstance(frames, bytes | str | os.PathLike | np.ndarray)
    several: Sequence[PromptFrame] = [frames] if alone else frames  # type: ignore[list-item, assignment]
    if len(several) > MAX_PROMPT_FRAMES:
        most, got = f"at most {MAX_PROMPT_FRAMES}", f"{len(several)}"
        raise BridgeError(
            "bad_prompt_frame", "too many prompt frames", most, got, "Give the newest ones."
        )
    files = tuple(_as_file(frame) for frame in several)
    total = sum(map(len, files))
    if total > MAX_PROMPT_BYTES:
        raise BridgeError(
            "bad_prompt_frame",
            "the prompt frames are too large",
            f"at most {MAX_PROMPT_BYTES} bytes together",
            f"{total}",
            "Save them as JPEG, or smaller; the world's own size is enough.",
        )
    return files


@dataclass(frozen=True, slots=True)
class PromptDepth:
    """The depth of a prompt frame as a file: a PNG of 16-bit grey values times `scale` metres."""

    data: bytes
    scale: float

    @classmethod
    def of(cls, metres: Metres) -> PromptDepth:
        """Return metres along the view's axis, [height, width], as a file.

        Infinity is as far as can be; 0 and NaN are unknown, and the world estimates them there.

        Raises ValueError for an array of another kind, or negative values.
        """
        if metres.ndim != 2 or not np.issubdtype(metres.dtype, np.floating):
            got = f"{metres.dtype} {list(metres.shape)}"
            raise ValueError(f"expected depth as floats [height, width], got {got}")
        if (metres < 0).any():
            raise ValueError(f"expected metres of at least 0, got {np.nanmin(metres):g}")
        finite = metres[np.isfinite(metres)]
        least = _SKY_SCALE if np.isposinf(metres).any() else DEPTH_SCALE
        scale = min(max(least, float(finite.max(initial=0.0)) / _MOST), _COARSEST)
        steps = np.clip(np.rint(np.nan_to_num(metres, nan=0.0) / scale), 0, _MOST)
        steps[metres > 0] = np.maximum(steps[metres > 0], 1)
        file = io.BytesIO()
        Image.fromarray(steps.astype(np.uint16)).save(file, "PNG", compress_level=1)
        return cls(file.getvalue(), scale)


def depth_in_parts(depth: PromptDepth) -> Iterator[PromptDepthPart]:
    """Yield the messages that carry a depth, in order."""
    starts = range(0, len(depth.data), MAX_PART)
    for part, at in enumerate(starts):
        yield PromptDepthPart(part, len(starts), depth.scale, depth.data[at : at + MAX_PART])


def in_parts(files: Sequence[bytes]) -> Iterator[PromptFramePart]:
    """Yield the messages that carry the files, in order."""
    for index, file in enumerate(files):
        starts = range(0, max(1, len(file)), MAX_PART)
        for part, at in enumerate(starts):
            data = file[at : at + MAX_PART]
            yield PromptFramePart(index, len(files), part, len(starts), data)


def _as_file(frame: PromptFrame) -> bytes:
    if isinstance(frame, bytes):
        return frame
    if isinstance(frame, np.ndarray):
        return _as_png(frame)
    return Path(frame).read_bytes()


def _as_png(pixels: NDArray[np.uint8]) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(
            f"expected uint8 [height, width, 3 or 4], got {pixels.dtype} {list(pixels.shape)}"
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
