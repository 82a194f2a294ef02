"""Settings: defaults, a file, the command line; and what each refuses."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from worldbridge.cli.prompt_files import read_prompt_files
from worldbridge.config import ServeConfig, load_config
from worldbridge.errors import ConfigError


def test_defaults_are_valid_and_local() -> None:
    config = ServeConfig()
    assert (config.world, config.host, config.port) == ("embedded", "127.0.0.1", 8080)
    assert config.model_threads >= 1


def test_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ServeConfig().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"world": "  "},
        {"host": ""},
        {"port": -1},
        {"port": 65536},
        {"port": "8080"},
        {"port": True},
        {"seats": 0},
        {"seats": 10_000},
        {"threads": 0},
        {"token": ""},
        {"allow_origin": ("ftp://example.org",)},
        {"allow_origin": ("https://example.org/page",)},
        {"allow_origin": ("https://",)},
        {"allow_origin": (1,)},
        {"allow_host": ("https://example.org",)},
        {"allow_host": ("example.org:80",)},
        {"seed": -1},
        {"seed": 2**53},
        {"picture": ("",)},
        {"picture": (1,)},
        {"picture": ("a.png",) * 10},
        {"log_level": "chatty"},
        {"mode": "magic"},
        {"weights": "fp4"},
        {"pixels": ""},
        {"diagonal": 2},
        {"diagonal": 2, "mode": "jacobi"},
        {"diagonal": 0, "mode": "diagonal"},
        {"prompt": "a market"},
        {"prompt": " ", "t5": "t5-11b"},
        {"t5": "t5-11b"},
        {"prompt_embeddings": ""},
        {"prompt_embeddings": "a.npy", "prompt": "a market", "t5": "t5-11b"},
    ],
)
def test_refuses_and_names_the_setting(wrong: dict[str, Any]) -> None:
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=name) as caught:
        ServeConfig(**wrong)
    assert isinstance(caught.value, ConfigError)
    assert caught.value.expected and caught.value.got


def test_file_is_read_and_options_win(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 9000\nseats = 2\nallow_origin = ["https://example.org"]\n')
    config = load_config(file, {"port": 9001, "seats": None, "allow_origin": ()})
    assert (config.port, config.seats) == (9001, 2)
    assert config.allow_origin == ("https://example.org",)


def test_a_list_of_the_command_line_becomes_a_tuple() -> None:
    assert load_config(None, {"allow_origin": ["*"]}).allow_origin == ("*",)


def test_pictures_are_read_and_checked(tmp_path: Path) -> None:
    assert load_config(None, {"picture": ["a.png"]}).picture == ("a.png",)
    file = tmp_path / "a.png"
    file.write_bytes(b"")
    for path, said in ((file, "it is empty"), (tmp_path / "no.png", "cannot read the picture")):
        with pytest.raises(ConfigError, match=said) as caught:
            read_prompt_files("picture", [path])
        assert path.name in caught.value.message


def test_zero_is_a_given_value() -> None:
    assert load_config(None, {"port": 0, "seed": 0}).port == 0


@pytest.mark.parametrize("text", ["prot = 9000\n", "[serve]\nport = 1\n"])
def test_unknown_key_is_an_error_that_lists_the_known_ones(tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="unknown setting") as caught:
        load_config(file, {})
    assert "port" in caught.value.expected


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"port = 1\nport = 2\n"])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "server.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(file, {})


def test_a_prompt_is_a_file_or_a_text_with_its_encoder() -> None:
    assert ServeConfig(prompt_embeddings="a.npy").prompt is None
    assert ServeConfig(prompt="a market", t5="t5-11b").t5 == "t5-11b"


def test_the_decode_mode_reaches_the_worker() -> None:
    from worldbridge.runtime.worker import _parser
    from worldbridge.supervisor import worker_spec

    for config in (ServeConfig(), ServeConfig(mode="diagonal", diagonal=3)):
        spec = worker_spec(config, "ipc://x", Path("/scratch"))
        arguments = _parser().parse_args(list(spec.arguments[1:]))
        assert (arguments.mode, arguments.diagonal) == (config.mode, config.diagonal)
        assert arguments.remember == Path("/scratch/mode")
        assert (arguments.weights, arguments.pixels) == ("model", "eager")


def test_how_weights_are_read_reaches_the_worker() -> None:
    from worldbridge.runtime.worker import _parser
    from worldbridge.supervisor import worker_spec

    config = ServeConfig(weights="fp8", device="cuda", pixels="--engines")
    spec = worker_spec(config, "ipc://x", Path("/scratch"))
    arguments = _parser().parse_args(list(spec.arguments[1:]))
    assert (arguments.weights, arguments.device) == ("fp8", "cuda")
    assert arguments.pixels == "--engines"


def test_a_prompt_reaches_the_worker_whatever_it_begins_with() -> None:
    from worldbridge.runtime.worker import _parser
    from worldbridge.supervisor import worker_spec

    config = ServeConfig(prompt="--help me", t5="t5-11b", seats=2)
    spec = worker_spec(config, "ipc://x", Path("/scratch"))
    arguments = _parser().parse_args(list(spec.arguments[1:]))
    assert (arguments.prompt, str(arguments.t5)) == ("--help me", "t5-11b")
    assert arguments.prompt_embeddings is None
