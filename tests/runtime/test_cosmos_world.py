"""A converted Cosmos model as a world: tiny sizes, random weights, the published structure."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from tests.support.worlds import advance
from worldbridge.bridge.protocol import FrameAck, OpenSession, RawFrame
from worldbridge.models.checkpoint import World
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.tokenizer.config import DV8X16X16
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.errors import SnapshotError, UnknownThemeError
from worldbridge.runtime.worlds.contract import WorldStart
from worldbridge.runtime.worlds.cosmos import CosmosWorld

VARIANTS = {
    "base": {},
    "video2world": {
        "context_dim": 24,
        "apply_abs_pos_emb": True,
        "begin_of_video_token": 64000,
        "input_vocab_rows": 64064,
    },
    "actions": {"context_dim": 24, "conditioning": "cross_attention", "condition_dim": 7},
}


def make_world(variant: str = "base", mode: str = "jacobi") -> CosmosWorld:
    torch.manual_seed(5)
    tokenizer = dataclasses.replace(DV8X16X16, channels=8, z_channels=8)
    config = TransformerConfig(
        dim=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=12,
        ffn_hidden_size=48,
        vocab_size=64000,
        latent_shape=(3, 4, 6),
        **VARIANTS[variant],  # type: ignore[arg-type]
    )
    manifest = {
        "name": "tiny-cosmos",
        "title": "Tiny",
        "frames_per_second": 25,
        "sampling": {"temperature": 1.0, "top_p": 0.8, "top_k": 64000},
        "tokenizer": dataclasses.asdict(tokenizer),
        "transformer": config.to_dict(),
    }
    networks = VideoTokenizer(tokenizer).eval(), VideoTransformer(config).eval()
    world = World("tiny-cosmos", manifest, *networks)
    return CosmosWorld(world, capacity=4, mode=mode, lead=0)


def play(world: CosmosWorld, state: object, steps: int) -> list[bytes]:
    actions = torch.tensor([[0.0, 1.0, -0.5, 0.0]])
    return [advance(world, [state], actions).i420[0] for _ in range(steps)]  # type: ignore[list-item]


def test_its_spec_comes_from_its_configs() -> None:
    spec = make_world().spec
    assert (spec.width, spec.height, spec.frames_per_latent) == (96, 64, 8)
    assert (spec.fps, spec.context_latents, spec.action_schema) == (25.0, 3, ())
    schema = make_world("actions").spec.action_schema
    assert [control.name for control in schema] == ["strafe", "forward", "yaw", "pitch"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_start_picture_then_eight_of_each_latent_without_end(variant: str) -> None:
    world = make_world(variant)
    state = world.open(WorldStart("zoo", 3))
    pictures = play(world, state, 1 + 8 * 5)  # the window of three slides twice
    assert {len(picture) for picture in pictures} == {96 * 64 * 3 // 2}
    assert state.latents == 6
    assert len(set(pictures)) > 30, "the pictures of a latent differ"


def test_modes_and_neighbours_make_no_difference() -> None:
    alone = make_world(mode="sequential")
    expected = [play(alone, alone.open(WorldStart("city", seed)), 12) for seed in (1, 2)]
    world = make_world(mode="jacobi")
    states = [world.open(WorldStart("city", seed)) for seed in (1, 2)]
    actions = torch.tensor([[0.0, 1.0, -0.5, 0.0]] * 2)
    together = [advance(world, states, actions).i420 for _ in range(12)]
    assert [list(column) for column in zip(*together, strict=True)] == expected


@pytest.mark.parametrize("shown", [1, 4, 9, 20])
def test_a_restored_stream_draws_the_same_tokens(shown: int) -> None:
    world = make_world("actions")
    state = world.open(WorldStart("museum", 9))
    play(world, state, shown)
    again = world.load(world.save(state))
    assert again.left == state.left
    assert play(world, state, 16) == play(world, again, 16)
    assert torch.equal(
        world._record(again.seed, again.latents, again.tail).codes,
        world._record(state.seed, state.latents, state.tail).codes,
    )


def test_actions_matter_where_the_model_takes_them() -> None:
    world = make_world("actions")
    ends = []
    for forward in (1.0, -1.0):
        state = world.open(WorldStart("city", 1))
        for _ in range(9):
            advance(world, [state], torch.tensor([[0.0, forward, 0.0, 0.0]]))
        ends.append(state.newest)
    assert not torch.equal(*ends)


def test_what_is_no_snapshot_is_refused() -> None:
    world = make_world()
    good = world.save(world.open(WorldStart("city", 1)))
    for data in (
        b"",
        b"\x80",
        good[:40],
        make_world("actions").save(make_world("actions").open(WorldStart("city", 1))),
    ):
        with pytest.raises(SnapshotError):
            world.load(data)
    with pytest.raises(UnknownThemeError):
        world.open(WorldStart("atlantis", 1))


def test_the_engine_steps_it() -> None:
    engine = Engine(make_world(), seats=1, pick_seed=lambda: 4)
    engine.receive(OpenSession("a"), time.monotonic() * 1000)
    frames: list[RawFrame] = []
    deadline = time.monotonic() + 60
    while len(frames) < 10 and time.monotonic() < deadline:
        made = engine.step(time.monotonic() * 1000)
        frames += [message for message in made if isinstance(message, RawFrame)]
        for frame in frames[-1:]:
            engine.receive(FrameAck("a", frame.header.frame), 0.0)
        time.sleep(0.01)
    assert [frame.header.frame for frame in frames] == list(range(10))
