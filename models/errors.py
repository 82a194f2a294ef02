"""Errors of input that the models cannot take."""

from __future__ import annotations

from worldbridge.errors import EXIT_CONFIG, StructuredError

__all__ = ["InputError"]


class InputError(StructuredError, ValueError):
    """Base of the errors below `models/`. Nothing was computed or written when one is raised."""

    exit_code = EXIT_CONFIG
