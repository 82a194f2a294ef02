"""Compilers, paths and flags of the Unreal client's tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLUGIN = ROOT / "engine_plugins" / "unreal" / "WorldBridge"
MODULE = PLUGIN / "Source" / "WorldBridge"
CORE = MODULE / "Private" / "Core"
FIXTURES = ROOT / "engine_plugins" / "fixtures"
HERE = Path(__file__).parent
FLAGS = ["-std=c++17", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Werror", "-Wshadow"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

Build = Callable[[str], Path]


def compiler(*names: str) -> str:
    """Return the path of the first compiler that is installed; skip the test without one."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no {' or '.join(names)} on this machine")
    return found


def has_openssl(cxx: str) -> bool:
    """Return whether a compiler finds the headers of OpenSSL (on Debian: libssl-dev)."""
    probe = "#include <openssl/ssl.h>\n"
    command = [cxx, "-E", "-x", "c++", "-"]
    return subprocess.run(command, input=probe, capture_output=True, text=True).returncode == 0


def run(*command: str | Path, stdin: str = "", seconds: float = 60) -> str:
    """Return what a command prints. Fails the test with its errors if it fails."""
    done = subprocess.run(
        [*map(str, command)], input=stdin, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, f"{command[0]} gave {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout
