"""The spatial memory: backends agree bit for bit, places come back, bad input changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from worldbridge.models.procedural.camera import CameraState, camera_pose
from worldbridge.models.procedural.plain import build_plain_scene
from worldbridge.models.procedural.render import render_rgbd
from worldbridge.models.spatial_memory import (
    Backend,
    Guide,
    MemoryConfig,
    MemoryInputError,
    SpatialMemory,
)

CONFIG = MemoryConfig(height=48, width=80, max_points=40_000)
FOV = 50.0


@dataclass(frozen=True)
class At:
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    orientation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)


def at(state: CameraState) -> At:
    position, rotation, _ = camera_pose(state)
    return At(position, rotation)


Frame = tuple[Tensor, Tensor, At]


def frames(count: int = 12, theme: str = "museum") -> Iterator[Frame]:
    """Rendered frames of someone who turns left and walks a little, oldest first."""
    scene = build_plain_scene(theme, 900_004)
    for t in range(count):
        state = CameraState(31.0 + 0.1 * t, 33.0, 0.12 * t, 0.05 * (t % 3))
        color, near = render_rgbd(scene, state, CONFIG.height, CONFIG.width)
        yield color.permute(1, 2, 0).contiguous(), near, at(state)


def parts(guide: Guide) -> tuple[Tensor, ...]:
    return guide.rgb, guide.nearness, guide.mask, guide.age


def assert_same(a: Guide, b: Guide) -> None:
    for mine, other in zip(parts(a), parts(b), strict=True):
        assert torch.equal(mine, other)


def wall(depth: float, color: int = 100) -> tuple[Tensor, Tensor]:
    shape = (CONFIG.height, CONFIG.width)
    rgb = torch.full((*shape, 3), color, dtype=torch.uint8)
    return rgb, torch.full(shape, 1.0 / depth)


@pytest.mark.parametrize("given", [False, True])
def test_numba_is_the_reference_bit_for_bit(given: bool) -> None:
    config = replace(CONFIG, max_points=8_000, speck_age=2)  # small, so that it has to forget
    fast, plain = SpatialMemory(config, backend="numba"), SpatialMemory(config, backend="torch")
    for color, near, pose in frames():
        seen = fast.render(pose, FOV)
        assert_same(seen, plain.render(pose, FOV))
        unseen = ~seen.mask if given else None
        assert fast.add(color, near, pose, FOV, unseen) == plain.add(color, near, pose, FOV, unseen)
        assert fast.save() == plain.save()
    assert 0 < len(fast) <= 8_000


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_standing_still_changes_nothing(backend: Backend) -> None:
    memory = SpatialMemory(CONFIG, backend=backend)
    for color, near, pose in frames(4):
        memory.add(color, near, pose, FOV)
        shown = memory.render(pose, FOV)
        assert torch.equal(shown.rgb, color) and torch.equal(shown.nearness, near)
        assert shown.mask.all() and not shown.age.any()


def test_a_place_comes_back_as_it_was() -> None:
    memory = SpatialMemory(CONFIG)
    walked = list(frames(10))
    for color, near, pose in walked:
        memory.add(color, near, pose, FOV)
    first, _, pose = walked[0]
    shown = memory.render(pose, FOV)
    same = (shown.rgb == first).all(-1)[shown.mask]
    assert shown.mask.float().mean() > 0.97
    assert same.float().mean() > 0.85
    assert shown.age[shown.mask].max() == 10


def test_what_is_new_is_stored_once() -> None:
    memory = SpatialMemory(CONFIG)
    color, near, pose = next(frames(1))
    assert memory.add(color, near, pose, FOV) > 0.85 * near.numel()
    assert memory.add(color, near, pose, FOV) == 0


def test_what_is_seen_from_nearer_is_stored_again() -> None:
    memory = SpatialMemory(CONFIG)
    memory.add(*wall(3.0), At(), FOV)
    nearer = At((0.0, 0.0, -0.8))
    assert memory.add(*wall(2.2, 150), nearer, FOV) < 100  # in corners, where cracks stay
    nearest = At((0.0, 0.0, -1.2))
    added = memory.add(*wall(1.8, 200), nearest, FOV)
    assert added == CONFIG.height * CONFIG.width
    again = memory.render(At(), FOV)
    assert (again.rgb == 100).all()  # from afar, what was seen from afar


def test_cracks_are_filled_and_holes_are_not() -> None:
    memory = SpatialMemory(CONFIG)
    memory.add(*wall(3.0), At(), FOV)
    assert memory.render(At((0.0, 0.0, -1.0)), FOV).mask.all()  # 1.5 times larger: cracks
    turned = At(orientation=(0.0, math.sin(0.1), 0.0, math.cos(0.1)))
    mask = memory.render(turned, FOV).mask
    assert mask[:, -20:].all() and not mask[:, :10].any()


def test_what_a_frame_says_is_new_replaces_what_was_there() -> None:
    memory = SpatialMemory(CONFIG)
    memory.add(*wall(2.0), At(), FOV)
    unseen = torch.zeros(CONFIG.height, CONFIG.width, dtype=torch.bool)
    unseen[10:30, 10:40] = True
    color, near = wall(4.0, 200)
    assert memory.add(color, near, At(), FOV, unseen) == int(unseen.sum())
    beside = memory.render(At((1e-4, 0.0, 0.0)), FOV)
    assert (beside.rgb[13:27, 13:37] == 200).all() and (beside.rgb[33:, 43:] == 100).all()


def test_contradicted_points_are_voted_out() -> None:
    memory = SpatialMemory(CONFIG)
    color, near = wall(4.0)
    near[20:22, 30:32] = 1.0  # a speck, far before the wall
    memory.add(color, near, At(), FOV)
    stored = len(memory)
    for n in range(3):
        memory.add(*wall(4.0), At((1e-4 * n, 0.0, 0.0)), FOV)
    assert len(memory) == stored - 4  # the gap closes like a crack
    assert memory.render(At((4e-4, 0.0, 0.0)), FOV).nearness.max() < 0.3


def test_a_slope_between_two_surfaces_is_not_stored() -> None:
    memory = SpatialMemory(CONFIG)
    color, near = wall(4.0)
    near[:, 40:] = 1.0
    near[:, 39], near[:, 38] = 0.75, 0.5
    assert memory.add(color, near, At(), FOV) == near.numel() - 2 * CONFIG.height
    tilted = SpatialMemory(CONFIG)  # a floor changes as fast and is no slope between two surfaces
    rows = torch.linspace(0.02, 2.0, CONFIG.height)[:, None].expand_as(near)
    assert tilted.add(color, rows, At(), FOV) == near.numel()


def test_memory_is_bounded_and_keeps_what_is_near() -> None:
    config = replace(CONFIG, max_points=8_000)
    memory = SpatialMemory(config)
    for step in range(12):
        memory.add(*wall(2.0, 10 + step), At((8.0 * step, 0.0, 0.0)), FOV)
        assert len(memory) <= 8_000
    here = memory.render(At((8.0 * 11 + 0.01, 0.0, 0.0)), FOV)
    assert here.mask.float().mean() > 0.9
    assert not memory.render(At(), FOV).mask.any()


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_restored_it_goes_on_exactly(backend: Backend) -> None:
    config = replace(CONFIG, max_points=9_000)
    memory = SpatialMemory(config, backend=backend)
    walked = list(frames(12))
    for color, near, pose in walked[:6]:
        memory.add(color, near, pose, FOV)
    restored = SpatialMemory.load(memory.save(), backend=backend)
    for color, near, pose in walked[6:]:
        assert_same(memory.render(pose, FOV), restored.render(pose, FOV))
        assert memory.add(color, near, pose, FOV) == restored.add(color, near, pose, FOV)
    assert memory.save() == restored.save()
    assert_same(memory.render(walked[-1][2], FOV), restored.render(walked[-1][2], FOV))


def test_points_are_saved_in_few_bytes_and_in_any_mode() -> None:
    with torch.inference_mode():
        memory = SpatialMemory(CONFIG)
        color, near, pose = next(frames(1))
        memory.add(color, near, pose, FOV)
    memory.add(*wall(2.0), pose, FOV)  # some points die
    size = CONFIG.height * CONFIG.width
    assert len(memory.save()) < 9.2 * len(memory) + 7 * size + 1000
    assert not memory.render(pose, FOV).rgb.is_inference()


def test_an_empty_memory_can_be_saved() -> None:
    restored = SpatialMemory.load(SpatialMemory(CONFIG).save())
    assert restored.config == CONFIG and len(restored) == 0
    assert not restored.render(At(), FOV).mask.any()


@pytest.mark.parametrize("where", [3, 20, 700, -2])
def test_damaged_bytes_are_told(where: int) -> None:
    memory = SpatialMemory(CONFIG)
    memory.add(*wall(2.0), At(), FOV)
    data = bytearray(memory.save())
    data[where] ^= 1
    with pytest.raises(MemoryInputError, match="cannot be read"):
        SpatialMemory.load(bytes(data))
    with pytest.raises(MemoryInputError, match="cannot be read"):
        SpatialMemory.load(bytes(data[: len(data) // 2]))


@pytest.mark.parametrize(
    ("pose", "fov", "text"),
    [
        (At((math.nan, 0.0, 0.0)), FOV, "pose"),
        (At((0.0, math.inf, 0.0)), FOV, "pose"),
        (At(orientation=(0.0, 0.0, 0.0, 0.0)), FOV, "pose"),
        (At((1000.0, 0.0, 0.0)), FOV, "jumped"),
        (At(), 170.0, "field of view"),
        (At(), math.nan, "pose"),
    ],
)
def test_impossible_cameras_are_refused_and_nothing_is_lost(
    pose: At, fov: float, text: str
) -> None:
    memory = SpatialMemory(CONFIG)
    memory.add(*wall(2.0), At(), FOV)
    before = memory.save()
    with pytest.raises(MemoryInputError, match=text):
        memory.render(pose, fov)
    with pytest.raises(MemoryInputError, match=text):
        memory.add(*wall(2.0), pose, fov)
    assert memory.save() == before


def test_frames_that_do_not_fit_are_refused_and_nothing_is_lost() -> None:
    memory = SpatialMemory(CONFIG)
    color, near = wall(2.0)
    bad = near.clone()
    bad[3, 3] = math.nan
    for picture, depth in (
        (color, near[:-1]),
        (color[:, :-1], near),
        (color.float(), near),
        (color, near.long()),
        (color, bad),
        (color, -near),
    ):
        with pytest.raises(MemoryInputError, match="of a frame"):
            memory.add(picture, depth, At(), FOV)
    assert len(memory) == 0 and memory.frames == 0


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(MemoryInputError, match="sizes"):
        MemoryConfig(max_points=1000)
    with pytest.raises(MemoryInputError, match="backend"):
        SpatialMemory(CONFIG, backend="fortran")  # type: ignore[arg-type]


def test_loops_compile_where_nothing_can_be_kept_on_disk() -> None:
    from worldbridge.kernels.reproject_numba import compiled

    names: dict[str, Any] = {}
    exec("def twice(x): return 2 * x", names)  # has no file, so numba has no place for a cache
    assert compiled(names["twice"])(21) == 42
