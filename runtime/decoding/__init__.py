"""Turning a world's past and the newest controls into the tokens of its next latent."""

from worldbridge.runtime.decoding.noise import position_noise
from worldbridge.runtime.decoding.raster import (
    DEFAULT_DIAGONAL,
    RASTER_MODES,
    RasterDecoder,
    RasterSession,
    RasterSnapshot,
    is_exact,
)
from worldbridge.runtime.decoding.sampling import Sampling, sample
from worldbridge.runtime.decoding.wavefront import DECODE_MODES, WavefrontDecoder, WavefrontSession

__all__ = [
    "DECODE_MODES",
    "DEFAULT_DIAGONAL",
    "WavefrontDecoder",
    "WavefrontSession",
    "RASTER_MODES",
    "RasterDecoder",
    "RasterSession",
    "RasterSnapshot",
    "Sampling",
    "is_exact",
    "position_noise",
    "sample",
]
