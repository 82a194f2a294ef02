"""The world with a spatial memory: what it remembers, what it draws, what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import torch

from tests.models.guided.test_world_training import NET, SMALL
from worldbridge.bridge.protocol import MAX_SAVED_SESSION, Pose
from worldbridge.models.guided.checkpoint import load_guided_world, save_guided_world
from worldbridge.models.guided.cracks import mend_cracks
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.procedural import CameraState, camera_pose
from worldbridge.models.spatial_memory import Guide, MemoryConfig, MemoryInputError, SpatialMemory
from worldbridge.models.transformer import VideoTransformer
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.errors import (
    BadPromptFrameError,
    DamagedWeightsError,
    SnapshotError,
    UnknownThemeError,
)
from worldbridge.runtime.worlds.contract import (
    Controls,
    EngineFrame,
    WorldFrame,
    WorldStart,
    next_frames,
)
from worldbridge.runtime.worlds.guided import (
    GuidedState,
    GuidedWorld,
    free_path,
    load_guided,
    new_areas,
    slide,
)
from worldbridge.runtime.worlds.registry import open_world, spec_of

STILL = Controls()
TURN = Controls(action=(0.0, 0.0, 1.0, 0.0))
BACK = Controls(action=(0.0, -1.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("guided")
    net = replace(NET, grid=replace(NET.grid, guide_dim=96))
    save_guided_world(path, GuidedTokenizer(SMALL), VideoTransformer(net))
    return path


@pytest.fixture(scope="module")
def world(folder: Path) -> GuidedWorld:
    return load_guided(folder, lambda text, share: None)


def play(world: GuidedWorld, state: GuidedState, *controls: Controls) -> list[WorldFrame]:
    return [next_frames(world, [state], [c])[0] for c in controls]


def start(world: GuidedWorld, seed: int = 3, theme: str = "zoo") -> GuidedState:
    return world.open(WorldStart(theme, seed))


def test_standing_still_draws_nothing_and_changes_no_pixel(world: GuidedWorld) -> None:
    state = start(world)
    steps: list[int] = []
    world.notify = lambda: steps.append(1)
    first, *rest = play(world, state, *[STILL] * 5)
    assert all(frame.i420 == first.i420 and frame.pose == first.pose for frame in rest)
    assert state.latent == 0
    assert not steps
    play(world, state, TURN)
    assert state.latent == 1
    assert steps
    world.notify = lambda: None


def test_what_was_left_comes_back_as_it_was(world: GuidedWorld) -> None:
    state = start(world)
    (before,) = play(world, state, STILL)
    pose = before.pose
    away = [camera_pose(CameraState(pose.position[0], pose.position[2], 0.3 * i)) for i in (1, 2)]
    views = [Pose(*view) for view in (*away, (pose.position, pose.orientation, pose.fov_y))]
    state.alignment = None
    frames = play(world, state, *(Controls(camera=p) for p in [pose, *views]))
    last, first = (
        torch.frombuffer(bytearray(f.i420), dtype=torch.uint8)[: 64 * 96].float()
        for f in (frames[-1], before)
    )
    other = torch.frombuffer(bytearray(frames[2].i420), dtype=torch.uint8)[: 64 * 96].float()
    assert (last - first).abs().mean() < 0.1 * (other - first).abs().mean()


def test_the_camera_of_a_client_is_taken_exactly(world: GuidedWorld) -> None:
    state = start(world)
    mine = Pose((100.0, 1.0, 5.0), (0.0, 0.0, 0.0, 1.0), 60.0)
    (first,) = play(world, state, Controls(camera=mine))
    turned = Pose((100.0, 1.25, 4.0), camera_pose(CameraState(0, 0, 0.2, 0.1))[1], 60.0)
    (second,) = play(world, state, Controls(camera=turned))
    moved = math.dist(first.pose.position, second.pose.position)
    assert moved == pytest.approx(math.dist(mine.position, turned.position), abs=1e-6)
    assert second.pose.fov_y == 60.0
    assert second.pose.position[1] - first.pose.position[1] == pytest.approx(0.25, abs=1e-6)


def test_a_saved_session_continues_exactly(world: GuidedWorld) -> None:
    state = start(world)
    play(world, state, TURN, TURN, BACK)
    copy = world.load(world.save(state))
    assert world.save(copy) == world.save(state)
    path = (TURN, BACK, TURN, STILL)
    for ours, theirs in zip(play(world, state, *path), play(world, copy, *path), strict=True):
        assert ours.i420 == theirs.i420
        assert ours.pose == theirs.pose
        assert ours.depth == theirs.depth


def test_a_full_memory_fits_into_a_saved_session(world: GuidedWorld) -> None:
    points = start(world).memory.config.max_points
    assert points * 9.2 + 320 * 512 * 7 + 20_000 < MAX_SAVED_SESSION


def test_a_session_does_not_depend_on_others(world: GuidedWorld) -> None:
    alone = start(world)
    expected = [f.i420 for f in play(world, alone, TURN, TURN)]
    first, second = start(world), start(world, 8, "museum")
    found = [next_frames(world, [second, first], [BACK, TURN])[1].i420 for _ in range(2)]
    assert found == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d[:100],
        lambda d: d[:-2000] + b"\0" * 2000,
        lambda d: b"",
        lambda d: b"\x81\xa1a\x01",
    ],
)
def test_damaged_sessions_are_refused(world: GuidedWorld, damage: object) -> None:
    data = world.save(start(world))
    with pytest.raises(SnapshotError):
        world.load(damage(data))  # type: ignore[operator]


def test_a_memory_of_another_world_is_refused(world: GuidedWorld) -> None:
    saved = msgpack.unpackb(world.save(start(world)))
    foreign = SpatialMemory(MemoryConfig(32, 48))
    ground = torch.zeros(32, 48, 3, dtype=torch.uint8)
    foreign.add(ground, torch.full((32, 48), 0.5), Pose(), Pose().fov_y)
    with pytest.raises(SnapshotError, match="32 x 48"):
        world.load(msgpack.packb(saved | {"memory": foreign.save()}))


@pytest.mark.parametrize(
    "camera",
    [Pose((math.nan, 0.0, 0.0)), Pose((5_000.0, 0.0, 0.0)), Pose((0.0, 0.0, 0.0), fov_y=170.0)],
)
def test_a_camera_that_cannot_be_changes_nothing(world: GuidedWorld, camera: Pose) -> None:
    state = start(world)
    origin = Pose()
    play(world, state, Controls(camera=origin), TURN)
    before = world.save(state)
    with pytest.raises(MemoryInputError):
        play(world, state, Controls(camera=camera))
    assert world.save(state) == before
    play(world, state, TURN)


def test_a_prompt_frame_stays_what_it_is_and_gets_depth(world: GuidedWorld) -> None:
    picture = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8)
    state = world.open(WorldStart("zoo", 1, picture))
    seen = state.memory.render(state.pose, state.pose.fov_y)
    assert torch.equal(seen.rgb.permute(2, 0, 1), picture[0])
    assert bool((seen.nearness > 0).all())
    with pytest.raises(UnknownThemeError):
        world.open(WorldStart("atlantis", 1))


def test_a_prompt_frame_keeps_the_depth_that_it_brings(world: GuidedWorld) -> None:
    picture = torch.randint(0, 255, (1, 3, 64, 96), dtype=torch.uint8)
    depth = torch.linspace(2.0, 20.0, 64)[:, None].expand(64, 96)
    fine = depth.repeat_interleave(2, 0).repeat_interleave(2, 1).reciprocal()
    fine[:, 150:] = 0.0  # unknown
    state = world.open(WorldStart("zoo", 1, picture, fine))
    seen = state.memory.render(state.pose, state.pose.fov_y)
    torch.testing.assert_close(seen.nearness[:, :75], depth[:, :75].reciprocal())
    assert bool((seen.nearness > 0).all()), "what is unknown is estimated"


@pytest.mark.parametrize(
    "nearness",
    [torch.full((64, 96), math.nan), torch.full((64, 96), -1.0), torch.ones(4), torch.ones(4, 96)],
)
def test_depth_that_cannot_be_starts_nothing(world: GuidedWorld, nearness: torch.Tensor) -> None:
    picture = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    with pytest.raises(BadPromptFrameError):
        world.open(WorldStart("zoo", 1, picture, nearness))


def test_a_frame_of_an_engine_wins_and_what_it_leaves_blank_is_drawn(world: GuidedWorld) -> None:
    state = start(world)
    pose = Pose((7.0, 1.6, 7.0))
    rgb = torch.full((3, 32, 48), 200, dtype=torch.uint8)
    nearness = torch.zeros(32, 48)
    nearness[:, :24] = 0.5
    assert world.observe(state, EngineFrame(rgb, nearness, pose)) > 0
    seen = state.memory.render(state.pose, state.pose.fov_y)
    assert bool((seen.rgb[:, :47] == 200).all())
    assert bool((seen.nearness[:, :47] - 0.5).abs().max() < 1e-3)
    assert bool(seen.mask.all())
    with pytest.raises(MemoryInputError, match="differ in size"):
        world.observe(state, EngineFrame(rgb, torch.zeros(5, 5), pose))
    before = state.pose
    moved = Pose((8.0, 1.6, 7.0))
    world.observe(state, EngineFrame(rgb, nearness, moved, fresh=True))
    assert state.pose == before, "the player stays"
    assert len(state.memory) <= 64 * 96, "the world of before is forgotten"


def test_areas_that_lie_apart_are_decoded_alone() -> None:
    blocks = torch.zeros(20, 32, dtype=torch.bool)
    blocks[:, 0] = blocks[4:7, 30:] = blocks[17, 31] = True
    blocks[9, 1:3] = True
    unseen = torch.zeros(320, 512, dtype=torch.bool)
    unseen[3::16, 5::16] = blocks
    found = new_areas(unseen)
    assert found == [
        (slice(0, 20), slice(0, 3)),
        (slice(4, 7), slice(30, 32)),
        (slice(17, 18), slice(31, 32)),
    ]
    covered = torch.zeros_like(blocks)
    for rows, columns in found:
        assert not bool(covered[rows, columns].any())
        covered[rows, columns] = True
    assert bool(covered[blocks].all())


def test_walls_stop_people(world: GuidedWorld) -> None:
    memory = SpatialMemory(MemoryConfig(64, 96))
    pose = Pose(*camera_pose(CameraState(0.0, 0.0)))
    wall = torch.full((64, 96), 1 / 1.5)
    memory.add(torch.zeros(64, 96, 3, dtype=torch.uint8), wall, pose, pose.fov_y)
    assert free_path(memory, pose, (0.0, -0.5)) == 0.5
    assert free_path(memory, pose, (0.0, -3.0)) == pytest.approx(1.5 - 0.35, abs=0.05)
    assert free_path(memory, pose, (0.0, 2.0)) == 2.0
    assert slide(memory, pose, (0.0, -3.0)) == pytest.approx((0.0, -1.15), abs=0.05)


def test_a_stray_patch_is_no_wall_and_a_post_is_one() -> None:
    pose = Pose(*camera_pose(CameraState(0.0, 0.0)))
    for columns, expected in ((slice(47, 49), 2.0), (slice(40, 56), 1.15)):
        near = torch.full((64, 96), 1 / 30)
        near[20:40, columns] = 1 / 1.5
        memory = SpatialMemory(MemoryConfig(64, 96))
        memory.add(torch.zeros(64, 96, 3, dtype=torch.uint8), near, pose, pose.fov_y)
        assert free_path(memory, pose, (0.0, -2.0)) == pytest.approx(expected, abs=0.05)


def test_a_person_slides_along_a_wall_that_is_not_straight_ahead() -> None:
    pose = Pose(*camera_pose(CameraState(0.0, 0.0)))
    memory = SpatialMemory(MemoryConfig(64, 96))
    aside = (torch.arange(96) + 0.5 - 48) / (32 / math.tan(math.radians(25)))
    near = ((1 + aside) / 0.65).clamp_min(1 / 30).expand(64, 96).contiguous()  # nearer on the right
    memory.add(torch.zeros(64, 96, 3, dtype=torch.uint8), near, pose, pose.fov_y)
    ahead = free_path(memory, pose, (0.0, -0.16))
    x, z = slide(memory, pose, (0.0, -0.16))
    assert ahead < 0.08
    assert x < -0.02
    assert -z > ahead


def test_a_folder_is_served_by_its_path(folder: Path, tmp_path: Path) -> None:
    assert spec_of(folder).conditionings == ("actions", "camera", "observations")
    assert isinstance(open_world(WorkerConfig(world=str(folder))), GuidedWorld)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in folder.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    weights = damaged / "transformer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(DamagedWeightsError, match="damaged"):
        open_world(WorkerConfig(world=str(damaged)))
    assert load_guided_world(folder).tokenizer.config == SMALL


def test_cracks_take_what_lies_behind_and_wide_holes_stay() -> None:
    mask = torch.ones(12, 16, dtype=torch.bool)
    mask[:, 3:5] = False  # two pixels wide
    mask[4:9, 8:13] = False
    rgb = torch.zeros(12, 16, 3, dtype=torch.uint8)
    rgb[:, :3], rgb[:, 5:] = 10, 200
    nearness = torch.full((12, 16), 0.5)
    nearness[:, 5:] = 0.1
    nearness[~mask] = 0.0
    mended = mend_cracks(Guide(rgb, nearness, mask, torch.zeros(12, 16, dtype=torch.int32)))
    assert bool(mended.mask[:, 3:5].all())
    assert not bool(mended.mask[5:8, 9:12].any())
    assert bool((mended.rgb[:, 4] == 200).all()) and bool((mended.rgb[:, 3] == 10).all())
    assert torch.equal(mended.rgb[mask], rgb[mask])
    assert torch.equal(mended.nearness[mask], nearness[mask])
    assert mend_cracks(replace(mended, mask=torch.ones_like(mask))).mask.all()
