"""The errors of everything below `models/`: one family, raised before anything is written.

InputError             a value that a model cannot take
 +-- PromptFrameError  images that no session can start from
 +-- TextError         a prompt that cannot be embedded
 +-- DamagedWorldError a world folder that is not what its world.json says
 +-- ConvertError      a checkpoint that cannot be converted
 +-- ExportError       a tokenizer that cannot be exported, or an export that cannot be run
"""

from __future__ import annotations

from worldbridge.errors import EXIT_CONFIG, EXIT_WEIGHTS, StructuredError

__all__ = [
    "ConvertError",
    "DamagedWorldError",
    "ExportError",
    "InputError",
    "PromptFrameError",
    "TextError",
    "require",
]


class InputError(StructuredError, ValueError):
    """A value that a model cannot take. Nothing was computed or written when it is raised."""

    exit_code = EXIT_CONFIG


class PromptFrameError(InputError):
    """Prompt frames of a wrong type, number or size."""


class TextError(InputError):
    """A prompt or a file of embeddings that cannot be used."""


class DamagedWorldError(InputError):
    """A world folder that lacks a file or whose file is not what `world.json` says."""

    exit_code = EXIT_WEIGHTS


class ConvertError(InputError):
    """A checkpoint that is not what it should be."""


class ExportError(InputError):
    """Something that an export needs is missing, in the way, or invalid."""

    def with_exit_code(self, exit_code: int) -> ExportError:
        """Return this error with another exit code for the command."""
        self.exit_code = exit_code
        return self


def require(fits: bool, name: str, expected: str, got: object, remedy: str = "") -> None:
    """Raise InputError about the argument `name` unless it fits."""
    if not fits:
        raise InputError(name, expected=expected, got=str(got), remedy=remedy)
