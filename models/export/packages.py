"""Packages that only an export needs. They are imported by name, when they are needed."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from worldbridge.models.errors import ExportError

__all__ = ["optional", "require", "version_of"]


def optional(name: str) -> Any:
    """The package, or None where it is not installed or does not load."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def require(name: str, purpose: str, extra: str) -> Any:
    """The package. Raises ExportError with what to install (an extra of ours) without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"{purpose} needs a package that is not there",
            expected=f"the package {name}",
            got=str(error),
            remedy=f"pip install 'worldbridge[{extra}]'",
        ) from error


def version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
