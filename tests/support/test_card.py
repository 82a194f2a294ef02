"""An image on which flips, mirrorings, swapped channels and wrong ranges show, with its number.

Run as a program, it writes the image of number 0 to engine_plugins/fixtures/test_card.jpg.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray

WIDTH: Final = 320
HEIGHT: Final = 192
FILE: Final = Path(__file__).parents[2] / "engine_plugins" / "fixtures" / "test_card.jpg"

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

BACKGROUND: Final[Colour] = (96, 96, 96)
# The colour of the upright letter F in each corner, and its upper left pixel.
MARKS: Final[tuple[tuple[Colour, int, int], ...]] = (
    ((230, 40, 40), 8, 8),
    ((40, 200, 40), WIDTH - 40, 8),
    ((50, 80, 240), 8, HEIGHT - 56),
    ((240, 220, 40), WIDTH - 40, HEIGHT - 56),
)
_LETTER: Final = ("1111", "1000", "1000", "1110", "1000", "1000")  # squares of 8 pixels
RAMP_TOP: Final = 72
RAMP_BOTTOM: Final = 96
NUMBER_BITS: Final = 16
NUMBER_TOP: Final = 112
_BIT: Final = WIDTH // NUMBER_BITS


def draw(number: int = 0) -> Pixels:
    """Return the image as uint8 [HEIGHT, WIDTH, 3], with `number` in black and white bits."""
    image = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    for colour, left, top in MARKS:
        for y, row in enumerate(_LETTER):
            for x, bit in enumerate(row):
                if bit == "1":
                    image[top + 8 * y : top + 8 * y + 8, left + 8 * x : left + 8 * x + 8] = colour
    image[RAMP_TOP:RAMP_BOTTOM] = grey_ramp()[None, :, None]
    for index in range(NUMBER_BITS):
        value = 255 * (number >> index & 1)
        image[NUMBER_TOP : NUMBER_TOP + 16, _BIT * index : _BIT * (index + 1)] = value
    return image


def grey_ramp() -> NDArray[np.uint8]:
    """Return the ramp's levels from black at the left to white at the right, uint8 [WIDTH]."""
    return np.linspace(0, 255, WIDTH).round().astype(np.uint8)


def read_number(image: Pixels) -> int:
    """Return the number of a decoded image."""
    row = image[NUMBER_TOP + 8, _BIT // 2 :: _BIT, 1]
    return sum(int(level > 127) << bit for bit, level in enumerate(row))


def faults(image: Pixels) -> list[str]:
    """Return what is wrong with a decoded image: letters out of place, a distorted ramp."""
    if image.shape != (HEIGHT, WIDTH, 3):
        return [f"expected shape {(HEIGHT, WIDTH, 3)}, got {image.shape}"]
    found = []
    for colour, left, top in MARKS:
        for y, row in enumerate(_LETTER):
            for x, bit in enumerate(row):
                want = np.array(colour if bit == "1" else BACKGROUND)
                got = image[top + 8 * y + 4, left + 8 * x + 4].astype(int)
                if np.abs(got - want).max() > 24:
                    found.append(f"letter at {left}, {top}: square {x}, {y} is {got.tolist()}")
    row = image[(RAMP_TOP + RAMP_BOTTOM) // 2].astype(int)
    distance = int(np.abs(row - grey_ramp()[:, None].astype(int)).max())
    if distance > 3:
        found.append(f"the ramp is {distance} levels off")
    return found


def decode(file: bytes) -> Pixels:
    """Return the pixels of a JPEG file."""
    pixels: Pixels = simplejpeg.decode_jpeg(file, "RGB")
    return pixels


def jpeg(number: int = 0, quality: int = 92) -> bytes:
    """Return the image as a JPEG file without chroma subsampling."""
    data: bytes = simplejpeg.encode_jpeg(
        draw(number), quality, colorspace="RGB", colorsubsampling="444"
    )
    return data


if __name__ == "__main__":
    FILE.write_bytes(jpeg())
