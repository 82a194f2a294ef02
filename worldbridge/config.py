"""The settings of a server, as a tree: those of its gateway and those of its worker.

On the command line and in a TOML file all settings have a name of their own, so both are flat.
A setting that both processes need, such as `seats`, is one setting.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from worldbridge.bridge.config import GatewayConfig
from worldbridge.errors import ConfigError
from worldbridge.runtime.config import WorkerConfig
from worldbridge.settings import known, option_of

__all__ = ["ServerConfig", "load_config", "options", "read_prompt_files"]


_PARTS: dict[str, type[Any]] = {"worker": WorkerConfig, "gateway": GatewayConfig}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    gateway: GatewayConfig
    worker: WorkerConfig


def options() -> Iterator[tuple[str, Field[Any], Any]]:
    """Yield (name, dataclass field, type) of every setting that a user can make, each once."""
    seen = set()
    for kind in _PARTS.values():
        hints = get_type_hints(kind)
        for item in fields(kind):
            name = option_of(item)
            if item.metadata.get("help") and name not in seen:
                seen.add(name)
                yield name, item, hints[item.name]


def load_config(path: Path | None, given: Mapping[str, Any]) -> ServerConfig:
    """Return the settings: given ones before the file's, and those before the defaults.

    Args:
        path: a TOML file whose top-level keys are names of options, or none.
        given: values by name; None and an empty list or tuple mean "not given".

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value is out of its range.
    """
    values: dict[str, Any] = _read(path) if path is not None else {}
    _check_environment(given)
    values |= {name: value for name, value in given.items() if value not in (None, (), [])}
    values = known(values, [name for name, _, _ in options()])
    parts = {
        part: kind(**{f.name: values[option_of(f)] for f in fields(kind) if option_of(f) in values})
        for part, kind in _PARTS.items()
    }
    return ServerConfig(**parts)


def _check_environment(given: Mapping[str, Any]) -> None:
    """Refuse a variable that is set to nothing: who sets it means to have a secret."""
    for name, item, _ in options():
        variable = item.metadata.get("env")
        if variable and given.get(name) is None and os.environ.get(variable) == "":
            raise ConfigError(
                f"{variable} is set, but empty",
                expected="a secret in it, or no such variable",
                got="no characters",
                remedy=f"give it a secret, or unset {variable} for a server without one",
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the configuration {path}",
            expected="a TOML file",
            got=str(error),
            remedy="correct the file, or leave --config out",
        ) from error


def read_prompt_files(setting: str, paths: Sequence[str | Path]) -> list[bytes]:
    """Return the files' contents. Raises ConfigError that names the file that is not an image."""
    from worldbridge.bridge.gateway.prompts import check_files
    from worldbridge.bridge.protocol import BridgeError

    files = [_read_image(setting, Path(path)) for path in paths]
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


def _read_image(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the {setting} {path}",
            expected="a PNG, JPEG or WebP file",
            got=error.strerror or str(error),
            remedy="name another file",
        ) from error
