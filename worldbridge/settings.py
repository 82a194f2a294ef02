"""Settings: frozen dataclasses whose fields say what they take, checked once, handed on as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from worldbridge.errors import ConfigError

__all__ = [
    "DEFAULT_ENDPOINT",
    "HEALTH_VARIABLE",
    "LOG_FORMAT_HELP",
    "MAX_PROMPT_FRAMES",
    "MAX_SEATS",
    "MAX_SOCKET_PATH",
    "TOKEN_VARIABLE",
    "TURN_SECRET_VARIABLE",
    "WORKER_ANSWERS",
    "WORKER_SILENT",
    "check",
    "check_endpoint",
    "check_fields",
    "choices_of",
    "from_json",
    "known",
    "option_of",
    "setting",
    "to_json",
]

T = TypeVar("T")

DEFAULT_ENDPOINT = "ipc:///tmp/worldbridge"  # of the ZeroMQ socket between gateway and worker
MAX_SOCKET_PATH = 107  # bytes in the path of a Unix socket (unix(7))
LOG_FORMAT_HELP = "Log as text for people, or as one JSON object per line, with session ids."
MAX_SEATS = 64
MAX_PROMPT_FRAMES = 9  # that a world begins with
HEALTH_VARIABLE = "WORLDBRIDGE_HEALTH_FD"  # a socket: each byte that comes is answered by one
TOKEN_VARIABLE = "WORLDBRIDGE_TOKEN"  # a secret on a command line is there for every user to read
TURN_SECRET_VARIABLE = "WORLDBRIDGE_TURN_SECRET"

WORKER_ANSWERS, WORKER_SILENT = b".", b"s"  # what a gateway answers there


def setting(
    default: Any,
    text: str | None = None,
    *,
    option: str | None = None,
    env: str | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Return a dataclass field.

    Args:
        text: help for the command line; without it, the field is no option.
        option: name on the command line and in files, if it is not the field's.
        env: environment variable that holds it; such a field is left out of the JSON.
        low, high: the range of a number, or of the length of a text or tuple.
    """
    metadata = {"help": text, "option": option, "env": env, "low": low, "high": high}
    return field(default=default, metadata=metadata)


def option_of(item: Any) -> str:
    """Return the name of a dataclass field on the command line, with underscores."""
    return str(item.metadata.get("option") or item.name)


def choices_of(hint: Any) -> tuple[str, ...]:
    """Return what a Literal allows, also beside None; nothing for other types."""
    for kind in _kinds(hint):
        if get_origin(kind) is Literal:
            return get_args(kind)
    return ()


def check_fields(config: Any) -> None:
    """Check type, choice and range of every field. Raises ConfigError."""
    hints = get_type_hints(type(config))
    for item in fields(config):
        value, hint, name = getattr(config, item.name), hints[item.name], option_of(item)
        choices = choices_of(hint)
        if choices and value is not None:
            check(value in choices, name, " or ".join(choices), value)
        elif not choices:
            _check_type(name, hint, value)
        _check_range(item, name, value)


def check(valid: bool, name: str, expected: str, got: object) -> None:
    """Raise ConfigError unless `valid`."""
    if not valid:
        raise ConfigError(
            f"{name} is out of its range",
            expected=expected,
            got=repr(got),
            remedy="see worldbridge serve --help",
        )


def check_endpoint(endpoint: str) -> None:
    """Raise ConfigError if the path of a Unix socket is longer than the kernel takes."""
    path = endpoint.removeprefix("ipc://")
    if path != endpoint:
        size = len(os.fsencode(path))
        check(size <= MAX_SOCKET_PATH, "endpoint", f"a path of up to {MAX_SOCKET_PATH} bytes", path)


def to_json(config: Any) -> str:
    """Return the fields as JSON, without those that travel in the environment."""
    secret = {item.name for item in fields(config) if item.metadata.get("env")}
    return json.dumps({name: v for name, v in asdict(config).items() if name not in secret})


def from_json(kind: type[T], text: str, **more: Any) -> T:
    """Return the dataclass that `to_json` wrote, with the fields of `more` on top.

    Raises:
        ConfigError: this is no JSON object, a name is unknown, or a value is out of its range.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        values = error
    if not isinstance(values, dict):
        raise ConfigError(
            f"these are no settings of {kind.__name__}",
            expected="its fields as a JSON object",
            got=repr(text) if not isinstance(values, ValueError) else str(values),
            remedy="correct the argument",
        )
    return kind(**known({**values, **more}, [item.name for item in fields(kind)]))  # type: ignore[arg-type]


def known(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the values, lists as tuples. Raises ConfigError for a name not in `names`."""
    listed = list(names)
    for name in values:
        if name not in listed:
            raise ConfigError(
                "unknown setting",
                expected="one of " + ", ".join(listed),
                got=repr(name),
                remedy="correct or remove it",
            )
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types of a union."""
    return get_args(hint) if type(None) in get_args(hint) else (hint,)


def _check_type(name: str, hint: Any, value: object) -> None:
    allowed = tuple(get_origin(kind) or kind for kind in _kinds(hint))
    taken = (*allowed, int) if float in allowed else allowed
    # True is an int to Python, but nobody means port 1 by it.
    valid = isinstance(value, taken) and not isinstance(value, bool)
    check(valid, name, " or ".join(kind.__name__ for kind in allowed), value)
    if isinstance(value, tuple):
        for part in value:
            check(isinstance(part, str) and bool(part.strip()), name, "some text", part)


def _check_range(item: Any, name: str, value: Any) -> None:
    low, high = item.metadata.get("low"), item.metadata.get("high")
    if value is None or (low is None and high is None):
        return
    size, unit = value, ""
    if isinstance(value, str):
        size, unit = len(value.strip()), " characters"
    elif isinstance(value, tuple):
        size, unit = len(value), " of them"
    valid = (low is None or size >= low) and (high is None or size <= high)
    expected = f"at least {low}" if high is None else f"{low or 0} to {high}"
    got = "*" * size if item.metadata.get("env") else value
    check(valid, name, expected + unit, got)
