"""`worldbridge export`: by the commands a person would type, and what they say of what is wrong."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.support.export_worlds import tokenizer_world
from worldbridge.cli import app
from worldbridge.errors import StructuredError
from worldbridge.models.checkpoint import EMBEDDED_WORLD, load_tokenizer
from worldbridge.models.export import OnnxDecoder

CLI = [sys.executable, "-m", "worldbridge", "export"]
RESOLUTION, GRID = "64x96", (2, 3)


def _cli(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return tokenizer_world(tmp_path / "world")


@torch.inference_mode()
def test_the_embedded_world_streams_without_pytorch(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    done = _cli("onnx", "--out", out, "--part", "stream", "--resolution", RESOLUTION)
    assert done.returncode == 0, done.stderr
    assert "decoder_next.onnx" in done.stdout and "checking step 4 of 4" in done.stderr
    for graph in ("decoder_first", "decoder_next"):
        assert f"checked {graph}: " in done.stdout
    assert "Warning" not in done.stderr and "torchvision" not in done.stderr
    said = json.loads((out / "export.json").read_text())
    weights = json.loads((EMBEDDED_WORLD / "world.json").read_text())["files"]["tokenizer"]
    assert said["weights"] == [weights]
    assert {path.name for path in out.parent.iterdir()} == {"out"}

    tokenizer = load_tokenizer(EMBEDDED_WORLD)[1]
    decoder = OnnxDecoder(out, threads=1)
    found_state = decoder.decode_stream_init(1, *GRID)
    state = tokenizer.decode_stream_init(1, *GRID)
    codes = torch.randint(said["vocabulary"], (1, 8, *GRID))
    for latent in codes.split(1, dim=1):
        expected, state = tokenizer.decode_step(latent, state)
        found, found_state = decoder.decode_step(latent, found_state)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_example_of_the_documentation_runs(tmp_path: Path, world: Path) -> None:
    out = tmp_path / "exported"
    done = _cli("onnx", "--world", world, "--out", out, "--frame-type", "bytes", "--part", "stream")
    assert done.returncode == 0, done.stderr
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    [code] = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    assert "import onnxruntime" in code and "torch" not in code
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["(1, 1, 4, 6, 3) uint8"] * 4


def test_without_onnxruntime_it_says_that_nothing_was_checked(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = tmp_path / "out"
    arguments = ["--world", str(world), "--out", str(out), "--part", "stream", "--json"]
    result = CliRunner().invoke(app, ["export", "onnx", *arguments])
    assert result.exit_code == 0, result.output
    assert "NOT CHECKED" in result.stderr and "worldbridge[export]" in result.stderr
    said = json.loads(result.stdout)
    assert said == json.loads((out / "export.json").read_text()) and said["check"] is None


def test_a_full_disk_leaves_nothing(tmp_path: Path, world: Path) -> None:
    """Files of at most 4 KiB stand for it: the system's error comes in the middle of a write."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    out = tmp_path / "new" / "out"
    done = _cli("onnx", "--world", world, "--out", out, "--part", "stream", preexec_fn=limited)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"worldbridge: cannot write {out}")
    assert "make room" in done.stderr and "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"world"}


def _refused(*arguments: object) -> StructuredError:
    result = CliRunner().invoke(app, ["export", *(str(argument) for argument in arguments)])
    assert isinstance(result.exception, StructuredError), result.output
    return result.exception


@pytest.mark.parametrize("command", ["onnx", "tensorrt"])
def test_worlds_that_cannot_be_exported(command: str, tmp_path: Path, world: Path) -> None:
    out = tmp_path / "out"
    unknown = _refused(command, "--world", "narnia", "--out", out)
    assert unknown.exit_code == 4 and "narnia" in str(unknown)
    rendered = _refused(command, "--world", "procedural", "--out", out)
    assert rendered.exit_code == 2 and "a world with a tokenizer" in rendered.expected
    guided = _refused(command, "--world", "guided", "--out", out)
    assert guided.exit_code == 2 and "spatial memory" in guided.got
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"transformer": {}}, "latent_shape"),
        ({"transformer": {"latent_shape": [2, "x", 3]}}, "latent_shape"),
        ({"tokenizer": {"channels": 4}}, "the tensors of the VideoTokenizer"),
        ({"tokenizer": {"sides": 4}}, "unknown keys"),
        ({"files": {}}, "the description of a world"),
        ({"format": 7}, "format 1"),
    ],
)
def test_a_damaged_world_json(
    tmp_path: Path, world: Path, change: dict[str, Any], said: str
) -> None:
    path = world / "world.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    error = _refused("onnx", "--world", world, "--out", tmp_path / "out")
    assert error.exit_code == 5 and said in str(error)
    assert list(tmp_path.iterdir()) == [world]


def test_damaged_weights(tmp_path: Path, world: Path) -> None:
    path = world / "tokenizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    error = _refused("onnx", "--world", world, "--out", tmp_path / "out")
    assert error.exit_code == 5 and "damaged" in str(error)


def test_a_directory_that_is_in_the_way(tmp_path: Path, world: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in ("onnx", "tensorrt"):
        for out in (world, tmp_path / "file"):
            error = _refused(command, "--world", world, "--out", out)
            assert error.exit_code == 2 and "is in the way" in str(error)
    assert {path.name for path in world.iterdir()} == {"world.json", "tokenizer.safetensors"}


def test_settings_that_do_not_fit(tmp_path: Path, world: Path) -> None:
    out = tmp_path / "out"
    error = _refused("onnx", "--world", world, "--out", out, "--resolution", "5x6")
    assert error.exit_code == 2 and "multiples of 2" in error.expected
    for arguments in (
        ["--resolution", "abc"],
        ["--window", "0"],
        ["--part", "head"],
        ["--steps", "1"],
        ["--frame-type", "yuv"],
    ):
        result = CliRunner().invoke(app, ["export", "onnx", "--out", str(out), *arguments])
        assert result.exit_code == 2 and arguments[0] in result.output
    assert not out.exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for command in ("onnx", "tensorrt"):
        error = _refused(command, "--world", world, "--out", tmp_path / "out")
        assert error.exit_code == 2
        assert error.expected == f"the package {package}"
        assert error.remedy == "pip install 'worldbridge[export]'"


def test_tensorrt_without_the_package_ends_with_one_line(tmp_path: Path, world: Path) -> None:
    code = "import sys\nsys.modules['tensorrt'] = None\nfrom worldbridge.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", "tensorrt", "--world", world, "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("worldbridge: building TensorRT engines needs a package")
    assert "pip install 'worldbridge[tensorrt]'" in line
    assert list(tmp_path.iterdir()) == [world]
