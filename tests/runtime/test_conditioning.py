"""Converted worlds with actions, cameras and a text: what reaches the model, and from whom."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.worlds import advance
from worldbridge.bridge.protocol import ControllerState, OpenSession, Pose, SessionInput
from worldbridge.models.checkpoint import World
from worldbridge.models.procedural import CameraState, camera_pose
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.tokenizer.config import DV8X16X16
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.errors import PromptError, SnapshotError, UnknownWorldError
from worldbridge.runtime.worlds.conditioning import Alignment, dead_reckoning, pose_of, pose_vector
from worldbridge.runtime.worlds.contract import WorldStart
from worldbridge.runtime.worlds.cosmos import CosmosState, CosmosWorld
from worldbridge.runtime.worlds.registry import Prompt, read_prompt

START = WorldStart("zoo", 3)
STILL = torch.zeros(1, 4)
AHEAD = torch.tensor([[0.0, 1.0, 0.5, 0.0]])
TEXT = {
    "context_dim": 24,
    "apply_abs_pos_emb": True,
    "begin_of_video_token": 512,
    "input_vocab_rows": 576,
}
ACTIONS = TEXT | {"conditioning": "cross_attention", "condition_dim": 7}
CAMERA = {"camera": "pluecker"}


def make_world(
    options: dict[str, Any], mode: str = "jacobi", context: Tensor | None = None, **manifest: object
) -> CosmosWorld:
    """Like the published ones in structure, with 512 codes and hardly any weights."""
    torch.manual_seed(5)
    tokenizer = dataclasses.replace(
        DV8X16X16, channels=8, z_channels=8, levels=(8, 8, 8), embedding_dim=3
    )
    config = TransformerConfig(
        dim=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=12,
        ffn_hidden_size=48,
        vocab_size=512,
        latent_shape=(3, 2, 4),
        **options,
    )
    model = VideoTransformer(config).eval().requires_grad_(False)
    torch.nn.init.normal_(model.output.weight, std=config.dim**-0.5)
    if config.takes_actions:
        torch.nn.init.normal_(model.condition.fc2.weight, std=2.0)
    if config.takes_camera:
        torch.nn.init.normal_(model.camera_embedding.weight, std=0.5)
    described = {
        "name": "tiny",
        "title": "Tiny",
        "frames_per_second": 30,
        "sampling": {"temperature": 1.0, "top_p": 0.9, "top_k": 512},
        "tokenizer": dataclasses.asdict(tokenizer),
        "transformer": config.to_dict(),
        **manifest,
    }
    world = World("tiny", described, VideoTokenizer(tokenizer).eval(), model)
    return CosmosWorld(world, capacity=3, mode=mode, context=context, lead=0)


def play(world: CosmosWorld, state: CosmosState, latents: int, actions: Tensor = AHEAD) -> Tensor:
    """The codes of the next latents, [latents, h, w]."""
    drawn = []
    for _ in range(latents):
        before = state.latents
        while state.latents == before:
            advance(world, [state], actions)
            state.pending.clear()
        drawn.append(state.newest)
    return torch.stack(drawn)


def told(state: CosmosState, latent: int) -> Tensor:
    """The camera [8] that a latent of its tail was drawn with."""
    pose = state.tail[latent].pose
    assert pose is not None
    return pose


def looking(x: float, yaw_deg: float = 0.0) -> Pose:
    half = math.radians(yaw_deg) / 2
    return Pose((x, 1.6, 0.0), (0.0, math.sin(half), 0.0, math.cos(half)), 50.0)


# -- what a world says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "takes", "axes"),
    [
        ({}, (), 0),
        (TEXT, ("text",), 0),
        (ACTIONS, ("actions",), 4),
        (CAMERA, ("camera",), 0),
        (TEXT | CAMERA, ("camera", "text"), 0),
        (ACTIONS | CAMERA, ("actions", "camera"), 4),
    ],
)
def test_a_world_says_what_it_takes(
    options: dict[str, Any], takes: tuple[str, ...], axes: int
) -> None:
    spec = make_world(options).spec
    assert spec.conditionings == takes
    assert len(spec.action_schema) == axes


def test_an_action_layout_in_its_description() -> None:
    world = make_world(ACTIONS, actions=[None, ["yaw", -2], *[None] * 5])
    assert [control.name for control in world.spec.action_schema] == ["yaw"]
    vectors = world.conditioning.actions(torch.tensor([[1.0, 1.0, 0.25, 1.0]]))
    assert vectors is not None and vectors.tolist() == [[0, -0.5, 0, 0, 0, 0, 0]]
    state = world.open(START)
    turned, other = torch.tensor([[0.0, 0.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    ends = []
    for actions in (turned, other, STILL):
        again = world.load(world.save(state))
        ends.append(play(world, again, 2, actions))
        del again
    assert not torch.equal(ends[0], ends[1]), "yaw reaches it"
    assert torch.equal(ends[1], ends[2]), "nothing else does"


# -- cameras --------------------------------------------------------------------------------------


def test_a_camera_goes_where_the_controls_lead() -> None:
    """The pose of a latent is that of its fourth frame; speeds are per second."""
    world = make_world(CAMERA)
    state = world.open(START)
    camera = state.camera
    assert len(state.tail) == 1
    assert pose_of(told(state, 0).tolist()) == Pose(*camera_pose(camera))
    play(world, state, 1)
    half = [0.5 * axis for axis in AHEAD[0].tolist()]  # 30 pictures a second, 15 in training
    for _ in range(4):
        camera = dead_reckoning(camera, half)
    torch.testing.assert_close(
        told(state, 1), pose_vector(Pose(*camera_pose(camera))), rtol=0, atol=1e-6
    )


def test_modes_agree_and_cameras_matter() -> None:
    codes = []
    for mode, actions in (("sequential", AHEAD), ("jacobi", AHEAD), ("jacobi", STILL)):
        world = make_world(CAMERA, mode)
        codes.append(play(world, world.open(START), 5, actions))
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[1], codes[2])


@pytest.mark.parametrize("options", [CAMERA, TEXT | CAMERA, ACTIONS | CAMERA])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_restored_stream_draws_the_same_tokens(options: dict[str, Any], before: int) -> None:
    world = make_world(options)
    state = world.open(START)
    if before:
        play(world, state, before)
        world._look_from(state, looking(5.0, 20.0))
        play(world, state, 1)
        world._look_from(state, looking(6.0, 30.0))
    again = world.load(world.save(state))
    assert again.view == state.view
    for number in range(3):
        for one in (state, again):
            world._look_from(one, looking(7.0 + number))
        assert torch.equal(play(world, state, 1), play(world, again, 1))


def test_a_clients_camera_is_followed_from_where_the_stream_is() -> None:
    world = make_world(CAMERA)
    state = world.open(START)
    first = pose_of(told(state, 0).tolist())
    world._look_from(state, looking(100.0, 90.0))  # its own coordinates
    play(world, state, 1)
    torch.testing.assert_close(told(state, 1)[:7], pose_vector(first)[:7], rtol=0, atol=1e-9)
    assert state.view is not None
    world._look_from(state, None)
    play(world, state, 1, AHEAD)
    assert torch.equal(told(state, -1), pose_vector(state.view.pose)), "silence: it stays"
    # two metres ahead of a camera that looks along -X
    world._look_from(state, Pose((98.0, 1.6, 0.0), looking(0, 90.0).orientation, 70.0))
    frames = advance(world, [state], AHEAD)
    assert frames.poses[0] == pose_of(told(state, -1).tolist())
    yaw = world.open(START).camera.yaw
    ahead = torch.tensor([-2 * math.sin(yaw), 0.0, -2 * math.cos(yaw)], dtype=torch.float64)
    torch.testing.assert_close(
        told(state, -1)[:3] - pose_vector(first)[:3], ahead, rtol=0, atol=1e-9
    )
    assert told(state, -1)[7] == 70.0


def test_a_client_that_speaks_our_coordinates_is_not_moved() -> None:
    ours = Pose(*camera_pose(CameraState(3.0, -2.0, 1.1, 0.2)))
    alignment = Alignment.of(ours, ours)
    other = looking(4.0, 77.0)
    torch.testing.assert_close(
        pose_vector(alignment.apply(other)), pose_vector(other), rtol=0, atol=1e-12
    )
    moved = Alignment.of(ours, other).apply(other)
    torch.testing.assert_close(pose_vector(moved)[:7], pose_vector(ours)[:7], rtol=0, atol=1e-12)


def test_the_engine_hands_a_clients_camera_over() -> None:
    worlds = [make_world(CAMERA), make_world({})]
    for world, followed in zip(worlds, (True, False), strict=True):
        engine = Engine(world, seats=1, pick_seed=lambda: 4)
        engine.receive(OpenSession("a"), 0.0)
        for seq, x in enumerate((10.0, 11.0)):
            snapshot = ControllerState(seq, 0.0, camera=looking(x))
            engine.receive(SessionInput("a", snapshot, seq * 40.0), seq * 40.0)
            engine.step(seq * 40.0)
        state = engine._sessions["a"].state
        assert (state.view is not None) == followed
        if followed:
            moved = torch.tensor(state.view.pose.position) - told(state, 0)[:3]
            assert abs(float(moved.norm()) - 1.0) < 1e-6


def test_a_snapshot_of_another_model_or_with_wrong_cameras_is_refused() -> None:
    import msgpack

    world = make_world(CAMERA)
    good = world.save(world.open(START))
    with pytest.raises(SnapshotError, match="damaged"):
        make_world({}).load(good)
    plain = make_world({})
    with pytest.raises(SnapshotError, match="damaged"):
        world.load(plain.save(plain.open(START)))
    for change in (
        {"cameras": np.zeros((1, 8)).tobytes()},
        {"cameras": np.full((1, 8), np.nan).tobytes()},
        {"cameras": np.zeros((1, 7)).tobytes()},
        {"cameras": b"123"},
        {"view": [1.0]},
        {"view": "view"},
        {"view": [math.nan] * 15},
        {"view": [math.nan] + [1.0] * 14},
        {"version": 2},
    ):
        with pytest.raises(SnapshotError, match="damaged"):
            world.load(msgpack.packb(msgpack.unpackb(good) | change))
    assert world.load(good).view is None


# -- text -----------------------------------------------------------------------------------------


def test_a_text_reaches_every_stream_and_its_keys_are_computed_once() -> None:
    context = torch.zeros(512, 24)
    context[:6] = torch.randn(6, 24, generator=torch.Generator().manual_seed(1))
    withtext, untold = make_world(TEXT, context=context), make_world(TEXT)
    first, second = withtext.open(START), withtext.open(WorldStart("city", 1))
    words = play(withtext, first, 4)
    play(withtext, second, 1)
    assert first.work.session is not None and second.work.session is not None
    assert first.work.session.context_pairs is second.work.session.context_pairs
    assert not torch.equal(words, play(untold, untold.open(START), 4))
    slow = make_world(TEXT, "sequential", context)
    assert torch.equal(words, play(slow, slow.open(START), 4))
    together = make_world(TEXT, context=context)
    states = [together.open(START), together.open(WorldStart("city", 1))]
    for _ in range(2):
        advance(together, states, AHEAD.expand(2, 4))
    assert torch.equal(states[0].newest, words[0])


def test_a_context_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="takes no text"):
        make_world(ACTIONS, context=torch.zeros(512, 24))
    with pytest.raises(ValueError, match=r"\[m, 24\], got \[512, 16\]"):
        make_world(TEXT, context=torch.zeros(512, 16))


def _folder(tmp_path: Path, options: dict[str, Any]) -> str:
    config = make_world(options).config
    (tmp_path / "world.json").write_text(
        json.dumps({"format": 1, "kind": "cosmos", "transformer": config.to_dict()})
    )
    return str(tmp_path)


def test_a_prompt_is_read_before_the_world(tmp_path: Path) -> None:
    """There are no weights in this folder at all."""
    np.save(tmp_path / "prompt.npy", np.ones((3, 24), np.float32))
    prompt = Prompt(tmp_path / "prompt.npy")
    context = read_prompt(_folder(tmp_path, TEXT), prompt)
    assert context.shape == (512, 24) and context.sum() == 3 * 24
    np.save(tmp_path / "prompt.npy", np.ones((3, 1024), np.float32))
    with pytest.raises(PromptError, match=r"\[1 to 512, 24\].*\[3, 1024\]") as caught:
        read_prompt(str(tmp_path), prompt)
    assert caught.value.exit_code == 2
    for options, got in (({}, "one without"), (ACTIONS, "attends to actions")):
        with pytest.raises(PromptError, match=f"takes no text.*{got}"):
            read_prompt(_folder(tmp_path, options), prompt)
    with pytest.raises(PromptError, match="takes no text"):
        read_prompt("procedural", prompt)
    with pytest.raises(UnknownWorldError):
        read_prompt(str(tmp_path / "elsewhere"), prompt)
