"""TensorRT engines: what can be said without a GPU, and the whole of it with one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.models.tokenizer.test_streaming import CONFIGS, build, random_indices
from tests.support.export_worlds import tiny_cosmos, tokenizer_world
from worldbridge.models.checkpoint import load_tokenizer
from worldbridge.models.errors import ExportError
from worldbridge.models.export import Options, TensorRTDecoder, TensorRTOptions, export_tensorrt
from worldbridge.models.export.graphs import build_graphs
from worldbridge.models.export.tensorrt import PRECISIONS, TIMINGS, engine_ranges

STREAM = Options(parts=frozenset({"stream"}), steps=2)
NO_GPU = not torch.cuda.is_available() or importlib.util.find_spec("tensorrt") is None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_world(tmp_path_factory.mktemp("worlds") / "tiny")


def _refused(world: Path, out: Path, options: TensorRTOptions) -> ExportError:
    with pytest.raises(ExportError) as caught:
        export_tensorrt(world, out, options)
    assert caught.value.exit_code == 2
    return caught.value


def test_without_the_package(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    error = _refused(world, tmp_path / "out", TensorRTOptions(common=STREAM))
    assert error.expected == "the package tensorrt"
    assert error.remedy == "pip install 'worldbridge[tensorrt]'"
    assert list(tmp_path.iterdir()) == []


def test_onnx_files_are_kept_where_no_engine_can_be_built(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    out = tmp_path / "out"
    error = _refused(world, out, TensorRTOptions(common=STREAM, keep_onnx=True))
    assert f"the ONNX files are in {out}" in error.message
    names = {path.name for path in out.iterdir()}
    assert names == {"decoder_first.onnx", "decoder_next.onnx", "export.json"}
    with pytest.raises(ExportError, match="expected tensorrt, got onnx"):
        TensorRTDecoder(out)


@pytest.mark.parametrize(
    ("version", "expected"), [("8.6.1", "version 10 or newer"), ("10.13.0.35", "NVIDIA GPU")]
)
def test_an_old_package_and_a_machine_without_gpu(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, expected: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = _refused(world, tmp_path / "out", TensorRTOptions(common=STREAM))
    assert expected in error.expected and list(tmp_path.iterdir()) == []


def test_a_timing_cache_that_is_not_there(world: Path, tmp_path: Path) -> None:
    options = TensorRTOptions(common=STREAM, timings=tmp_path / "nothing", keep_onnx=True)
    assert "timing.cache" in _refused(world, tmp_path / "out", options).expected
    assert list(tmp_path.iterdir()) == []


def test_shapes_that_an_engine_takes() -> None:
    tokenizer = build(CONFIGS["dv8x8x8"])
    parts = frozenset(("stream", "decoder", "encoder"))
    graphs = build_graphs(tokenizer, (2, 3), 3, "float", parts)
    assert {graph.name: engine_ranges(graph, 8, 5) for graph in graphs} == {
        "decoder_first": {},
        "decoder_next": {},
        "decoder": {"codes": ((1, 1, 2, 3), (1, 5, 2, 3), (1, 5, 2, 3))},
        "encoder": {"video": ((1, 3, 1, 16, 24), (1, 3, 33, 16, 24), (1, 3, 33, 16, 24))},
    }


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(NO_GPU, reason="no CUDA device, or no tensorrt package")
@pytest.mark.parametrize("precision", list(PRECISIONS))
@torch.inference_mode()
def test_engines_on_a_gpu(tmp_path: Path, precision: str) -> None:
    world = tiny_cosmos(tmp_path)
    options = TensorRTOptions(common=Options(), precision=precision)
    manifest = export_tensorrt(world, tmp_path / "out", options)
    assert all(one["well"] for one in manifest["check"]["findings"])
    assert (tmp_path / "out" / TIMINGS).stat().st_size
    assert not list((tmp_path / "out").glob("*.onnx"))
    decoder, tokenizer = TensorRTDecoder(tmp_path / "out"), load_tokenizer(world)[1].cuda()
    state, wanted = (x.decode_stream_init(1, 2, 3, 2) for x in (decoder, tokenizer))
    for codes in random_indices(tokenizer.config, 1, 6, 2, 3).cuda().split(1, dim=1):
        found, state = decoder.decode_step(codes, state)
        expected, wanted = tokenizer.decode_step(codes, wanted)
        off = (found - expected).abs().max() / expected.abs().max()
        assert off <= max(PRECISIONS[precision], 1e-3)  # PyTorch may use TF32 here
