"""The causal discrete video tokenizer: one class, several configurations."""

from __future__ import annotations

from worldbridge.models.tokenizer.config import (
    CONFIGS,
    DV4X8X8,
    DV8X8X8,
    DV8X16X16,
    EMBEDDED,
    TokenizerConfig,
)
from worldbridge.models.tokenizer.fsq import FSQ
from worldbridge.models.tokenizer.stream import StreamState
from worldbridge.models.tokenizer.tokenizer import VideoTokenizer

__all__ = [
    "CONFIGS",
    "DV4X8X8",
    "DV8X8X8",
    "DV8X16X16",
    "EMBEDDED",
    "FSQ",
    "StreamState",
    "TokenizerConfig",
    "VideoTokenizer",
]
