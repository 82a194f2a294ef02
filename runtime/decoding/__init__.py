"""Turning a world's past and the newest controls into the tokens of its next latent."""

from worldbridge.runtime.decoding.decoder import (
    Decoder,
    DecodeSession,
    SavedTokens,
    make_decoder,
    pack_weights,
)
from worldbridge.runtime.decoding.options import DECODE_MODES, DecodeOptions, is_exact
from worldbridge.runtime.decoding.sampling import Sampling, position_noise, sample

__all__ = [
    "DECODE_MODES",
    "DecodeOptions",
    "DecodeSession",
    "Decoder",
    "Sampling",
    "SavedTokens",
    "is_exact",
    "make_decoder",
    "pack_weights",
    "position_noise",
    "sample",
]
