"""Kernels are chosen where they can run, and nothing needs Triton where they cannot."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from unittest import mock

import pytest
import torch

from tests.runtime.decoding.test_raster_decoder import BASE, SAMPLING, build
from worldbridge.runtime.decoding import choice
from worldbridge.runtime.decoding.choice import decoder_for
from worldbridge.runtime.decoding.raster import RasterDecoder
from worldbridge.runtime.errors import WeightDtypeError
from worldbridge.runtime.worlds.window import Window

WIDE = {"head_dim": 16}


def model_of(**changes: Any) -> Any:
    import dataclasses

    return build(dataclasses.replace(BASE, **changes))


def test_on_a_cpu_it_is_the_reference() -> None:
    decoder = decoder_for(model_of(**WIDE), 2, SAMPLING, "jacobi")
    assert type(decoder) is RasterDecoder and decoder.keys.shape[1] == 2


@pytest.mark.parametrize(
    ("changes", "triton", "expected"),
    [
        (WIDE, True, True),
        (WIDE, False, False),
        ({}, True, False),  # heads of 12 channels
    ],
)
def test_on_a_gpu_it_depends_on_model_and_triton(
    changes: dict[str, int], triton: bool, expected: bool
) -> None:
    model = mock.Mock(config=model_of(**changes).config)
    model.norm.weight.is_cuda = True
    with mock.patch.object(
        choice.importlib.util, "find_spec", return_value=object() if triton else None
    ):
        assert choice._on_device(model) is expected


def test_weights_of_one_byte_are_refused_where_torch_draws() -> None:
    for changes, why in ((WIDE, "heads of 16 channels"), ({}, "heads of 12 channels")):
        got = f"got the device cpu, .*Triton, and {why}"
        with pytest.raises(WeightDtypeError, match=got) as caught:
            decoder_for(model_of(**changes), 1, SAMPLING, precision="int8")
        assert caught.value.exit_code == 2 and "--device cuda" in caught.value.expected


@pytest.mark.parametrize("mode", ["jacobi", "diagonal"])
def test_what_is_asked_for_reaches_the_kernels(mode: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("triton", reason="needs triton: pip install triton")
    request.getfixturevalue("interpreter")
    from worldbridge.runtime.decoding.executors.cuda.decoder import CudaDecoder

    with mock.patch.object(choice, "_on_device", return_value=True):
        decoder = decoder_for(
            model_of(**WIDE),
            2,
            SAMPLING,
            mode,
            diagonal=3,
            precision="int8",
            window=Window(2, 1, "rotate"),
        )
    assert isinstance(decoder, CudaDecoder)
    assert decoder.weights.output.rows.dtype == torch.int8
    assert (decoder.mode, decoder.slide, decoder.max_latents) == (mode, "rotate", 2)
    if mode == "diagonal":
        assert decoder.staircase is not None and decoder.staircase.k == 3


def test_without_a_gpu_triton_is_not_imported() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from tests.runtime.decoding.test_cuda_choice import model_of, SAMPLING\n"
        "from worldbridge.runtime.decoding.choice import decoder_for\n"
        "decoder_for(model_of(head_dim=16), 1, SAMPLING)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_kernels_refuse_a_model_on_the_cpu() -> None:
    pytest.importorskip("triton", reason="needs triton: pip install triton")
    from worldbridge.runtime.decoding.executors.cuda.decoder import CudaDecoder

    with pytest.raises(ValueError, match="expected a model on a CUDA device, got cpu"):
        CudaDecoder(model_of(**WIDE), 1, SAMPLING)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_kernels() -> None:
    from worldbridge.runtime.decoding.executors.cuda.decoder import CudaDecoder

    stages: list[float] = []
    decoder = decoder_for(
        model_of(**WIDE).cuda(), 2, SAMPLING, progress=lambda stage, done: stages.append(done)
    )
    assert isinstance(decoder, CudaDecoder)
    assert stages == sorted(stages) and stages[-1] == 1
