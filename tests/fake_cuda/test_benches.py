"""What measures on a GPU runs on the GPU that is not there; its times mean nothing."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.fake_cuda import fake_cuda
from tests.support.fake_cuda.worlds import CONFIG, small_world
from worldbridge.benchmarks import gpu_timing
from worldbridge.benchmarks.decode import bench as decode
from worldbridge.benchmarks.decode import players
from worldbridge.benchmarks.decode.lineup import Subject
from worldbridge.benchmarks.kernels import bench as kernels
from worldbridge.benchmarks.kernels.case import CHECKED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, about inf - inf
]
DEVICE = torch.device("cuda")


def quiet(stage: str, share: float) -> None:
    pass


@pytest.fixture(autouse=True)
def known_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not measured, as that reads gigabytes."""
    for module in (decode, kernels):
        monkeypatch.setattr(module, "read_bandwidth", lambda *_: 4e12)


def test_decoding_is_compared_with_the_published_way() -> None:
    with fake_cuda() as gpu:
        subject = Subject(small_world("cuda"), DEVICE, context=2, trained=False)
        result = decode.measure(subject, only=["medusa"], quick=True, progress=quiet)
    modes = {mode["name"]: mode for mode in result["modes"]}
    assert list(modes) == ["sequential", "medusa", "published"]
    assert result["baseline"] == "published"
    assert modes["medusa"]["identical_to_sequential"] and modes["medusa"]["exact"]
    assert modes["published"]["identical_to_sequential"]
    assert modes["published"]["how"].endswith("one CUDA graph a token, noise made beforehand")
    assert all(mode["ms_per_forward"]["p50"] > 0 for mode in result["modes"])
    assert modes["published"]["forwards_per_latent"] == CONFIG.latent_shape[1] * 3
    assert result["gpu"]["name"] == "NVIDIA H200" and gpu.recorded == 2 * 2 + 1


def test_players_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(name: str, device: torch.device, dtype: torch.dtype) -> Any:
        return small_world("cuda", name)  # in float32: the interpreter's bfloat16 is wrong

    monkeypatch.setattr(players, "preset_world", small)
    with fake_cuda():
        result = players.bench_players(
            preset="cosmos-4b-320p",
            most=1,
            quick=True,
            threads=1,
            device="cuda",
            mode="jacobi",
            progress=quiet,
        )
    assert result["gpu"]["name"] == "NVIDIA H200" and result["mode"] == "jacobi"
    assert [row["players"] for row in result["by_players"]] == [1]


@pytest.mark.parametrize("kernel", ["rms_norm", "decode_attention", "i420_of_patches"])
def test_kernels_are_timed(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PUBLISHED", CHECKED)
    monkeypatch.setattr(kernels, "_quicker", lambda sizes: sizes)
    every, timed = kernels._cases, kernels._timed
    monkeypatch.setattr(kernels, "_cases", lambda *of: islice(every(*of), 1))
    monkeypatch.setattr(kernels, "_timed", lambda case, *how: timed(case, *how[:-1], 2))
    monkeypatch.setattr(gpu_timing, "_WARM_UP", 0)
    with fake_cuda() as gpu:
        result = kernels.bench_kernels("cuda", only=[kernel], quick=True, progress=quiet)
    assert gpu.recorded >= 2 * len(result["cases"])  # ours, and what it is compared with
    for case in result["cases"]:
        assert case["kernel"] == kernel and case["ms"]["p50"] > 0
        assert case["baselines"][0]["times_ours"] > 0
