"""What ./build.sh check runs is part of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "bridge", "engine_plugins", "kernels", "models", "runtime")


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("arguments", [("check", "."), ("format", "--check", ".")])
def test_ruff(arguments: tuple[str, ...]) -> None:
    result = _run("ruff", *arguments)
    assert result.returncode == 0, result.stdout


def test_the_formatter_is_never_switched_off() -> None:
    """There is no table of numbers that needs it."""
    switch = "# fmt: " + "(skip|off)"
    result = subprocess.run(
        ["git", "grep", "-nE", switch, "--", "*.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1, result.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_mypy_strict() -> None:
    """The tree as it is imported, which is not as it lies on the disk; see build.sh."""
    tree = ROOT / ".typing" / "worldbridge"
    tree.mkdir(parents=True, exist_ok=True)
    targets = [path for path in (ROOT / "worldbridge").iterdir() if path.name != "__pycache__"]
    targets += [ROOT / name for name in PACKAGES]
    for stale in {path.name for path in tree.iterdir()} - {path.name for path in targets}:
        (tree / stale).unlink()
    for target in targets:
        if not (tree / target.name).is_symlink():
            (tree / target.name).symlink_to(target)
    result = _run("mypy", "-p", "worldbridge", MYPYPATH=".typing")
    assert result.returncode == 0, result.stdout
