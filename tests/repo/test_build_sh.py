"""build.sh: what can be said about it without a fresh machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERBS = ("setup", "serve", "test", "check", "wheel", "lock", "help")


def _build(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "build.sh"), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("script", ["build.sh", ".ci/run"])
def test_scripts_are_valid_bash(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK), f"{script} is not executable"
    result = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = [ROOT / "build.sh", ROOT / ".ci" / "run"]
    result = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_help_names_every_verb() -> None:
    result = _build("help")
    assert result.returncode == 0
    assert all(f"  {verb} " in result.stdout for verb in VERBS)


def test_an_unknown_verb_says_what_to_do() -> None:
    result = _build("biuld")
    assert result.returncode == 1
    assert "unknown command: biuld" in result.stderr and "use one of: setup" in result.stderr


def test_a_second_setup_does_no_work() -> None:
    venv = Path(os.environ.get("WORLDBRIDGE_VENV", ROOT / ".venv"))
    if Path(sys.prefix).resolve() != venv.resolve() or not (venv / ".stamp-runtime").exists():
        pytest.skip("these tests do not run in an environment that build.sh made")
    began = time.monotonic()
    result = _build("setup")
    assert result.returncode == 0, result.stderr
    assert "installing" not in result.stderr
    assert time.monotonic() - began < 10
