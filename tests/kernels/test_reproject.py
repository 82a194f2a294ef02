"""Reprojection kernels: the reference's keys bit for bit, in the interpreter and when compiled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.compile_kernels import compile_launches
from worldbridge.kernels import reproject
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.reproject_reference import (
    key_index,
    key_nearness,
    reference_fill,
    reference_splat,
)

HEIGHT, WIDTH = 24, 40


def cloud(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points before, beside and behind a turned camera, some dead; when they were born."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator) * 8 - 4
    birth = torch.rand(count, generator=generator) * 5
    birth[::17] = 0.0
    born = torch.randint(0, 50, (count,), generator=generator, dtype=torch.int32)
    axes, _ = torch.linalg.qr(torch.rand(3, 3, generator=generator) - 0.5)
    camera = torch.cat([axes.reshape(-1), torch.tensor([0.3, -0.2, 0.1]), torch.tensor([21.5])])
    return points, birth, camera, born


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("count", [1, 700, 3000])
def test_keys_are_those_of_the_reference(count: int) -> None:
    points, birth, camera, born = cloud(count)
    expected = reference_splat(points, birth, camera, HEIGHT, WIDTH)
    found = reproject.splat(points, birth, camera, HEIGHT, WIDTH)
    assert torch.equal(found, expected)
    for oldest in (-1, 25):
        expected = reference_fill(expected, born, oldest)
        found = reproject.fill(found, born, oldest)
        assert torch.equal(found, expected)
    assert count < 3000 or (found > 0).float().mean() > 0.2


@pytest.mark.usefixtures("interpreter")
def test_no_points_are_an_empty_view() -> None:
    points, birth, camera, _ = cloud(1)
    assert not reproject.splat(points[:0], birth[:0], camera, HEIGHT, WIDTH).any()


def test_a_key_holds_nearness_and_index() -> None:
    camera = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, -1, 0, 0, 0, 20])
    points = torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, -2.0], [0.0, 0.0, 2.0]])
    keys = reference_splat(points, torch.ones(3), camera, HEIGHT, WIDTH)
    assert keys.count_nonzero() == 1
    center = keys[HEIGHT // 2 + 1, WIDTH // 2 + 1]
    assert key_index(center) == 1
    assert key_nearness(center) == 0.5


def test_of_equal_depth_wins_what_was_seen_from_as_near() -> None:
    camera = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, -1, 0, 0, 0, 20])
    points = torch.tensor([[0.0, 0.0, -1.9], [0.0, 0.0, -1.901], [0.0, 0.0, -1.9]])
    keys = reference_splat(points, torch.tensor([4.0, 1.9, 1.0]), camera, HEIGHT, WIDTH)
    assert key_index(keys.amax()) == 1


def test_compiles_for_hopper_without_spills() -> None:
    points, birth, camera, born = cloud(4096)
    keys = torch.zeros(HEIGHT + 2, WIDTH + 2, dtype=torch.int64)
    found = compile_launches(
        lambda: (
            reproject.splat(points, birth, camera, HEIGHT, WIDTH),
            reproject.fill(keys, born, 7),
        ),
        reproject.__name__,
    )
    assert len(found) == 2 and not any(kernel.spills for kernel in found)
    project, _ = found
    assert project.instructions("atom.*max|red.*max")
    assert not project.instructions("fma")  # or keys would differ from the reference
    assert project.instructions("div.rn")


def test_rejects_what_it_cannot_read() -> None:
    points, birth, camera, born = cloud(64)
    with pytest.raises(KernelArgumentError, match="points"):
        reproject.splat(points.double(), birth, camera, HEIGHT, WIDTH)
    with pytest.raises(KernelArgumentError, match="birth_depth"):
        reproject.splat(points, birth[:3], camera, HEIGHT, WIDTH)
    with pytest.raises(KernelArgumentError, match="born"):
        reproject.fill(torch.zeros(4, 4, dtype=torch.int64), born.long(), 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_keys_are_those_of_the_reference() -> None:
    points, birth, camera, born = cloud(300_000)
    expected = reference_splat(points, birth, camera, 320, 512)
    found = reproject.splat(points.cuda(), birth.cuda(), camera, 320, 512)
    assert torch.equal(found.cpu(), expected)
    assert torch.equal(
        reproject.fill(found, born.cuda(), 25).cpu(), reference_fill(expected, born, 25)
    )
