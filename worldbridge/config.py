"""What a server is started with: one frozen dataclass; the command line is made from its fields."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from worldbridge.errors import ConfigError

__all__ = ["LOG_LEVELS", "TOKEN_VARIABLE", "ServeConfig", "load_config"]

LOG_LEVELS = ("debug", "info", "warning", "error")
DEVICES = ("cpu", "cuda")
MAX_SEATS = 64
MAX_PICTURES = 9  # as the protocol has it; importing that takes a while
MODES = (
    "auto",
    "sequential",
    "jacobi",
    "medusa",
    "diagonal",
)  # as `runtime/decoding/autotune.py` has them
WEIGHTS = ("model", "fp8", "int8")  # as `runtime/decoding/weight_dtype.py` has them
MAX_SEED = 2**53 - 1  # the largest integer that a JavaScript client can hold


TOKEN_VARIABLE = "WORLDBRIDGE_TOKEN"  # a secret on a command line is there for every user to read


def _option(default: Any, text: str, env: str | None = None) -> Any:
    return field(default=default, metadata={"help": text, "env": env})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Raises ConfigError, which is a ValueError, for a value out of its range."""

    world: str = _option("embedded", "World to serve: embedded, procedural, or a directory.")
    host: str = _option("127.0.0.1", "Address to listen on; 0.0.0.0 for every network.")
    port: int = _option(8080, "Port to listen on; 0 takes a free one.")
    seats: int | None = _option(
        None, "Most players at once; without it, as many as this machine carries, as measured."
    )
    threads: int | None = _option(None, "CPU threads of the model; without it, every core.")
    device: str = _option("cpu", "Where the model computes: cpu, or cuda for an NVIDIA GPU.")
    mode: str = _option(
        "auto",
        f"How tokens are decoded: {', '.join(MODES)}. auto measures at the start and takes the "
        "fastest of those that draw exactly the tokens of sequential decoding.",
    )
    diagonal: int | None = _option(
        None, "With --mode diagonal: how many tokens a row is ahead of the next one."
    )
    weights: str = _option(
        "model",
        f"How a converted world's weights are read on a GPU: {', '.join(WEIGHTS)}. model draws the "
        "model's own tokens; fp8 and int8 read one byte per weight and draw other ones.",
    )
    pixels: str = _option(
        "eager",
        "How a GPU makes a converted world's pictures: eager, compiled (by torch.compile, a minute "
        "or two at the first start), or a folder of `worldbridge export tensorrt`.",
    )
    token: str | None = _option(
        None, "Secret that clients have to present to be let in.", TOKEN_VARIABLE
    )
    allow_origin: tuple[str, ...] = _option(
        (), "Web origin, such as https://example.org, whose pages may connect; repeatable."
    )
    allow_host: tuple[str, ...] = _option(
        (), "Name by which visitors reach the server, besides localhost and --host; repeatable."
    )
    theme: str | None = _option(None, "Theme that a player gets who asks for none.")
    seed: int | None = _option(None, "Seed of players who ask for none; without it, a random one.")
    picture: tuple[str, ...] = _option(
        (),
        "Picture file that worlds begin with for players who bring none; repeatable up to "
        f"{MAX_PICTURES} times, oldest first.",
    )
    prompt_embeddings: str | None = _option(
        None, "File with T5 embeddings of a text, for worlds that take one (docs/conditioning.md)."
    )
    prompt: str | None = _option(None, "A text for worlds that take one; needs --t5.")
    t5: str | None = _option(None, "Folder of the T5 encoder that embeds --prompt, on this disk.")
    log_level: str = _option("info", f"How much to tell on stderr: {', '.join(LOG_LEVELS)}.")

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(ServeConfig).items():
            _check_type(name, hint, getattr(self, name))
        _check(bool(self.world.strip()), "world", "a name or a directory", self.world)
        _check(bool(self.host.strip()), "host", "an address of this machine", self.host)
        _check(0 <= self.port <= 65535, "port", "0 to 65535", self.port)
        if self.seats is not None:
            _check(1 <= self.seats <= MAX_SEATS, "seats", f"1 to {MAX_SEATS}", self.seats)
        if self.threads is not None:
            _check(1 <= self.threads <= 1024, "threads", "1 to 1024", self.threads)
        _check(self.device in DEVICES, "device", " or ".join(DEVICES), self.device)
        _check(self.mode in MODES, "mode", " or ".join(MODES), self.mode)
        if self.diagonal is not None:
            fits = self.mode == "diagonal" and self.diagonal >= 1
            _check(fits, "diagonal", "a positive number, with mode diagonal", self.diagonal)
        _check(self.weights in WEIGHTS, "weights", " or ".join(WEIGHTS), self.weights)
        ways = "eager, compiled or a folder of `worldbridge export tensorrt`"
        _check(self.pixels != "", "pixels", ways, self.pixels)
        if self.token is not None:
            hidden = "*" * len(self.token)
            _check(0 < len(self.token) <= 256, "token", "1 to 256 characters", hidden)
        for origin in self.allow_origin:
            _check_origin(origin)
        for name in self.allow_host:
            valid = isinstance(name, str) and bool(name.strip()) and not set(name) & set("/:@ ")
            _check(valid, "allow_host", "a host name without scheme and port", name)
        if self.seed is not None:
            _check(0 <= self.seed <= MAX_SEED, "seed", f"0 to {MAX_SEED}", self.seed)
        for name in self.picture:
            _check(isinstance(name, str) and bool(name.strip()), "picture", "a file", name)
        count = len(self.picture)
        _check(count <= MAX_PICTURES, "picture", f"at most {MAX_PICTURES} of them", count)
        self._check_prompt()
        _check(self.log_level in LOG_LEVELS, "log_level", " or ".join(LOG_LEVELS), self.log_level)

    def _check_prompt(self) -> None:
        for name in ("prompt_embeddings", "prompt", "t5"):
            value = getattr(self, name)
            _check(value is None or bool(value.strip()), name, "some text", value)
        file, alone = self.prompt_embeddings, self.prompt is None and self.t5 is None
        _check(file is None or alone, "prompt_embeddings", "no prompt and no t5 beside it", file)
        _check(self.prompt is None or self.t5 is not None, "prompt", "t5 beside it", self.prompt)
        _check(self.t5 is None or self.prompt is not None, "t5", "a prompt beside it", self.t5)

    @property
    def model_threads(self) -> int:
        return self.threads or len(os.sched_getaffinity(0))


