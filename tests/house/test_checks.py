"""What ./build.sh check runs is part of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("bridge", "engine_plugins", "kernels", "models", "runtime")


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_ruff() -> None:
    result = _run("ruff", "check", ".")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_mypy_strict(tmp_path: Path) -> None:
    """The tree as it is imported, which is not as it lies on the disk."""
    tree = tmp_path / "worldbridge"
    tree.mkdir()
    for entry in (ROOT / "worldbridge").glob("*"):
        (tree / entry.name).symlink_to(entry)
    for name in PACKAGES:
        (tree / name).symlink_to(ROOT / name)
    result = _run("mypy", "-p", "worldbridge", MYPYPATH=str(tmp_path))
    assert result.returncode == 0, result.stdout
