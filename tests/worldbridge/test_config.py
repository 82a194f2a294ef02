"""Settings: defaults, a file, the command line; and what each refuses."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from worldbridge.bridge.config import GatewayConfig
from worldbridge.config import load_config, read_prompt_files
from worldbridge.errors import ConfigError
from worldbridge.runtime.config import WorkerConfig
from worldbridge.settings import TOKEN_VARIABLE, check_endpoint, from_json
from worldbridge.supervisor import gateway_spec, scratch_folder, worker_spec


def test_defaults_are_valid_and_local() -> None:
    config = load_config(None, {})
    assert (config.worker.world, config.worker.mode) == ("guided", "auto")
    assert (config.gateway.host, config.gateway.port) == ("127.0.0.1", 8080)
    assert config.worker.model_threads >= 1


def test_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        load_config(None, {}).gateway.port = 1  # type: ignore[misc]


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
        {"trusted_proxy": ("proxy.example.org",)},
        {"seed": -1},
        {"seed": 2**53},
        {"prompt_frame": ("",)},
        {"prompt_frame": (1,)},
        {"prompt_frame": ("a.png",) * 10},
        {"log_level": "chatty"},
        {"mode": "magic"},
        {"weight_dtype": "fp4"},
        {"detokenizer": ""},
        {"row_lag": 2},
        {"row_lag": 2, "mode": "jacobi"},
        {"row_lag": 0, "mode": "diagonal"},
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
        load_config(None, wrong)
    assert isinstance(caught.value, ConfigError)
    assert caught.value.expected and caught.value.got


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "play.example.org"])
def test_other_machines_need_a_token_or_a_flag(host: str) -> None:
    with pytest.raises(ConfigError, match="anyone who reaches this address") as caught:
        load_config(None, {"host": host})
    assert host in caught.value.got
    assert "--token auto" in caught.value.remedy and "--allow-anonymous" in caught.value.remedy
    for more in ({"token": "auto"}, {"allow_anonymous": "on"}):
        assert load_config(None, {"host": host, **more}).gateway.host == host


def test_file_is_read_and_options_win(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 9000\nseats = 2\nallow_origin = ["https://example.org"]\n')
    config = load_config(file, {"port": 9001, "seats": None, "allow_origin": ()})
    assert (config.gateway.port, config.gateway.seats, config.worker.seats) == (9001, 2, 2)
    assert config.gateway.allow_origins == ("https://example.org",)


def test_a_list_of_the_command_line_becomes_a_tuple() -> None:
    assert load_config(None, {"allow_origin": ["*"]}).gateway.allow_origins == ("*",)


def test_prompt_frames_are_read_and_checked(tmp_path: Path) -> None:
    assert load_config(None, {"prompt_frame": ["a.png"]}).gateway.prompt_frames == ("a.png",)
    file = tmp_path / "a.png"
    file.write_bytes(b"")
    for path, said in (
        (file, "it is empty"),
        (tmp_path / "no.png", "cannot read the prompt_frame"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            read_prompt_files("prompt_frame", [path])
        assert path.name in caught.value.message


def test_zero_is_a_given_value() -> None:
    gateway = load_config(None, {"port": 0, "seed": 0}).gateway
    assert (gateway.port, gateway.seed) == (0, 0)


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
    assert WorkerConfig(prompt_embeddings="a.npy").prompt is None
    assert WorkerConfig(prompt="a market", t5="t5-11b").t5 == "t5-11b"


@pytest.mark.parametrize(
    "config",
    [
        WorkerConfig(mode="diagonal", row_lag=3, autotune_cache="/scratch/mode"),
        WorkerConfig(weight_dtype="fp8", device="cuda", detokenizer="--engines"),
        WorkerConfig(prompt="--help me", t5="t5-11b", seats=2),
    ],
)
def test_every_setting_reaches_the_worker(config: WorkerConfig) -> None:
    module, text = worker_spec(config).arguments
    assert module == "worldbridge.runtime"
    assert from_json(WorkerConfig, text) == config


def test_every_setting_reaches_the_gateway_and_the_token_by_the_environment() -> None:
    config = GatewayConfig(allow_origins=("*",), prompt_frames=("a.png",), seed=3, token="secret")
    spec = gateway_spec(config)
    assert "secret" not in spec.arguments[1] and spec.environment[TOKEN_VARIABLE] == "secret"
    assert from_json(GatewayConfig, spec.arguments[1], token="secret") == config


@pytest.mark.parametrize("text", ["", "[]", "{", '{"prot": 1}', '{"port": "1"}'])
def test_json_that_is_no_settings_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        from_json(GatewayConfig, text)


def test_an_empty_variable_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    with pytest.raises(ConfigError, match=f"{TOKEN_VARIABLE} is set, but empty") as caught:
        load_config(None, {})
    assert caught.value.exit_code == 2
    assert load_config(None, {"token": "open sesame"}).gateway.token == "open sesame"


@pytest.mark.parametrize("token", ["", " ", "\t", " secret", "secret\n"])
def test_a_token_has_no_white_space_at_its_ends(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigError, match="token") as caught:
        load_config(None, {"token": token})
    assert caught.value.exit_code == 2 and "secret" not in str(caught.value)
    file = tmp_path / "server.toml"
    file.write_text(f"token = {json.dumps(token)}\n")
    with pytest.raises(ConfigError, match="token"):
        load_config(file, {})


def test_a_deep_folder_for_temporary_files_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with scratch_folder() as scratch:
        check_endpoint(f"ipc://{scratch}/worker")
        assert Path(scratch).stat().st_mode & 0o777 == 0o700
    assert not list(deep.iterdir())


def test_without_a_folder_for_temporary_files_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with pytest.raises(ConfigError, match="No space left on device.*TMPDIR") as caught:
        scratch_folder()
    assert caught.value.exit_code == 2


def test_a_socket_path_that_the_kernel_refuses_is_refused_by_its_length() -> None:
    with pytest.raises(ConfigError, match="107 bytes"):
        GatewayConfig(endpoint="ipc:///tmp/" + "x" * 110)
