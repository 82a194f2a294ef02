"""Unmodified packages from the npm registry, fetched once per machine; without network: a skip."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_CACHE = Path(tempfile.gettempdir()) / "worldbridge-npm"
_PATIENCE_S = 90


def npm_package(name: str, version: str) -> Path:
    """Return the folder of a package with its dependencies beside it, or skip the test."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    home = _CACHE / f"{name.replace('/', '+')}-{version}"
    folder = home / "node_modules" / name
    if not (home / "complete").exists():
        home.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save"]
        try:
            subprocess.run(
                [*command, "--prefix", str(home), f"{name}@{version}"],
                check=True,
                capture_output=True,
                timeout=_PATIENCE_S,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm cannot fetch {name}@{version}: {type(error).__name__}")
        (home / "complete").touch()
    assert (folder / "package.json").exists()
    return folder


def bundled(name: str, version: str, target: Path, variable: str) -> str:
    """Return a package as a page bundles it, as the script that sets `variable`."""
    bundler = npm_package("esbuild", "0.28.2") / "bin" / "esbuild"
    command = [str(bundler), "--bundle", "--format=iife", f"--global-name={variable}"]
    subprocess.run(
        [*command, "--platform=browser", f"--outfile={target}"],
        input=f'export * from "{name}";'.encode(),
        cwd=npm_package(name, version).parents[len(Path(name).parts)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return target.read_text()
