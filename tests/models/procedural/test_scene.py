"""Scenes are what theme and seed say, and each theme looks like nothing else."""

import itertools

import pytest
import torch

from tests.support.procedural import SMALL
from worldbridge.models.procedural import THEMES, build_scene, random_walk, render_batch, spawn
from worldbridge.models.procedural.camera import clearance


@pytest.mark.parametrize("theme", THEMES)
def test_same_seed_same_frames_other_seed_other_frames(theme: str) -> None:
    def play(seed: int) -> torch.Tensor:
        scene = build_scene(theme, seed)
        _, states = random_walk(scene, 7, 12)
        return render_batch(scene, states[::4], **SMALL)

    assert torch.equal(play(3), play(3))
    assert not torch.equal(play(3), play(4))


def test_bad_theme_names_the_themes() -> None:
    with pytest.raises(ValueError, match="city, museum, zoo, hospital, amusement_park; got 'moon'"):
        build_scene("moon", 0)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("seed", range(6))
def test_spawn_is_free_and_sees_three_metres(theme: str, seed: int) -> None:
    scene = build_scene(theme, seed)
    state = spawn(scene, seed)
    assert not scene.is_solid(state.x, state.z)
    assert clearance(scene, state.x, state.z, state.yaw, 6.0) >= 3.0


def test_themes_look_distinct() -> None:
    """Over seeds, the mean colours and edges of two themes differ more than within one."""
    looks = {theme: torch.stack([_look(theme, seed) for seed in range(2)]) for theme in THEMES}
    for first, second in itertools.combinations(THEMES, 2):
        a, b = looks[first], looks[second]
        between = float((a.mean(0) - b.mean(0)).norm())
        assert between > 15.0, (first, second, between)


def test_no_view_is_blank() -> None:
    for theme in THEMES:
        scene = build_scene(theme, 11)
        _, states = random_walk(scene, 2, 60)
        frames = render_batch(scene, states[::12], **SMALL).float()
        assert float(frames.flatten(1).std(1).min()) > 12.0, theme


def _look(theme: str, seed: int) -> torch.Tensor:
    """Mean colour of the upper and the lower half, and mean edges, [8]."""
    scene = build_scene(theme, seed)
    _, states = random_walk(scene, seed, 31)
    frames = render_batch(scene, states[::10], **SMALL).float()
    halves = frames.unflatten(2, (2, -1)).mean((0, 3, 4)).flatten()
    edges = torch.stack([frames.diff(dim=2).abs().mean(), frames.diff(dim=3).abs().mean()])
    return torch.cat([halves, edges])
