"""Prompt frames named on a command line, read and checked before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worldbridge.errors import ConfigError

__all__ = ["read_prompt_files"]


def read_prompt_files(setting: str, paths: Sequence[str | Path]) -> list[bytes]:
    """Return the files' contents. Raises ConfigError that names the file that is not an image."""
    from worldbridge.bridge.gateway.prompts import check_files
    from worldbridge.bridge.protocol import BridgeError

    files = [_read(setting, Path(path)) for path in paths]
    for path, file in zip(paths, files, strict=True):
        try:
            check_files([file])
        except BridgeError as error:
            raise ConfigError(
                f"{setting} {path}: {error.message.replace('prompt frame 1 of 1', 'it')}",
                expected=error.expected,
                got=error.got,
                remedy=error.remedy.rstrip("."),
            ) from error
    return files


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the {setting} {path}",
            expected="a PNG, JPEG or WebP file",
            got=error.strerror or str(error),
            remedy="name another file",
        ) from error
