"""The scripts for GPU machines, on one that lacks the GPU and every package of the network.

The scripts run as they are, with every GPU hidden. In all their processes a `sitecustomize` takes
the packages away, and the installation that these tests run from.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "benchmarks" / name for name in ("gpu_decode.sh", "gpu.sh", "importable.sh")]
NETWORK = (
    "zmq",
    "websockets",
    "aiortc",
    "av",
    "aiohttp",
    "starlette",
    "uvicorn",
    "simplejpeg",
    "prometheus_client",
    "PIL",
    "httpx",
    "cupy",
    "pytest_asyncio",
    "pytest_timeout",
)
COMMAND_LINE = ("typer", "rich", "msgpack", "msgspec", "triton", "pytest", "hypothesis", "scipy")

LACKING = """
import sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path = [f for f in sys.meta_path if not f.__module__.startswith("__editable__")]
sys.meta_path.insert(0, Lacking())
"""


def environment(tmp_path: Path, lacking: tuple[str, ...]) -> dict[str, str]:
    """Where python3 is the tests' own, without `lacking`, and nvidia-smi is any command."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sitecustomize.py").write_text(LACKING.format(names=lacking))
    (tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "nvidia-smi").write_text("#!/bin/sh\necho none\n")
    for name in ("python3", "nvidia-smi"):
        (tools / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(tools),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # what is taken away would be a plugin
        "TMPDIR": str(tmp_path),
    }


def run(
    *command: str | Path, cwd: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run(
        ["shellcheck", "-x", *SCRIPTS], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_gpu_decode_needs_no_network(tmp_path: Path) -> None:
    """The GPU's absence is all that its parts complain of, so they have imported what they need."""
    parts = ("decode-fp8", "kernels", "players-medusa", "tests")
    lacking = environment(tmp_path, NETWORK)
    done = run(SCRIPTS[0], "out", "quick", *parts, cwd=tmp_path, environment=lacking)
    logs = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.log")}
    assert sorted(logs) == list(parts), done.stdout
    # no test is reached without a GPU, and the module of each has been imported to see that
    assert " skipped, " in logs.pop("tests").splitlines()[-1], done.stdout
    assert "failed: tests" not in done.stdout
    for name, said in logs.items():
        last = said.splitlines()[-1]
        assert last.startswith("worldbridge: ") and "no CUDA device" in last, done.stdout
        assert f"failed: {name}" in done.stdout
    assert done.returncode == 1
    assert not list(tmp_path.glob("tmp.*"))  # the tree of links is gone


def test_gpu_decode_names_its_parts(tmp_path: Path) -> None:
    done = run(
        SCRIPTS[0],
        "out",
        "quick",
        "decoder",
        cwd=tmp_path,
        environment=environment(tmp_path, NETWORK),
    )
    assert done.returncode == 2
    assert "machine tests" in done.stderr and "got decoder" in done.stderr


def test_training_needs_torch_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    """gpu.sh: the machine lacks the command line's packages, too. It ends where the GPU is asked
    for, behind all imports."""
    lacking = environment(tmp_path, NETWORK + COMMAND_LINE)
    done = run(SCRIPTS[1], "out", "1", cwd=tmp_path, environment=lacking)
    assert "device 'cuda': expected a GPU that PyTorch can use" in done.stderr, done.stderr
