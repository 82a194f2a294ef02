"""What an installation without extras has: everything but what an extra is for.

The tests' own environment has all packages, so each is taken away in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# packages of the extras of pyproject.toml
EXTRAS = (
    "triton",
    "cupy",
    "tensorrt",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "transformers",
    "sentencepiece",
    "gymnasium",
)
# these modules are what an extra is for; others import them once they are needed
KERNELS = (
    "kernels.",
    "runtime.decoding.executors.cuda.",
    "benchmarks.kernels.",
    "engine_plugins.python.environment",
)
CASES = ()

WITHOUT = f"""
import importlib.util, runpy, sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

known = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {EXTRAS} else known(name)
sys.meta_path.insert(0, Without())
"""


def modules() -> list[str]:
    found = []
    for folder in ("worldbridge", "runtime", "models", "bridge", "engine_plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[1:] if folder == "worldbridge" else parts)
            if name.rpartition(".")[2] not in ("__init__", "__main__", *CASES):
                found.append(name)
    return [name for name in found if not name.startswith(KERNELS)]


def test_all_else_is_imported_without_the_extras() -> None:
    names = [f"worldbridge.{name}" for name in modules()]
    assert "worldbridge.runtime.worker" in names and "worldbridge.cli.serve" in names
    code = f"{WITHOUT}\nimport importlib\nfor name in {names}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench", "kernels"), "pip install 'worldbridge[gpu]'"),
        (("bench", "kernels", "--check"), "pip install 'worldbridge[gpu]'"),
        (("export", "onnx", "--out", "{out}"), "pip install 'worldbridge[export]'"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    given = [argument.format(out=tmp_path / "out") for argument in arguments]
    run = "runpy.run_module('worldbridge', run_name='__main__')"
    code = f"{WITHOUT}\nsys.argv[1:] = {given}\n{run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
