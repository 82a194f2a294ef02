"""Codes of indices and frames of Haar patches, against references and the code in use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.compile_kernels import compile_launches
from worldbridge.kernels import detokenize as pixels
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.detokenize import (
    indices_to_codes,
    patches_to_i420,
    reference_detokenize,
    reference_indices_to_codes,
    reference_patches_to_i420,
)
from worldbridge.models.tokenizer.fsq import FSQ
from worldbridge.models.tokenizer.haar import HaarSpaceTime
from worldbridge.runtime.frames.i420 import i420_size, rgb_to_i420, unit_to_bytes

interpreted = pytest.mark.usefixtures("interpreter")


def bytes_and_patches(batch: int, frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Random colours, with every extreme among them, and the patches that stand for them.

    A byte is the whole part of 127.5 * pixel + 128, so pixels lie in the middle of their step.
    """
    rgb = torch.randint(0, 256, (batch, frames, 3, height, width))
    rgb[..., :2, :2], rgb[..., 2:4, :2] = 0, 255
    video = (rgb.double() + 0.5 - 128) / 127.5
    return rgb.byte(), HaarSpaceTime(4).split(video, first=frames % 4 == 1).float()


def in_use(rgb: Tensor) -> Tensor:
    """[B, F, H * W * 3 / 2], by the conversion of the worker."""
    frames = [bytearray(rgb_to_i420(frame)) for frame in rgb.flatten(0, 1)]
    planes = torch.stack([torch.frombuffer(frame, dtype=torch.uint8) for frame in frames])
    return planes.view(*rgb.shape[:2], -1)


@interpreted
@pytest.mark.parametrize(
    ("batch", "frames", "height", "width"),
    [(1, 1, 4, 4), (2, 5, 12, 20), (1, 4, 8, 28), (1, 9, 24, 36), (2, 8, 4, 132)],
)
def test_frames_are_those_of_the_code_in_use(
    batch: int, frames: int, height: int, width: int
) -> None:
    torch.manual_seed(frames)
    rgb, patches = bytes_and_patches(batch, frames, height, width)
    first = frames % 4 == 1
    out = torch.full((batch, frames, i420_size(height, width)), 77, dtype=torch.uint8)
    assert patches_to_i420(patches, first, out=out) is out
    assert torch.equal(out, in_use(rgb))
    assert torch.equal(reference_patches_to_i420(patches, first), out)


@interpreted
def test_clamps_what_is_outside_and_reads_any_strides() -> None:
    torch.manual_seed(0)
    patches = torch.randn(2, 3, 2, 192, 8)[..., :5].permute(1, 0, 3, 2, 4) * 0.4
    video = HaarSpaceTime(4).join(patches, first=False)
    assert float(video.abs().max()) > 1.5  # something to clamp
    expected = in_use(unit_to_bytes(video))
    # a sum of 64 bands rounds, so a byte at the edge of its step may be its neighbour
    differing = (patches_to_i420(patches, first=False).int() - expected.int()).abs()
    assert int(differing.max()) <= 1 and float(differing.float().mean()) < 1e-3


def test_the_reference_inverts_the_transform_in_use() -> None:
    torch.manual_seed(1)
    patches = torch.randn(1, 2, 192, 2, 3).double()
    for first in (True, False):
        expected = HaarSpaceTime(4).join(patches, first)
        found = reference_detokenize(patches, first)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@interpreted
def test_half_precision_patches_are_summed_in_float32() -> None:
    torch.manual_seed(2)
    for half in (torch.float16, torch.bfloat16):
        patches = (torch.randn(1, 1, 192, 3, 5) * 0.1).to(half)
        differing = patches_to_i420(patches, False).int() - in_use(
            unit_to_bytes(HaarSpaceTime(4).join(patches.float(), False))
        )
        assert int(differing.abs().max()) <= 1 and float(differing.abs().float().mean()) < 2e-3


