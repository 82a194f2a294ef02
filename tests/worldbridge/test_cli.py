"""The command line: complete help, quick to import, problems reported in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from worldbridge.cli import app
from worldbridge.config import options as settings

BENCHES = ("bridge", "decode", "kernels", "memory", "network", "players", "world")
GROUPS = {"bench": BENCHES, "export": ("onnx", "tensorrt"), "keys": ("make", "list")}
COMMANDS = ("serve", "token", "profile", "eval", "train", "convert", "worlds", "version")
HEAVY = ("torch", "numpy", "aiortc", "av", "starlette", "zmq", "rich.console")


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worldbridge", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


def test_every_command_and_option_is_explained() -> None:
    group = typer.main.get_command(app)
    assert set(group.commands) == {*COMMANDS, *GROUPS}  # type: ignore[attr-defined]
    commands = dict(group.commands)  # type: ignore[attr-defined]
    for name, names in GROUPS.items():
        assert commands[name].help
        assert set(commands[name].commands) == set(names)
        commands |= commands[name].commands
    for name, command in commands.items():
        assert command.help, f"{name} has no help"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f" {command} [OPTIONS]" in result.output


@pytest.mark.parametrize(
    ("group", "command"), [(group, command) for group in GROUPS for command in GROUPS[group]]
)
def test_help_of_groups(group: str, command: str) -> None:
    result = CliRunner().invoke(app, [group, command, "--help"])
    assert result.exit_code == 0
    assert f" {group} {command} [OPTIONS]" in result.output


def test_first_sentences_are_not_cut_off_in_the_list() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert "..." not in result.output.replace("[ARGS]...", "")


def test_serve_takes_every_setting_of_the_configuration() -> None:
    output = CliRunner().invoke(app, ["serve", "--help"]).output
    options = set(re.findall(r"--([a-z0-9-]+)", output))
    assert {name.replace("_", "-") for name, _, _ in settings()} <= options


def test_help_imports_nothing_heavy() -> None:
    loaded = _loaded_by("from worldbridge.cli import app")
    assert not loaded & set(HEAVY)


def test_bridge_runs_without_torch() -> None:
    code = (
        "import sys, pkgutil, importlib\n"
        "sys.modules['torch'] = None  # importing it fails\n"
        "import worldbridge.bridge as bridge\n"
        "for m in pkgutil.iter_modules(bridge.__path__, bridge.__name__ + '.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected", "got"),
    [
        (("--port", "70000"), "0 to 65535", "70000"),
        (("--seats", "0"), "1 to", "0"),
        (("--log-level", "loud"), "debug", "loud"),
        (("--allow-origin", "example.org"), "scheme://host", "example.org"),
        (("--config", "/no/such/file.toml"), "a TOML file", "/no/such/file.toml"),
    ],
)
def test_a_wrong_setting_ends_serve_with_one_line(
    arguments: tuple[str, ...], expected: str, got: str
) -> None:
    result = _run("serve", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert expected in lines[0] and got in lines[0]


def test_a_secret_is_never_printed() -> None:
    result = _run("serve", WORLDBRIDGE_TOKEN="x" * 300)
    assert result.returncode == 2
    assert "xxx" not in result.stderr
