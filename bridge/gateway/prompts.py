"""Image files of clients to prompt frames.

The files come from anyone who can open a socket. All headers are checked before the first file is
decoded, and each image is dropped before the next one is decoded, so that no request costs more
memory than `MAX_PIXELS`, nor more time than `MAX_TOTAL_PIXELS`.
`models/conditioning/prompt_frames.py` defines how an image is fitted; this does the same without
torch.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from worldbridge.bridge.protocol import MAX_PAYLOAD, MAX_PROMPT_FRAMES, BridgeError, PromptFrames

__all__ = [
    "MAX_ASPECT",
    "MAX_JPEG_PIXELS",
    "MAX_PIXELS",
    "MAX_TOTAL_PIXELS",
    "MIN_SIDE",
    "DepthFile",
    "check_files",
    "media_type",
    "read_prompt_frames",
]

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_NOTES: Final = {b"iCCP", b"tEXt", b"zTXt", b"iTXt"}
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
FORMATS: Final = ("PNG", "JPEG", "WEBP")
MIN_SIDE: Final = 16  # pixels
MAX_PIXELS: Final = 64_000_000
MAX_JPEG_PIXELS: Final = (
    128_000_000  # scaled while it is decoded; cameras have up to 108 megapixels
)
_WHOLE_PIXELS: Final = 36_000_000  # above 8K (7680x4320); larger ones are halved as they are
MAX_TOTAL_PIXELS: Final = 80_000_000  # of all files of a start: nine of 4K
MAX_ASPECT: Final = 8  # the longer side; enlarging a thread to a world's size would not end

# What Pillow raises for bytes that are not what they say.
_DAMAGED: Final = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    struct.error,
)
_FORMATS_TEXT: Final = "a PNG, JPEG or WebP file"


@dataclass(frozen=True, slots=True)
class DepthFile:
    """The depth of the newest prompt frame: a PNG of 16-bit grey values times `scale` metres."""

    data: bytes
    scale: float


def read_prompt_frames(
    files: Sequence[bytes], height: int, width: int, depth: DepthFile | None = None
) -> PromptFrames:
    """Decode `files`, oldest first, scaled to cover height x width and cropped around the centre.

    Transparent pixels lie over black; EXIF orientation is followed. Depth is not blended.
    Raises BridgeError bad_prompt_frame, which names the file.
    """
    images = _open_all(files, (height, width))
    size = len(files) * height * width * 3
    if size > MAX_PAYLOAD:
        raise _bad(
            f"{len(files)} prompt frames are too many for a world of {width}x{height} pixels",
            f"at most {MAX_PAYLOAD // (height * width * 3)}",
            f"{len(files)}",
            "Send fewer.",
        )
    rgb, shape = bytearray(), (1, 1)
    while images:
        image, name = images.pop(0)  # and drop it before the next one is decoded
        pixels, shape = _fitted(image, name, height, width)
        rgb += pixels
    frames = PromptFrames(len(files), height, width, bytes(rgb))
    if depth is None:
        return frames
    steps = _fit(_read_depth(depth.data, shape), height, width, Image.Resampling.NEAREST)
    return frames.replace(depth=steps.astype("<u2").tobytes(), depth_scale=depth.scale)


def _fitted(
    image: Image.Image, name: str, height: int, width: int
) -> tuple[bytes, tuple[int, int]]:
    """Return the pixels of an image at a size, and its own (width, height)."""
    upright = _decode(image, name)
    return _fit(upright, height, width).tobytes(), upright.size


def _read_depth(data: bytes, shape: tuple[int, int]) -> Image.Image:
    """Return the depth of an image of the size (width, height) `shape`, 16 bits a pixel."""
    name = "the depth of the prompt frame"
    image = _open(data, name, shape)
    if not image.mode.startswith("I;16"):
        raise _bad(
            f"{name} is of another kind",
            "a PNG of 16-bit grey values",
            f"{image.format} of mode {image.mode}",
            "Save metres / scale as 16-bit integers, 0 where the depth is unknown.",
        )
    if abs(image.width * shape[1] - image.height * shape[0]) > max(*image.size, *shape):
        raise _bad(
            f"{name} has another shape than the frame",
            f"the shape of {shape[0]}x{shape[1]}, in any size",
            f"{image.width}x{image.height}",
            "Render both with one camera.",
        )
    try:
        image.load()
    except _DAMAGED as error:
        raise _unreadable(name, error) from error
    return image


def check_files(files: Sequence[bytes]) -> None:
    """Raise BridgeError bad_prompt_frame for files that `read_prompt_frames` would refuse."""
    images = _open_all(files, (512, 512))
    while images:
        _decode(*images.pop(0))


def media_type(file: bytes) -> str:
    """Return the media type of a file that `check_files` accepted."""
    if file.startswith(b"\x89PNG"):
        return "image/png"
    return "image/webp" if file.startswith(b"RIFF") else "image/jpeg"


def _open_all(files: Sequence[bytes], fit: tuple[int, int]) -> list[tuple[Image.Image, str]]:
    """Return every file with its header checked, and its name for errors.

    `fit`: (height, width) that they will be scaled to. A JPEG is then decoded at a size that is
    closer to it.
    """
    if not 1 <= len(files) <= MAX_PROMPT_FRAMES:
        raise _bad(
            "this is not a number of prompt frames that a world can start from",
            f"1 to {MAX_PROMPT_FRAMES}",
            f"{len(files)}",
            "Send the newest ones.",
        )
    names = [f"prompt frame {number} of {len(files)}" for number in range(1, len(files) + 1)]
    images = [(_open(data, name, fit), name) for data, name in zip(files, names, strict=True)]
    total = sum(image.width * image.height for image, _ in images)
    if total > MAX_TOTAL_PIXELS:
        raise _bad(
            "the prompt frames are too large together",
            f"at most {MAX_TOTAL_PIXELS} pixels",
            f"{total}",
            "Send them smaller; they are scaled to the world's size anyway.",
        )
    return images


def _open(data: bytes, name: str, fit: tuple[int, int]) -> Image.Image:
    if not data:
        raise _bad(f"{name} is empty", _FORMATS_TEXT, "0 bytes", "Send the file's bytes.")
    size = _webp_size(data)
    if size is not None:  # opening the file makes room for its pixels
        _check_size(*size, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # we have our own limits
            image = Image.open(io.BytesIO(_with_end(_without_notes(data))), formats=FORMATS)
    except UnidentifiedImageError as error:
        got = f"{len(data)} bytes that begin with {data[:12].hex(' ')}"
        raise _bad(
            f"{name} is not an image", _FORMATS_TEXT, got, "Save it in one of these formats."
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except _DAMAGED as error:
        raise _unreadable(name, error) from error
    if image.width * image.height <= MAX_JPEG_PIXELS:
        side = 2 * max(fit)  # either side, as it may be turned; what is left is filtered
        image.draft(image.mode, (side, side))  # changes the size of JPEGs alone
    _check_size(
        *image.size, name, MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS
    )
    # A camera's JPEG may hold a second image, such as a preview: that is no animation.
    frames = getattr(image, "n_frames", 1)
    if image.format != "MPO" and frames > 1:
        raise _bad(
            f"{name} is animated",
            "a still image",
            f"{frames} frames",
            f"Send up to {MAX_PROMPT_FRAMES} of its frames as files of their own.",
        )
    return image


def _without_notes(data: bytes) -> bytes:
    """Return a PNG without its colour profile and texts, which Pillow refuses if they are large.

    Anything else is returned as it is. Source: PNG specification, third edition, chapter 11.
    """
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] not in _NOTES:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _with_end(data: bytes) -> bytes:
    """Return a JPEG with the end marker that some cameras leave out, if nothing else is missing."""
    if data[:2] != _JPEG or data.rfind(_JPEG_END) > data.rfind(_JPEG_SCAN):
        return data
    try:  # strict: it does not fill in what is missing
        simplejpeg.decode_jpeg(data + _JPEG_END, "GRAY", min_height=1, min_width=1, strict=True)
    except ValueError:
        return data
    return data + _JPEG_END


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) from the header of a WebP file, None for anything else.

    Source: the WebP container specification, RFC 9649.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            sides = data[24:27], data[27:30]
            wide, high = (1 + int.from_bytes(side, "little") for side in sides)
            return wide, high
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None


def _check_size(width: int, height: int, name: str, most: int = MAX_PIXELS) -> None:
    got = f"{width}x{height}"
    if width * height > most:
        raise _too_large(name, f"{got}, which is {width * height}", most)
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise _bad(
            f"{name} is too small or too narrow",
            f"sides of at least {MIN_SIDE} pixels, one at most {MAX_ASPECT} times the other",
            got,
            "Crop it to what the player is to see.",
        )


def _decode(image: Image.Image, name: str) -> Image.Image:
    """Return the image as RGB, upright, over black."""
    try:
        image.load()
        if image.width * image.height > _WHOLE_PIXELS and not image.mode.startswith("I;16"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB").reduce(2)
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8
            return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)).convert("RGB")
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        layers = upright.convert("RGBA")
        over_black = Image.new("RGB", layers.size)
        over_black.paste(layers, mask=layers.getchannel("A"))
        return over_black
    except _DAMAGED as error:
        raise _unreadable(name, error) from error


def _fit(
    image: Image.Image,
    height: int,
    width: int,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> NDArray[Any]:
    """Return [height, width, 3] of colors or [height, width] of depth.

    `models/conditioning/prompt_frames.py` has the formulas.
    """
    if image.width * height >= image.height * width:
        size = (-(-image.width * height // image.height), height)
    else:
        size = (width, -(-image.height * width // image.width))
    if size != image.size:
        image = image.resize(size, resampling)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _too_large(name: str, got: str, most: int = MAX_PIXELS) -> BridgeError:
    return _bad(
        f"{name} is too large",
        f"at most {most} pixels",
        got,
        "Send it smaller; it is scaled to the world's size anyway.",
    )


def _unreadable(name: str, error: Exception) -> BridgeError:
    if isinstance(error, MemoryError):
        return _bad(
            f"{name} takes too much memory to decode",
            "an image that fits into the decoder's memory",
            "a larger one",
            "Send it smaller; it is scaled to the world's size anyway.",
        )
    return _bad(
        f"{name} is damaged",
        f"{_FORMATS_TEXT}, whole",
        f"{type(error).__name__}: {error}"[:200],
        "Save or send it again.",
    )


def _bad(message: str, expected: str, got: str, remedy: str) -> BridgeError:
    return BridgeError("bad_prompt_frame", message, expected, got, remedy)