@interpreted
@pytest.mark.parametrize("levels", [(8, 8, 8, 5, 5, 5), (8,) * 6, (2, 3), (7,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_codes_are_those_of_the_tokenizer(levels: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    quantizer = FSQ(levels)
    indices = torch.randint(0, quantizer.size, (2, 5, 31))
    indices[0, 0, 0], indices[-1, -1, -1] = 0, quantizer.size - 1
    out = torch.full((2, 5, 31, len(levels)), torch.nan, dtype=dtype)
    assert indices_to_codes(indices, levels, dtype, out=out) is out
    assert torch.equal(out, quantizer.indices_to_codes(indices, dtype))
    exact = reference_indices_to_codes(indices, levels)
    torch.testing.assert_close(out.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)


PATCHES = torch.zeros(1, 2, 192, 3, 5)
INDICES = torch.zeros(2, 6, dtype=torch.int64)


@interpreted
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"patches": PATCHES[:, :, :48]}, "patches"),
        ({"patches": PATCHES[0]}, "patches"),
        ({"patches": PATCHES.double()}, "patches"),
        ({"patches": PATCHES.transpose(3, 4)}, "patches"),
        ({"out": torch.zeros(1, 8, 359, dtype=torch.uint8)}, "out"),
        ({"out": torch.zeros(1, 5, 360, dtype=torch.uint8)}, "out"),
        ({"out": torch.zeros(1, 8, 360)}, "out"),
        ({"out": torch.zeros(1, 8, 720, dtype=torch.uint8)[..., ::2]}, "out"),
    ],
)
def test_frames_refuse_what_they_cannot_take(change: dict[str, Any], name: str) -> None:
    with pytest.raises(KernelArgumentError) as caught:
        patches_to_i420(**{"patches": PATCHES, "first": False, **change})
    assert caught.value.message == name


@interpreted
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"indices": INDICES.int()}, "indices"),
        ({"indices": INDICES.T}, "indices"),
        ({"indices": INDICES[:0]}, "indices"),
        ({"levels": ()}, "levels"),
        ({"levels": (8, 1)}, "levels"),
        ({"levels": (200,) * 5}, "levels"),
        ({"dtype": torch.float64}, "out"),
        ({"out": torch.zeros(2, 6, 3)}, "out"),
        ({"out": torch.zeros(2, 6, 2).half()}, "out"),
    ],
)
def test_codes_refuse_what_they_cannot_take(change: dict[str, Any], name: str) -> None:
    with pytest.raises(KernelArgumentError) as caught:
        indices_to_codes(**{"indices": INDICES, "levels": (8, 8), **change})
    assert caught.value.message == name


def test_refuses_the_cpu_without_an_interpreter() -> None:
    with pytest.raises(KernelArgumentError, match="CUDA"):
        patches_to_i420(PATCHES, first=False)
    with pytest.raises(KernelArgumentError, match="CUDA"):
        indices_to_codes(INDICES, (8, 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_frames_compile_for_hopper_without_spills(dtype: torch.dtype) -> None:
    patches = torch.zeros(1, 2, 192, 80, 128, dtype=dtype)
    (found,) = compile_launches(lambda: patches_to_i420(patches, False), pixels.__name__)
    assert not found.spills
    assert found.instructions(r"wgmma.mma_async.*\.bf16" if dtype.itemsize == 2 else "wgmma.*tf32")


def test_lookup_compiles_for_hopper_without_spills() -> None:
    indices = torch.zeros(1, 640, dtype=torch.int64)
    (found,) = compile_launches(
        lambda: indices_to_codes(indices, (8, 8, 8, 5, 5, 5), torch.bfloat16), pixels.__name__
    )
    assert not found.spills
    assert not found.instructions("div.s")  # levels are constants


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_frames_are_those_of_the_code_in_use() -> None:
    torch.manual_seed(4)
    rgb, patches = bytes_and_patches(2, 9, 320, 512)
    assert torch.equal(patches_to_i420(patches.cuda(), True).cpu(), in_use(rgb))
    half = patches.cuda().bfloat16()
    differing = patches_to_i420(half, True).int() - reference_patches_to_i420(half, True).int()
    assert int(differing.abs().max()) <= 1 and float(differing.abs().float().mean()) < 1e-3
    indices = torch.randint(0, 64_000, (5, 640), device="cuda")
    levels = (8, 8, 8, 5, 5, 5)
    found = indices_to_codes(indices, levels)
    assert torch.equal(found.cpu(), FSQ(levels).indices_to_codes(indices.cpu()))
