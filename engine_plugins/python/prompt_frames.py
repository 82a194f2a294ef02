"""What a program has of a picture, as a file's bytes for the server."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldbridge.bridge.errors import BAD_PICTURE, BridgeError
from worldbridge.bridge.protocol import MAX_CLIENT_MESSAGE, MAX_PICTURE_MESSAGE
from worldbridge.settings import MAX_PROMPT_FRAMES

__all__ = ["Picture", "Pictures", "as_files"]

Picture: TypeAlias = "bytes | str | os.PathLike[str] | NDArray[np.uint8]"
Pictures: TypeAlias = "Picture | Sequence[Picture]"

MAX_TOTAL = MAX_PICTURE_MESSAGE - MAX_CLIENT_MESSAGE


def as_files(pictures: Pictures) -> tuple[bytes, ...]:
    """One picture or several, oldest first: a path, the bytes of a PNG, JPEG or WebP file, or what
    an engine rendered as uint8 [height, width, 3 or 4], top row first.

    Raises OSError for a file that cannot be read, ValueError for another kind of array, and
    BridgeError bad_picture for more than the protocol carries.
    """
    alone = isinstance(pictures, bytes | str | os.PathLike | np.ndarray)
    several: Sequence[Picture] = [pictures] if alone else pictures  # type: ignore[list-item, assignment]
    if len(several) > MAX_PROMPT_FRAMES:
        raise BridgeError(
            BAD_PICTURE,
            "too many pictures",
            f"at most {MAX_PROMPT_FRAMES}",
            f"{len(several)}",
            "Give the newest ones.",
        )
    files = tuple(_as_file(picture) for picture in several)
    total = sum(map(len, files))
    if total > MAX_TOTAL:
        raise BridgeError(
            BAD_PICTURE,
            "the pictures are too large",
            f"at most {MAX_TOTAL} bytes together",
            f"{total}",
            "Save them as JPEG, or smaller; the world's own size is enough.",
        )
    return files


def _as_file(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        return _as_png(picture)
    return Path(picture).read_bytes()


def _as_png(pixels: NDArray[np.uint8]) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(
            f"expected uint8 [height, width, 3 or 4], got {pixels.dtype} {list(pixels.shape)}"
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
