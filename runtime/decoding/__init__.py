"""Turning a world's past and the newest controls into the tokens of its next latent."""

from worldbridge.runtime.decoding.grid import DECODE_MODES, GridDecoder, GridSession
from worldbridge.runtime.decoding.noise import position_noise
from worldbridge.runtime.decoding.raster import (
    RASTER_MODES,
    RasterDecoder,
    RasterSession,
    RasterSnapshot,
)
from worldbridge.runtime.decoding.sampler import Sampling, sample

__all__ = [
    "DECODE_MODES",
    "GridDecoder",
    "GridSession",
    "RASTER_MODES",
    "RasterDecoder",
    "RasterSession",
    "RasterSnapshot",
    "Sampling",
    "position_noise",
    "sample",
]
