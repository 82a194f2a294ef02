"""A wheel in an environment of its own, away from the checkout, serves the page and a frame."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.support.server import serving
from worldbridge.engine_plugins.python import connect

ROOT = Path(__file__).parents[2]
FOLDERS = ("worldbridge", "benchmarks", "bridge", "kernels", "models", "runtime", "engine_plugins")
FILES = ("pyproject.toml", "README.md", "LICENSE")
WEIGHTS = ROOT / "models" / "weights"

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building leaves its traces beside the sources."""
    source = tmp_path_factory.mktemp("source")
    leave_out = shutil.ignore_patterns("__pycache__", "node_modules", "*.egg-info")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=leave_out)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    out = source / "dist"
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    result = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`worldbridge` from the wheel; what it depends on is borrowed from this environment.

    A path file does not run the path files of the folder it names, so the checkout that is
    installed here in editable form is not visible there.
    """
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
    subprocess.run(
        [*pip, "install", "--no-deps", "--force-reinstall", "--quiet", str(wheel)],
        check=True,
        capture_output=True,
    )
    return venv / "bin" / "worldbridge"


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "node_modules" not in path.parts
    }


def test_holds_the_page_the_weights_and_nothing_of_the_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    clients = ROOT / "engine_plugins"
    page = {
        f"worldbridge/engine_plugins/{folder}/{name}"
        for folder in ("js", "web")
        for name in _files(clients / folder)
    }
    weights = {f"worldbridge/models/weights/{name}" for name in _files(WEIGHTS)}
    assert page and page <= names, page - names
    assert weights <= names, weights - names
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and "worldbridge" in tops, f"lands in site-packages as {sorted(tops)}"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_runs_its_own_files(command: Path, tmp_path: Path) -> None:
    code = "import worldbridge, worldbridge.runtime as r; print(worldbridge.__file__, r.__file__)"
    result = subprocess.run(
        [command.parent / "python", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in result.stdout.split():
        assert Path(name).is_relative_to(command.parents[1]), name


def _worlds() -> list[object]:
    trained = any(WEIGHTS.rglob("*.safetensors"))
    missing = pytest.mark.skipif(not trained, reason="the embedded world has no weights yet")
    return ["procedural", pytest.param("embedded", marks=missing)]


@pytest.mark.parametrize("world", _worlds())
def test_serves_the_page_and_a_frame(command: Path, tmp_path: Path, world: str) -> None:
    with serving(tmp_path / "log", "--world", world, command=[str(command)]) as server:
        with urllib.request.urlopen(server.url) as response:
            assert b"main.js" in response.read()
        with urllib.request.urlopen(f"{server.url}/worlds") as response:
            assert json.load(response)[0]["name"] == world
        jpeg = asyncio.run(_one_frame(server.url))
    assert jpeg.startswith(b"\xff\xd8")


async def _one_frame(url: str) -> bytes:
    async with connect(url) as client, asyncio.timeout(30):
        return (await client.frame()).image
