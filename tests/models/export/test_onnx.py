"""ONNX files of a converted Cosmos tokenizer, run by onnxruntime, against PyTorch."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.tokenizer.test_streaming import random_indices
from tests.support.export_worlds import ATTENTIVE, tiny_cosmos, tokenizer_world
from worldbridge.models.checkpoint import load_tokenizer
from worldbridge.models.errors import ExportError
from worldbridge.models.export import OnnxDecoder, Options, export_onnx
from worldbridge.models.export.check import check_export, demand
from worldbridge.models.export.decoder import OnnxRunner
from worldbridge.models.export.graphs import to_bytes
from worldbridge.models.export.manifest import read_export
from worldbridge.models.tokenizer import StreamState, VideoTokenizer

GRID, WINDOW = (2, 3), 2
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    folder: Path
    manifest: dict[str, Any]
    tokenizer: VideoTokenizer


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("export")
    return _exported(tiny_cosmos(root), Options(parts=frozenset({"stream", "encoder"})))


def _exported(world: Path, options: Options) -> Case:
    out = world.parent / "out"
    return Case(out, export_onnx(world, out, options), load_tokenizer(world)[1])


def _error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def test_what_was_written_is_described(case: Case) -> None:
    onnx = pytest.importorskip("onnx")
    assert (case.folder / "export.json").read_text() == json.dumps(case.manifest, indent=1) + "\n"
    graphs = case.manifest["graphs"]
    assert set(graphs) == {"decoder_first", "decoder_next", "encoder"}
    files = {"export.json", *(graph["file"] for graph in graphs.values())}
    assert {path.name for path in case.folder.iterdir()} == files
    types = {1: "float32", 2: "uint8", 6: "int32"}
    for graph in graphs.values():
        model = onnx.load(case.folder / graph["file"])
        onnx.checker.check_model(model)
        assert [item.version for item in model.opset_import] == [case.manifest["opset"]]
        for described, values in (
            (graph["inputs"], model.graph.input),
            (graph["outputs"], model.graph.output),
        ):
            assert [value["name"] for value in described] == [value.name for value in values]
            for value, found in zip(described, values, strict=True):
                kind = found.type.tensor_type
                assert types[kind.elem_type] == value["type"]
                fixed = [axis.dim_value or None for axis in kind.shape.dim]
                assert fixed == [None if isinstance(x, str) else x for x in value["shape"]]
    assert [one["well"] for one in case.manifest["check"]["findings"]] == [True] * 3
    assert (case.manifest["window"], case.manifest["grid"]) == (WINDOW, list(GRID))


def test_a_file_tells_nothing_of_where_it_was_made(case: Case) -> None:
    here = str(Path(__file__).parents[3]).encode()
    assert not [path for path in case.folder.iterdir() if here in path.read_bytes()]


@torch.inference_mode()
def test_a_stream_is_that_of_the_tokenizer(case: Case) -> None:
    """Two streams together, by one and by several latents, past the window."""
    decoder, tokenizer = OnnxDecoder(case.folder, threads=1), case.tokenizer
    found_state = decoder.decode_stream_init(2, *GRID, WINDOW)
    state = tokenizer.decode_stream_init(2, *GRID, WINDOW)
    codes = random_indices(tokenizer.config, 2, 7, *GRID)
    for part in (codes[:, :1], codes[:, 1:2], codes[:, 2:5], codes[:, 5:]):
        expected, state = tokenizer.decode_step(part, state)
        found, found_state = decoder.decode_step(part, found_state)
        assert _error(found, expected) <= TOLERANCE
        assert found_state.counts == state.counts


@torch.inference_mode()
def test_streams_part_and_join(case: Case) -> None:
    decoder = OnnxDecoder(case.folder, threads=1)
    codes = random_indices(case.tokenizer.config, 2, 2, *GRID)
    together, state = decoder.decode_step(codes, decoder.decode_stream_init(2, *GRID, WINDOW))
    swapped = StreamState.concat([state.select([1]), state.select([0])])
    after, _ = decoder.decode_step(codes[:, :1], state)
    other, _ = decoder.decode_step(codes[:, :1].flip(0), swapped)
    assert torch.equal(after, other.flip(0))


@torch.inference_mode()
def test_videos_of_any_length_are_encoded(case: Case) -> None:
    runner = OnnxRunner(read_export(case.folder), threads=1)
    scale, step = case.tokenizer.config.spatial_compression, case.manifest["frames_per_latent"]
    generator = torch.Generator().manual_seed(1)
    for latents in (1, 2, 6):
        sides = (side * scale for side in GRID)
        video = torch.rand(1, 3, 1 + (latents - 1) * step, *sides, generator=generator) * 2 - 1
        found = runner.run("encoder", {"video": video})["codes"]
        assert torch.equal(found.long(), case.tokenizer.encode(video))


@torch.inference_mode()
def test_videos_of_any_length_are_decoded_to_bytes(tmp_path: Path) -> None:
    """With attention over all earlier latents."""
    case = _exported(
        tokenizer_world(tmp_path / "world", ATTENTIVE),
        Options(parts=frozenset({"decoder"}), pixels="bytes"),
    )
    runner = OnnxRunner(read_export(case.folder), threads=1)
    for latents in (1, 2, 6):
        codes = random_indices(case.tokenizer.config, 1, latents, *GRID)
        found = runner.run("decoder", {"codes": codes.int()})["frames"]
        expected = to_bytes(case.tokenizer.decode(codes))
        assert found.dtype == torch.uint8 and found.shape == expected.shape
        off = (found.int() - expected.int()).abs()
        assert off.max() <= 1 and off.sum() <= 1e-3 * off.numel()
    assert expected.float().std() > 20  # there is something to compare


class _Forgetful:
    """Runs the graphs, but gives every step the memory that the first one left."""

    def __init__(self, runner: OnnxRunner) -> None:
        self.device, self._runner = runner.device, runner
        self._first: dict[str, Tensor] = {}

    def run(self, graph: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if graph == "decoder_next":
            inputs = {**inputs, **{name: self._first[name] for name in inputs if name != "codes"}}
        found = self._runner.run(graph, inputs)
        if graph == "decoder_first":
            self._first = {name.replace("next", "state"): x for name, x in found.items()}
        return found


def test_the_check_finds_what_is_wrong(case: Case) -> None:
    exported = read_export(case.folder)
    runner = OnnxRunner(exported, threads=1)

    def bad(tokenizer: VideoTokenizer, by: Any) -> set[str]:
        findings = check_export(
            exported, by, tokenizer, steps=4, tolerance=TOLERANCE, progress=lambda *_: None
        )
        wrong = {one.graph for one in findings if not one.well}
        if wrong:
            with pytest.raises(ExportError, match="do not compute") as caught:
                demand(findings)
            assert caught.value.exit_code == 1
        return wrong

    assert bad(case.tokenizer, runner) == set()
    assert bad(case.tokenizer, _Forgetful(runner)) == {"decoder_next"}
    other, encoder = load_tokenizer(case.folder.parent / "tiny-cosmos")[1], "encoder"
    with torch.no_grad():
        other.post_quant_conv.conv3d.weight.mul_(1.01)
        assert bad(other, runner) == {"decoder_first", "decoder_next"}
        other.post_quant_conv.conv3d.weight.div_(1.01)
        other.quant_conv.conv3d.weight.mul_(1.05)
        assert bad(other, runner) == {encoder}
        other.post_quant_conv.conv3d.weight.fill_(float("nan"))
        assert "decoder_next" in bad(other, runner)


def test_a_failed_check_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldbridge.models.export.export.TOLERANCE", 1e-12)
    world = tokenizer_world(tmp_path / "world")
    with pytest.raises(ExportError, match="nothing was written"):
        export_onnx(world, tmp_path / "new" / "out", Options(parts=frozenset({"stream"}), steps=2))
    assert list(tmp_path.iterdir()) == [world]


def test_what_a_decoder_does_not_take(case: Case, tmp_path: Path) -> None:
    decoder = OnnxDecoder(case.folder)
    for height, width, window in ((3, 3, WINDOW), (*GRID, None), (*GRID, WINDOW + 1)):
        with pytest.raises(ValueError, match="expected the exported grid and window"):
            decoder.decode_stream_init(1, height, width, window)
    state = decoder.decode_stream_init(1, *GRID, WINDOW)
    with pytest.raises(ValueError, match="expected values in 0..639"):
        decoder.decode_step(torch.full((1, 1, *GRID), 640), state)
    with pytest.raises(ValueError, match="state: expected"):
        decoder.decode_step(torch.zeros(2, 1, *GRID, dtype=torch.int64), state)
    with pytest.raises(ExportError, match="not an exported tokenizer"):
        OnnxDecoder(tmp_path)
    with pytest.raises(ExportError, match="no graph 'dekoder'"):
        OnnxRunner(read_export(case.folder)).run("dekoder", {})


def test_a_damaged_export_is_told(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(case.folder, folder)
    path = folder / "decoder_first.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    decoder = OnnxDecoder(folder)
    state = decoder.decode_stream_init(1, *GRID, WINDOW)
    codes = torch.zeros(1, 1, *GRID, dtype=torch.int64)
    with pytest.raises(ExportError, match="are damaged"):
        decoder.decode_step(codes, state)
    path.unlink()
    with pytest.raises(ExportError, match="no such file"):
        decoder.decode_step(codes, state)
    for change in ({"format": 2}, {"pixels": "floats"}, {"kind": "tensorrt"}, {"state": None}):
        (folder / "export.json").write_text(json.dumps({**case.manifest, **change}))
        with pytest.raises(ExportError):
            OnnxDecoder(folder)