def _check(valid: bool, name: str, expected: str, got: object) -> None:
    if not valid:
        raise ConfigError(
            f"{name} is out of its range",
            expected=expected,
            got=repr(got),
            remedy="see worldbridge serve --help",
        )


def _check_type(name: str, hint: Any, value: object) -> None:
    choices = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    allowed = tuple(get_origin(choice) or choice for choice in choices)
    # True is an int to Python, but nobody means port 1 by it.
    valid = isinstance(value, allowed) and not isinstance(value, bool)
    _check(valid, name, " or ".join(kind.__name__ for kind in allowed), value)


def _check_origin(origin: object) -> None:
    text = origin if isinstance(origin, str) else ""
    scheme, separator, rest = text.partition("://")
    valid = text == "*" or (scheme in ("http", "https") and separator and rest and "/" not in rest)
    _check(bool(valid), "allow_origin", "* or scheme://host[:port] without a path", origin)


def load_config(path: Path | None, given: Mapping[str, Any]) -> ServeConfig:
    """Settings given by hand win over the file's, and those over the defaults.

    Args:
        path: a TOML file whose top-level keys are the fields of ServeConfig, or none.
        given: values by field name; None and the empty tuple mean "not given".

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value is out of its range.
    """
    values: dict[str, Any] = _read(path) if path is not None else {}
    values |= {name: value for name, value in given.items() if value not in (None, (), [])}
    known = [item.name for item in fields(ServeConfig)]
    for name in values:
        if name not in known:
            raise ConfigError(
                f"unknown setting in {path}" if path is not None else "unknown setting",
                expected="one of " + ", ".join(known),
                got=repr(name),
                remedy="correct or remove it",
            )
    # TOML and the command line have lists where a frozen dataclass has tuples.
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return ServeConfig(**settings)


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
