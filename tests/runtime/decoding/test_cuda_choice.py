"""Kernels are chosen where they can run, and nothing needs Triton where they cannot."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from unittest import mock

import pytest
import torch

from tests.runtime.decoding.test_raster_decoder import BASE, SAMPLING, build
from tests.support.decoders import cuda_decoder
from worldbridge.runtime.decoding import DecodeOptions, make_decoder
from worldbridge.runtime.decoding import decoder as choice
from worldbridge.runtime.decoding.executors.eager import EagerExecutor
from worldbridge.runtime.errors import WeightDtypeError

WIDE = {"head_dim": 16}


def model_of(**changes: Any) -> Any:
    import dataclasses

    return build(dataclasses.replace(BASE, **changes))


def test_on_a_cpu_it_is_the_reference() -> None:
    decoder = make_decoder(model_of(**WIDE), 2, SAMPLING)
    assert type(decoder.executor) is EagerExecutor and decoder.cache.keys.shape[1] == 2


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
        assert choice._fastest(model) == ("cuda" if expected else "eager")


def test_weights_of_one_byte_are_refused_where_torch_draws() -> None:
    for changes, why in ((WIDE, "heads of 16 channels"), ({}, "heads of 12 channels")):
        got = f"got the device cpu, .*Triton, and {why}"
        with pytest.raises(WeightDtypeError, match=got) as caught:
            make_decoder(model_of(**changes), 1, SAMPLING, DecodeOptions(weight_dtype="int8"))
        assert caught.value.exit_code == 2 and "--device cuda" in caught.value.expected


@pytest.mark.parametrize("mode", ["jacobi", "diagonal"])
def test_what_is_asked_for_reaches_the_kernels(mode: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("triton", reason="needs triton: pip install triton")
    request.getfixturevalue("interpreter")
    from worldbridge.runtime.decoding.executors.cuda.executor import CudaExecutor

    options = DecodeOptions(mode, 2, 1, "rotate", row_lag=3, weight_dtype="int8")
    with mock.patch.object(choice, "_fastest", return_value="cuda"):
        decoder = make_decoder(model_of(**WIDE), 2, SAMPLING, options)
    assert isinstance(decoder.executor, CudaExecutor)
    assert decoder.executor.weights.output.rows.dtype == torch.int8
    assert (decoder.mode, decoder.options.slide, decoder.max_latents) == (mode, "rotate", 2)
    if mode == "diagonal":
        schedule = decoder.executor.schedule
        assert schedule is not None and schedule.row_lag == 3


def test_without_a_gpu_triton_is_not_imported() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from tests.runtime.decoding.test_cuda_choice import model_of, SAMPLING\n"
        "from worldbridge.runtime.decoding import make_decoder\n"
        "make_decoder(model_of(head_dim=16), 1, SAMPLING)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_kernels_refuse_a_model_on_the_cpu() -> None:
    pytest.importorskip("triton", reason="needs triton: pip install triton")

    with pytest.raises(ValueError, match="expected a model on a CUDA device, got cpu"):
        cuda_decoder(model_of(**WIDE), 1, SAMPLING)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gets_the_kernels() -> None:
    from worldbridge.runtime.decoding.executors.cuda.executor import CudaExecutor

    stages: list[float] = []
    decoder = make_decoder(
        model_of(**WIDE).cuda(), 2, SAMPLING, progress=lambda stage, done: stages.append(done)
    )
    assert isinstance(decoder.executor, CudaExecutor)
    assert stages == sorted(stages) and stages[-1] == 1
