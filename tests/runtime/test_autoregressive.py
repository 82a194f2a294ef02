"""The neural world behind its contract, with tiny random networks of the same classes."""

import msgpack
import pytest
import torch

from tests.support.tiny_world import tiny_world
from tests.support.worlds import advance
from worldbridge.models.procedural import THEMES
from worldbridge.runtime.errors import SnapshotError, UnknownThemeError
from worldbridge.runtime.worlds.autoregressive import ArState, ArWorld
from worldbridge.runtime.worlds.contract import WorldStart


@pytest.fixture(scope="module")
def world() -> ArWorld:
    torch.set_num_threads(1)
    return ArWorld(tiny_world(), capacity=4)


def actions(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(frames, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def play(world: ArWorld, state: ArState, moves: torch.Tensor) -> list[bytes]:
    return [advance(world, [state], move[None]).i420[0] for move in moves]


def test_same_seed_and_actions_give_the_same_frames(world: ArWorld) -> None:
    start = WorldStart("zoo", 5)
    moves = actions(6)
    first, second = (play(world, world.open(start), moves) for _ in range(2))
    assert first == second
    assert play(world, world.open(WorldStart("zoo", 6)), moves) != first


@pytest.mark.parametrize("before", [0, 3, 25])
def test_a_restored_session_goes_on_exactly(world: ArWorld, before: int) -> None:
    """25 is more than a snapshot keeps, so what was there before must not matter."""
    state = world.open(WorldStart("city", 2))
    moves = actions(before + 5, 1)
    play(world, state, moves[:before])
    saved = world.save(state)
    expected = play(world, state, moves[before:])
    restored = world.load(saved)
    assert play(world, restored, moves[before:]) == expected
    assert restored.camera == state.camera
    assert len(saved) < 20_000


def test_sessions_together_see_what_they_see_alone(world: ArWorld) -> None:
    starts = [WorldStart("museum", 1), WorldStart("hospital", 9), WorldStart("city", 4)]
    moves = [actions(4, i) for i in range(3)]
    alone = [play(world, world.open(s), m) for s, m in zip(starts, moves, strict=True)]
    states = [world.open(s) for s in starts]
    for t in range(4):
        frames = advance(world, states, torch.stack([m[t] for m in moves]))
        assert frames.i420 == [a[t] for a in alone]


def test_a_failed_step_changes_nothing(world: ArWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    state, twin = world.open(WorldStart("zoo", 1)), world.open(WorldStart("zoo", 1))
    moves = actions(3, 4)
    play(world, state, moves[:1])
    with monkeypatch.context() as patch:
        patch.setattr(
            "worldbridge.runtime.decoding.executors.cpu_packed.row_codes",
            lambda rows, levels: 1 / 0,
        )
        with pytest.raises(ZeroDivisionError):
            advance(world, [state], moves[1:2])
    assert play(world, state, moves[1:]) == play(world, twin, moves)[1:]


def test_pose_follows_the_controls(world: ArWorld) -> None:
    state = world.open(WorldStart("city", 1))
    yaw = state.camera.yaw
    frames = advance(world, [state], torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert state.camera.yaw - yaw == pytest.approx(0.0872665, abs=1e-5)  # 5 degrees to the left
    assert state.camera.pitch == pytest.approx(0.0523599, abs=1e-5)
    assert frames.poses[0].fov_y == 50.0


def test_bad_themes_and_snapshots_are_typed_errors(world: ArWorld) -> None:
    with pytest.raises(UnknownThemeError, match="no theme 'sea'"):
        world.open(WorldStart("sea", 1))
    good = msgpack.unpackb(world.save(world.open(WorldStart(THEMES[0], 1))))
    bad = [
        b"",
        b"\x00",
        msgpack.packb([1, 2]),
        msgpack.packb({**good, "version": 99}),
        msgpack.packb({**good, "theme": "sea"}),
        msgpack.packb({**good, "codes": good["codes"][:-4]}),
        msgpack.packb({**good, "codes": b"\xff" * len(good["codes"])}),
        msgpack.packb({**good, "frames": 7}),
        msgpack.packb({**good, "camera": [1.0]}),
    ]
    for data in bad:
        with pytest.raises(SnapshotError):
            world.load(data)
