"""Turning a world's past and the newest controls into the tokens of its next latent."""

from worldbridge.runtime.decoding.grid import DECODE_MODES, GridDecoder, GridSession
from worldbridge.runtime.decoding.noise import position_noise
from worldbridge.runtime.decoding.raster import (
    DEFAULT_DIAGONAL,
    RASTER_MODES,
    RasterDecoder,
    RasterSession,
    RasterSnapshot,
    is_exact,
)
from worldbridge.runtime.decoding.sampler import Sampling, sample

__all__ = [
    "DECODE_MODES",
    "DEFAULT_DIAGONAL",
    "GridDecoder",
    "GridSession",
    "RASTER_MODES",
    "RasterDecoder",
    "RasterSession",
    "RasterSnapshot",
    "Sampling",
    "is_exact",
    "position_noise",
    "sample",
]
