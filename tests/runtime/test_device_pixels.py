"""Ways to make pictures: compiled ones are those of PyTorch's own; here on a CPU."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.tokenizer.test_streaming import build
from tests.support.export_worlds import ATTENTIVE, LATENTS, tokenizer_world
from worldbridge.models import export
from worldbridge.models.export import Options
from worldbridge.models.tokenizer import TokenizerConfig, VideoTokenizer
from worldbridge.runtime.config import check_detokenizer
from worldbridge.runtime.errors import DetokenizerError
from worldbridge.runtime.frames import patch_decoders as device_pixels
from worldbridge.runtime.frames.patch_decoders import (
    CompiledPatchDecoder,
    EagerPatchDecoder,
    make_patch_decoder,
)

GRID, WINDOW = LATENTS[1:], 2
CPU = torch.device("cpu")


def quiet(stage: str, share: float) -> None:
    pass


def tokenizer(config: TokenizerConfig = ATTENTIVE) -> VideoTokenizer:
    """With weights with which the past counts, and attention that the window bounds."""
    return build(config).eval().requires_grad_(False)


@torch.inference_mode()
def stream(source: device_pixels.PatchDecoder, latents: int, seed: int = 0) -> Tensor:
    """The pictures of a stream [T, bytes]."""
    generator, state, made = torch.Generator().manual_seed(seed), source.fresh(), []
    for _ in range(latents):
        codes = torch.randint(math.prod(ATTENTIVE.levels), GRID, generator=generator)
        planes, state = source.planes(codes, state)
        made.append(planes)
    return torch.cat(made)


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames to planes by PyTorch, as these tests have no GPU."""
    monkeypatch.setattr(device_pixels, "_KERNEL_PATCH", None)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("without_kernels")
def test_compiled_pictures_are_those_of_pytorch() -> None:
    """Past the end of the window, of two streams in turn; and nothing is compiled in play."""
    network, told = tokenizer(), []
    torch._dynamo.reset()
    compiled = CompiledPatchDecoder(network, GRID, WINDOW)
    compiled.prepare(CPU, lambda stage, share: told.append((stage, share)))
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert told[0] == ("compiling the first frames of a stream", 0.0) and len(told) == 3
    eager = EagerPatchDecoder(network, GRID, WINDOW)
    for seed in (0, 1):
        expected, found = stream(eager, WINDOW + 3, seed), stream(compiled, WINDOW + 3, seed)
        assert found.shape == expected.shape == (1 + 2 * (WINDOW + 2), 4 * 6 * 3 // 2)
        assert int((found.int() - expected.int()).abs().max()) <= 1
        assert float((found != expected).float().mean()) < 0.01
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == counted >= 2


@pytest.mark.usefixtures("without_kernels")
def test_engines_make_the_same_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime stands in for TensorRT, which needs a GPU; the files are of the same graphs."""
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"needs {name}: pip install 'worldbridge[export]'")
    network, world = tokenizer(), tokenizer_world(tmp_path / "world", ATTENTIVE)
    eager = stream(EagerPatchDecoder(network, GRID, WINDOW), WINDOW + 2)
    with monkeypatch.context() as patch:
        patch.setattr(export, "TensorRTDecoder", export.OnnxDecoder)
        for pixels in ("float", "bytes"):
            folder = tmp_path / pixels
            options = Options(parts=frozenset({"stream"}), pixels=pixels, window=WINDOW)
            export.export_onnx(world, folder, options)
            source = make_patch_decoder(str(folder), network, GRID, WINDOW, CPU, quiet)
            assert int((stream(source, WINDOW + 2).int() - eager.int()).abs().max()) <= 1
        other = tokenizer(dataclasses.replace(ATTENTIVE, channels=8))
        for given, grid, window, said in (
            (other, GRID, WINDOW, "engines of this world's tokenizer, got those of another one"),
            (network, (4, 3), WINDOW, "grid 4 x 3, window 2, got 2 x 3, 2"),
            (network, GRID, WINDOW + 1, "grid 2 x 3, window 3, got 2 x 3, 2"),
        ):
            with pytest.raises(DetokenizerError, match=said) as caught:
                make_patch_decoder(str(folder), given, grid, window, CPU, quiet)
            assert caught.value.exit_code == 2
    with pytest.raises(DetokenizerError, match="made by `worldbridge export tensorrt`, got"):
        make_patch_decoder(str(folder), network, GRID, WINDOW, CPU, quiet)


@pytest.mark.parametrize(
    ("pixels", "manifest", "device", "said"),
    [
        ("eager", {"transformer": {}}, "cpu", None),
        ("compiled", {"transformer": {}}, "cuda", None),
        ("compiled", {"transformer": {}}, "cpu", "expected --device cuda, got the device cpu"),
        ("compiled", {"transformer": {"grid": {}}}, "cuda", "got one with a token grid"),
        ("quick", {"transformer": {}}, "cuda", "expected eager, compiled, or a folder"),
        ("/nowhere", {"transformer": {}}, "cuda", "got '/nowhere'"),
    ],
)
def test_what_a_world_cannot_do_is_told(
    pixels: str, manifest: dict[str, Any], device: str, said: str | None
) -> None:
    if said is None:
        check_detokenizer(pixels, manifest, device)
        return
    with pytest.raises(DetokenizerError, match=said) as caught:
        check_detokenizer(pixels, manifest, device)
    assert caught.value.exit_code == 2
