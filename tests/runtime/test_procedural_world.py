"""The rendered world for real: what a player sees is a function of theme, seed and inputs."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.support.worlds import advance
from worldbridge.bridge.protocol import (
    FrameAck,
    OpenSession,
    Pose,
    RawFrame,
    SessionDepth,
    i420_bytes,
)
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.errors import SnapshotError, UnknownThemeError
from worldbridge.runtime.worlds.contract import Controls, WorldFrame, WorldModel, WorldStart
from worldbridge.runtime.worlds.procedural import ProceduralState, ProceduralWorld, procedural_spec

Action = tuple[float, float, float, float]
TURN_LEFT: Action = (0, 0, 1, 0)


@pytest.fixture(scope="module")
def world() -> Iterator[ProceduralWorld]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield ProceduralWorld()
    torch.set_num_threads(threads)


def play(
    world: WorldModel[ProceduralState], state: ProceduralState, *actions: Action
) -> list[tuple[bytes, Pose]]:
    frames = [advance(world, [state], torch.tensor([action])) for action in actions]
    return [(f.i420[0], f.poses[0]) for f in frames]


WALK: list[Action] = [(0.2, 1, 0.5, 0.1), (0, 1, -1, 0), (-1, 0.3, 0.7, -0.6), (0, 1, 1 / 3, 0)] * 2


def test_the_same_seed_and_inputs_make_the_same_frames(world: ProceduralWorld) -> None:
    start = WorldStart("city", 11)
    first, again = (play(world, world.open(start), *WALK) for _ in range(2))
    assert first == again
    assert len({picture for picture, _ in first}) == len(WALK)
    assert {len(picture) for picture, _ in first} == {i420_bytes(512, 320)}
    assert play(world, world.open(WorldStart("city", 12)), *WALK[:1]) != first[:1]


def test_a_restored_session_goes_on_exactly(world: ProceduralWorld) -> None:
    state = world.open(WorldStart("museum", 4))
    play(world, state, *WALK[:3])
    saved = world.save(state)
    assert play(world, world.load(saved), *WALK[3:]) == play(world, state, *WALK[3:])


def test_sessions_see_the_same_together_as_alone(world: ProceduralWorld) -> None:
    starts = [WorldStart("zoo", 1), WorldStart("hospital", 2), WorldStart("zoo", 1)]
    alone = [play(world, world.open(s), *WALK[n : n + 3]) for n, s in enumerate(starts)]
    states = [world.open(start) for start in starts]
    for step in range(3):
        actions = torch.tensor([WALK[n + step] for n in range(3)])
        frames = advance(world, states, actions)
        assert frames.i420 == [alone[n][step][0] for n in range(3)]
        assert frames.poses == [alone[n][step][1] for n in range(3)]
        assert all(frame.t_tokens <= frame.t_pixels for frame in frames.frames)


def test_a_frame_rate_changes_the_steps_not_the_speed(world: ProceduralWorld) -> None:
    slow = ProceduralWorld(fps=15)
    assert (slow.spec.fps, world.spec.fps) == (15, 30)
    (_, after_one), *_ = play(slow, slow.open(WorldStart("city", 3)), TURN_LEFT)
    *_, (_, after_two) = play(world, world.open(WorldStart("city", 3)), TURN_LEFT, TURN_LEFT)
    assert after_one.orientation == pytest.approx(after_two.orientation)


def test_yaw_turns_the_camera_left_by_five_degrees(world: ProceduralWorld) -> None:
    slow = ProceduralWorld(fps=15)
    poses = [pose for _, pose in play(slow, slow.open(WorldStart("city", 3)), TURN_LEFT, TURN_LEFT)]
    heading = [2 * math.degrees(math.atan2(p.orientation[1], p.orientation[3])) for p in poses]
    assert (heading[1] - heading[0]) % 360 == pytest.approx(5.0)


def test_the_picture_moves_right_when_the_camera_turns_left(world: ProceduralWorld) -> None:
    state = world.open(WorldStart("city", 3))
    pictures = play(world, state, (0, 0, 0, 0), TURN_LEFT)
    before, after = (
        np.frombuffer(p, np.uint8)[: 320 * 512].reshape(320, 512).astype(float) for p, _ in pictures
    )
    error = {
        shift: np.abs(after[100:220, 100 + shift : 400 + shift] - before[100:220, 100:400]).mean()
        for shift in range(-40, 41, 2)
    }
    assert min(error, key=lambda shift: error[shift]) > 0


def test_a_frame_that_fails_changes_nothing_and_costs_the_others_nothing(
    world: ProceduralWorld,
) -> None:
    state, broken = world.open(WorldStart("city", 3)), world.open(WorldStart("city", 4))
    camera, scene = broken.camera, broken.scene
    broken.scene = None  # type: ignore[assignment]
    world.submit([state, broken], [Controls((0.0, 1.0, 0.0, 0.0))] * 2)
    frame, error = world.poll([state, broken])
    assert isinstance(frame, WorldFrame) and isinstance(error, AttributeError)
    assert world.poll([state, broken]) == [None, None]
    broken.scene = scene
    assert broken.camera == camera


def test_bad_starts_and_snapshots_are_refused(world: ProceduralWorld) -> None:
    with pytest.raises(UnknownThemeError, match="'jungle'"):
        world.open(WorldStart("jungle", 1))
    saved = world.save(world.open(WorldStart("city", 1)))
    for damaged in (b"", saved[:-1], b"\xff" + saved[1:]):
        with pytest.raises(SnapshotError):
            world.load(damaged)


def test_every_theme_is_listed_and_opens(world: ProceduralWorld) -> None:
    told: list[tuple[str, float]] = []
    world.prepare(lambda stage, share: told.append((stage, share)))
    assert [share for _, share in told] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert len(procedural_spec().themes) == 5


def test_frames_carry_depth_while_somebody_wants_it(world: ProceduralWorld) -> None:
    engine = Engine(world, seats=1, pick_seed=lambda: 1, clock=lambda: 0.0)
    engine.receive(OpenSession("s", "city", 3), 0.0)
    size = i420_bytes(512, 320)

    def frame() -> RawFrame:
        (found,) = [m for m in engine.step(0.0) if isinstance(m, RawFrame)]
        engine.receive(FrameAck("s", found.header.frame), 0.0)
        return found

    plain = frame()
    assert (len(plain.payload), plain.depth_scale) == (size, None)
    engine.receive(SessionDepth("s", True), 0.0)
    deep = frame()
    assert deep.depth_scale == 0.001
    assert bytes(deep.payload[:size]) == bytes(plain.payload), "nobody moved"
    metres = np.frombuffer(deep.payload[size:], "<u2").reshape(320, 512) * deep.depth_scale
    assert (metres[0] == 0).any(), "the sky is too far to say"
    # The floor: 1.6 m below the eye, at the angle of the lowest row.
    floor = 1.6 / math.tan(math.radians(25)) * 160 / 159.5
    assert abs(np.median(metres[-1]) - floor) < 0.1
    engine.receive(SessionDepth("s", False), 0.0)
    assert frame().depth_scale is None
