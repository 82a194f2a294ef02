"""The random player covers its controls evenly and plays like a person."""

import pytest
import torch
from torch import Tensor

from worldbridge.models.procedural import THEMES, build_scene, random_walk, step_camera
from worldbridge.models.procedural.camera import clearance


@pytest.fixture(scope="module")
def played() -> Tensor:
    """Actions [walks * frames, 4] of walks through all themes."""
    walks = [
        random_walk(build_scene(theme, seed), seed, 250)[0] for theme in THEMES for seed in range(4)
    ]
    return torch.cat(walks)


def test_both_directions_of_every_axis_are_covered_evenly(played: Tensor) -> None:
    positive, negative = (played > 0.05).float().mean(0), (played < -0.05).float().mean(0)
    share = positive / (positive + negative)
    assert bool(((share > 0.4) & (share < 0.6)).all()), share
    assert bool((positive + negative > 0.1).all())


def test_full_partial_and_no_motion_all_happen(played: Tensor) -> None:
    size = played.abs()
    assert float(size.max()) <= 1.0
    assert bool(((size > 0.99).float().mean(0) > 0.03).all())
    assert bool((((size > 0.1) & (size < 0.9)).float().mean(0) > 0.03).all())
    still = float((size.max(1).values < 0.03).float().mean())
    assert 0.03 < still < 0.15


def test_walls_are_rarely_stared_at() -> None:
    near = []
    for theme in THEMES:
        scene = build_scene(theme, 9)
        _, states = random_walk(scene, 9, 200)
        near += [clearance(scene, s.x, s.z, s.yaw, 1.0) < 0.75 for s in states]
    assert sum(near) < 0.06 * len(near)


def test_a_stubborn_player_stands_at_walls() -> None:
    near = {True: 0, False: 0}
    for theme in THEMES:
        scene = build_scene(theme, 9)
        for stubborn in near:
            _, states = random_walk(scene, 9, 200, stubborn=stubborn, lead_in=60)
            near[stubborn] += sum(clearance(scene, s.x, s.z, s.yaw, 1.0) < 0.75 for s in states)
    assert near[True] > 2 * near[False], near


def test_a_lead_in_is_left_out() -> None:
    scene = build_scene("city", 4)
    whole, late = random_walk(scene, 4, 40), random_walk(scene, 4, 10, lead_in=30)
    assert torch.equal(whole[0][30:], late[0]) and whole[1][30:] == late[1]


def test_states_follow_from_the_actions() -> None:
    scene = build_scene("city", 4)
    actions, states = random_walk(scene, 4, 40)
    assert actions.shape == (40, 4) and actions.dtype == torch.float32
    assert actions[0].tolist() == [0.0] * 4
    for action, before, after in zip(actions[1:], states, states[1:], strict=False):
        replayed = step_camera(scene, before, action.tolist())
        assert (replayed.x, replayed.z) == pytest.approx((after.x, after.z), abs=1e-5)
        assert (replayed.yaw, replayed.pitch) == pytest.approx((after.yaw, after.pitch), abs=1e-5)


def test_a_walk_needs_frames() -> None:
    with pytest.raises(ValueError, match="frames >= 1 and lead_in >= 0, got 0 and 0"):
        random_walk(build_scene("zoo", 0), 0, 0)
    with pytest.raises(ValueError, match="got 1 and -1"):
        random_walk(build_scene("zoo", 0), 0, 1, lead_in=-1)
