"""Converted worlds that draw ahead: even pictures, nothing lost, each answering its controls."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import torch
from torch import Tensor

from tests.runtime.test_conditioning import ACTIONS, CAMERA, TEXT, make_world
from tests.support.fakes import held
from tests.support.worlds import advance, controls_of, until_answered
from worldbridge.bridge.protocol import (
    Failed,
    FrameAck,
    Opened,
    OpenSession,
    RawFrame,
    SessionInput,
    WorkerMessage,
)
from worldbridge.kernels.detokenize import reference_patches_to_i420
from worldbridge.models.procedural import camera_pose
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.errors import SnapshotError
from worldbridge.runtime.frames.detokenizer import SampledLatent
from worldbridge.runtime.worlds.conditioning import pose_of
from worldbridge.runtime.worlds.contract import Controls, Pose, WorldFrame, WorldStart, next_frames
from worldbridge.runtime.worlds.cosmos import CosmosWorld
from worldbridge.runtime.worlds.cosmos_state import CosmosState

START = WorldStart("zoo", 3)
EVERYTHING = ACTIONS | CAMERA


def ahead(options: dict[str, Any], lead: int, **more: Any) -> CosmosWorld:
    """A world that begins a latent when `lead` pictures are left behind the one that is shown."""
    world = make_world(options, **more)
    world.lead = lead + 1
    return world


def action(step: int) -> list[float]:
    """Another one at every step."""
    return [((7 * step + axis * 3) % 11 - 5) / 5 for axis in range(4)]


def until_made(*states: CosmosState) -> None:
    done, missing = wait([c.made for s in states for c in s.coming], timeout=60)
    assert not missing


def show(
    world: CosmosWorld, states: Sequence[CosmosState], steps: Sequence[int]
) -> list[WorldFrame]:
    """One step of each, every picture made before it is wanted."""
    until_made(*states)
    actions = torch.tensor([action(step) for step in steps])
    world.submit(states, controls_of(actions, list(steps)))
    return shown_now(world, states)


def shown_now(world: CosmosWorld, states: Sequence[CosmosState]) -> list[WorldFrame]:
    """What is there without waiting. Raises what a state reports."""
    pictures = []
    for answer in world.poll(states):
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        pictures.append(answer)
    return pictures


def alone(world: CosmosWorld, state: CosmosState, steps: Sequence[int]) -> list[WorldFrame]:
    return [show(world, [state], [step])[0] for step in steps]


def bytes_of(pictures: Sequence[WorldFrame]) -> list[bytes]:
    return [picture.i420 for picture in pictures]


# -- what is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [0, 3, 15])
def test_drawing_ahead_shows_what_drawing_at_the_last_moment_shows(lead: int) -> None:
    same = torch.tensor([[0.0, 1.0, 0.5, 0.0]])
    world = make_world(EVERYTHING)
    state = world.open(START)
    expected = [advance(world, [state], same) for _ in range(34)]  # the window of three slides
    early = ahead(EVERYTHING, lead)
    again = early.open(START)
    shown = []
    for _ in range(34):
        until_made(again)
        early.submit([again], controls_of(same))
        shown += shown_now(early, [again])
    assert [p.i420 for p in shown] == [frames.i420[0] for frames in expected]
    assert [p.pose for p in shown] == [frames.poses[0] for frames in expected]
    for one in (world, early):
        one.rest()


def test_sessions_at_other_phases_change_nothing() -> None:
    world = ahead(EVERYTHING, 3)
    expected = []
    for seed in (1, 2, 3):
        expected.append(alone(world, world.open(WorldStart("city", seed)), range(30)))
    states: list[CosmosState] = []
    shown: list[list[WorldFrame]] = [[], [], []]
    for step in range(30):
        if step in (0, 3, 8):  # two, five and no pictures apart
            states.append(world.open(WorldStart("city", len(states) + 1)))
        own = [step - begun for begun in (0, 3, 8)[: len(states)]]
        for place, picture in enumerate(show(world, states, own)):
            shown[place].append(picture)
    for place, pictures in enumerate(shown):
        assert len(pictures) == 30 - (0, 3, 8)[place]
        assert bytes_of(pictures) == bytes_of(expected[place][: len(pictures)])
    world.rest()


def test_those_that_wait_are_drawn_together() -> None:
    world = ahead({}, 0)
    states = [world.open(WorldStart("city", seed)) for seed in (1, 2, 3)]
    sizes: list[int] = []
    decode, drawing, go_on = world.decoder.decode, threading.Event(), threading.Event()

    def slow(sessions: Sequence[Any], *rest: Any) -> Tensor:
        sizes.append(len(sessions))
        drawing.set()
        assert go_on.wait(30)
        return decode(sessions, *rest)

    world.decoder.decode = slow  # type: ignore[method-assign]
    until_made(*states)
    world.submit(states[:1], [Controls()])
    assert drawing.wait(30)
    world.submit(states[1:2], [Controls()])
    world.submit(states[2:], [Controls()])
    go_on.set()
    until_made(*states)
    assert sizes == [1, 2]
    world.rest()


# -- what controls it answers ---------------------------------------------------------------------


def test_a_latent_is_drawn_with_the_mean_of_what_was_heard_since_the_last_one() -> None:
    world = ahead(ACTIONS, 2)
    state = world.open(START)
    pictures = alone(world, state, range(26))
    # the first latent is begun at once, then one with every eighth picture
    marks = [picture.tag for picture in pictures]
    assert marks == [None, *[0] * 8, *[6] * 8, *[14] * 8, 22]
    begun = [0, 6, 14]
    for latent, first, last in zip(state.tail[1:], [0, 1, 7], begun, strict=False):
        heard = torch.tensor([action(step) for step in range(first, last + 1)]).mean(0)
        torch.testing.assert_close(torch.tensor(latent.action), heard, rtol=0, atol=1e-6)
    world.rest()


def test_every_picture_names_the_camera_that_its_latent_was_told() -> None:
    world = ahead(EVERYTHING, 5)
    state = world.open(START)
    start = Pose(*camera_pose(state.camera))
    pictures = alone(world, state, range(33))
    assert pictures[0].pose == start
    for number, latent in enumerate(state.tail[1:4]):
        assert latent.pose is not None
        middle = pictures[1 + 8 * number + 3]  # the fourth of eight
        assert middle.pose == pose_of(latent.pose.tolist())
    assert len({picture.pose.position for picture in pictures}) == 33
    world._look_from(state, Pose((5.0, 1.6, 0.0), (0.0, 0.0, 0.0, 1.0), 60.0))
    assert state.view is not None
    ours, before = state.view.pose, state.latents
    later = alone(world, state, range(33, 60))
    sent = [latent for latent in state.tail if latent.pose is not None and latent.pose[7] == 60.0]
    assert state.latents > before and sent
    assert all(pose_of(latent.pose.tolist()) == ours for latent in sent if latent.pose is not None)
    assert [picture.pose for picture in later[-8:]] == [ours] * 8
    world.rest()


class Rig:
    """An engine in real time, a gateway that takes every frame, and a player."""

    def __init__(self, world: CosmosWorld, seats: int = 2) -> None:
        world.lead = None  # as measured
        self.engine = Engine(world, seats=seats, pick_seed=lambda: 4)
        self.frames: list[RawFrame] = []
        self.other: list[WorkerMessage] = []
        self.steps = 0

    def tell(self, message: Any) -> None:
        self.take(self.engine.receive(message, now_ms()))

    def take(self, messages: Sequence[WorkerMessage]) -> None:
        for message in messages:
            if isinstance(message, RawFrame):
                self.frames.append(message)
                self.tell(FrameAck(message.session, message.header.frame))
            else:
                self.other.append(message)

    def play(self, *players: str, until: int, seconds: float = 60.0) -> None:
        """Until so many frames more have come to each player."""
        goal = {name: len(self.of(name)) + until for name in players}
        deadline = time.monotonic() + seconds
        while any(len(self.of(name)) < count for name, count in goal.items()):
            assert time.monotonic() < deadline, f"{len(self.frames)} frames in {seconds} s"
            due = self.engine.next_step_ms()
            assert due is not None, self.other
            if now_ms() < due:
                time.sleep(0.001)
                self.take(self.engine.poll())
                continue
            for name in players:
                self.tell(SessionInput(name, held(self.steps, "KeyW"), now_ms()))
            self.steps += 1
            self.take(self.engine.step(now_ms()))

    def of(self, session: str) -> list[RawFrame]:
        return [frame for frame in self.frames if frame.session == session]


def now_ms() -> float:
    return time.monotonic() * 1000


def gaps(frames: Sequence[RawFrame]) -> list[float]:
    times = [frame.header.t_frame for frame in frames]
    return [b - a for a, b in itertools.pairwise(times)]


def slowed(world: CosmosWorld, drawing: float, pixels: float) -> CosmosWorld:
    """Every latent takes so many seconds more, without using the processor."""
    decode, make = world.decoder.decode, world.maker.make

    def slow_decode(*arguments: Any) -> Tensor:
        time.sleep(drawing)
        return decode(*arguments)

    def slow_make(*arguments: Any) -> Any:
        time.sleep(pixels)
        return make(*arguments)

    world.decoder.decode = slow_decode  # type: ignore[method-assign]
    world.maker.make = slow_make  # type: ignore[method-assign]
    return world


@pytest.mark.timeout(120)
@pytest.mark.serial
def test_pictures_come_evenly_while_the_next_ones_are_made() -> None:
    """Drawing and decoding take 6 of 8 frames: at once, they would stop every eighth one."""
    world = slowed(make_world(ACTIONS), 0.14, 0.06)
    rig = Rig(world)
    rig.tell(OpenSession("a", "zoo", 1))
    rig.play("a", until=30)  # measured
    rig.play("a", until=60)
    found = gaps(rig.of("a")[-60:])
    assert statistics.median(found) == pytest.approx(1000 / 30, abs=4)
    assert sorted(found)[-3] < 2.2 * 1000 / 30, "no stop every eighth frame"
    assert rig.of("a")[-1].header.dropped == 0
    assert 5 < world.tempo.lead(1) < 12
    world.rest()


@pytest.mark.timeout(120)
@pytest.mark.serial
def test_a_machine_that_is_too_slow_shows_all_pictures_evenly_and_late() -> None:
    """400 ms for eight frames that should take 267: not eight at once and a pause."""
    world = slowed(make_world(ACTIONS), 0.4, 0.1)
    rig = Rig(world)
    rig.tell(OpenSession("a", "zoo", 1))
    rig.play("a", until=40)
    rig.play("a", until=40)
    found = gaps(rig.of("a")[-40:])
    assert 50 <= statistics.median(found) < 75
    assert sorted(found)[-3] < 2.2 * statistics.median(found)
    numbers = [frame.header.frame for frame in rig.of("a")]
    assert numbers == list(range(len(numbers))) and rig.of("a")[-1].header.dropped == 0
    world.rest()


@pytest.mark.timeout(120)
@pytest.mark.serial
def test_players_at_other_phases_do_not_stop_each_other() -> None:
    world = slowed(make_world(ACTIONS), 0.06, 0.03)
    rig = Rig(world)
    rig.tell(OpenSession("a", "zoo", 1))
    rig.play("a", until=20)
    rig.tell(OpenSession("b", "city", 2))
    rig.play("a", "b", until=20)
    rig.play("a", "b", until=48)
    for name in "ab":
        found = gaps(rig.of(name)[-48:])
        assert statistics.median(found) == pytest.approx(1000 / 30, abs=4)
        assert sorted(found)[-3] < 2.2 * 1000 / 30
    world.rest()


@pytest.mark.timeout(120)
def test_a_frame_names_the_input_that_its_latent_was_drawn_with() -> None:
    world = slowed(make_world(ACTIONS), 0.05, 0.02)
    rig = Rig(world)
    rig.tell(OpenSession("a", "zoo", 1))
    rig.play("a", until=41)
    headers = [frame.header for frame in rig.of("a")]
    assert headers[0].input_sequence == -1, "the start answers nobody"
    latents = [headers[i : i + 8] for i in range(1, 41, 8)]
    assert [len({(h.input_sequence, h.t_controls) for h in latent}) for latent in latents] == [
        1
    ] * 5
    seqs = [latent[0].input_sequence for latent in latents]
    assert seqs == sorted(set(seqs)) and seqs[0] >= 0
    for header in headers[1:]:
        assert header.input_time == header.input_sequence * 16.0
        assert header.t_input <= header.t_controls <= header.t_tokens <= header.t_frame
    steps = [h.t_frame for h in headers]
    assert steps == sorted(set(steps)), "video needs a time of its own for every frame"
    world.rest()


# -- all or nothing -------------------------------------------------------------------------------


@contextmanager
def broken(world: CosmosWorld, stage: str, call: int = 0) -> Iterator[None]:
    """One stage of making latents raises from its `call`-th call on, after doing its work."""
    owner: Any = {
        "drawing": world.decoder,
        "appending": world.decoder,
        "recording": world.decoder,
        "decoding": world.tokenizer,
        "pixels": world.maker,
    }[stage]
    name = {
        "drawing": "_sample",
        "appending": "_append",
        "recording": "snapshot",
        "decoding": "decode_step",
        "pixels": "make",
    }[stage]
    works, calls = getattr(owner, name), itertools.count()

    def breaks(*arguments: Any, **named: Any) -> Any:
        result = works(*arguments, **named)
        if next(calls) >= call:
            raise RuntimeError(f"injected into {stage}")
        return result

    setattr(owner, name, breaks)
    try:
        yield
    finally:
        setattr(owner, name, works)


@contextmanager
def broken_for(world: CosmosWorld, seed: int) -> Iterator[None]:
    """Nothing can be drawn where the session of that seed takes part."""
    draw = world.decoder.decode

    def breaks(sessions: Sequence[Any], *rest: Any) -> Tensor:
        if any(session.seed == seed for session in sessions):
            raise RuntimeError("injected into drawing")
        return draw(sessions, *rest)

    world.decoder.decode = breaks  # type: ignore[method-assign]
    try:
        yield
    finally:
        world.decoder.decode = draw  # type: ignore[method-assign]


STAGES = [
    ("drawing", 0),
    ("appending", 0),
    ("appending", 1),
    ("recording", 1),
    ("decoding", 0),
    ("decoding", 1),
    ("pixels", 1),
]


@pytest.mark.parametrize("before", [1, 17])  # 17: the window is full and slides
@pytest.mark.parametrize(("stage", "call"), STAGES)
def test_what_fails_is_reported_once_and_made_again(stage: str, call: int, before: int) -> None:
    def opened() -> tuple[CosmosWorld, list[CosmosState]]:
        world = make_world(EVERYTHING)
        return world, [world.open(WorldStart("zoo", seed)) for seed in (1, 2)]

    def asked(step: int) -> list[Controls]:
        return controls_of(torch.tensor([action(step), action(step + 5)]))

    def played(world: CosmosWorld, states: list[CosmosState], steps: range) -> list[list[bytes]]:
        frames = [next_frames(world, states, asked(step)) for step in steps]
        return [[frame.i420 for frame in both] for both in frames]

    world, states = opened()
    expected = played(world, states, range(before + 20))
    world.rest()
    world, states = opened()
    assert played(world, states, range(before)) == expected[:before]
    with broken(world, stage, call):
        world.submit(states, asked(before))
        answers = until_answered(world, states)
    failed = [answer for answer in answers if isinstance(answer, Exception)]
    assert failed and all(f"into {stage}" in str(error) for error in failed)
    shown = []
    for state, answer in zip(states, answers, strict=True):
        again = until_answered(world, [state])[0] if isinstance(answer, Exception) else answer
        assert isinstance(again, WorldFrame)
        shown.append(again.i420)
    assert shown == expected[before]
    steps = range(before + 1, before + 20)
    assert played(world, states, steps) == expected[before + 1 :]
    world.rest()


@pytest.mark.parametrize("stage", ["drawing", "decoding"])
def test_what_fails_ahead_is_told_to_its_session_and_can_be_tried_again(stage: str) -> None:
    world = ahead(EVERYTHING, 4)
    expected = [alone(world, world.open(WorldStart("zoo", seed)), range(30)) for seed in (1, 2)]
    states = [world.open(WorldStart("zoo", seed)) for seed in (1, 2)]
    shown: list[list[WorldFrame]] = [[], []]
    until_made(*states)
    fault = broken_for(world, 2) if stage == "drawing" else broken(world, stage, 1)
    with fault:  # of the second one
        for place, picture in enumerate(show(world, states, [0, 0])):  # begins the first latents
            shown[place].append(picture)
        until_made(*states)
        actions = torch.tensor([action(1)] * 2)
        world.submit(states, controls_of(actions, [1, 1]))
        first, second = world.poll(states)
        assert isinstance(first, WorldFrame) and "injected" in str(second)
        shown[0].append(first)
    [again] = until_answered(world, states[1:])
    assert isinstance(again, WorldFrame)
    shown[1].append(again)
    for step in range(2, 30):
        for place in (0, 1):
            shown[place] += show(world, [states[place]], [step])
    for place in (0, 1):
        assert bytes_of(shown[place]) == bytes_of(expected[place])
    world.rest()


@pytest.mark.timeout(120)
def test_the_engine_ends_the_session_at_fault_alone() -> None:
    world = make_world(ACTIONS)
    rig = Rig(world)
    rig.tell(OpenSession("a", "zoo", 1))
    rig.tell(OpenSession("b", "zoo", 2))
    rig.play("a", "b", until=10)
    with broken_for(world, 2):
        rig.play("a", until=20)
    [failed] = [message for message in rig.other if isinstance(message, Failed)]
    assert (failed.session, failed.code) == ("b", "world_failed")
    assert "injected" in failed.got and rig.engine.sessions == ("a",)
    assert sum(isinstance(message, Opened) for message in rig.other) == 2
    rig.tell(OpenSession("c", "zoo", 3))  # its place in the cache is free again
    rig.play("a", "c", until=10)
    world.rest()


# -- snapshots ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [0, 1, 2, 6, 7, 9, 15, 40])
@pytest.mark.parametrize("held_up", [False, True])
def test_after_a_kill_the_same_pictures_follow(shown: int, held_up: bool) -> None:
    """`held_up`: what the last step begins is half drawn then, and is lost with the worker."""
    world = ahead(EVERYTHING, 3)
    state = world.open(START)
    alone(world, state, range(max(shown - 1, 0)))
    go_on = threading.Event()
    if held_up:
        until_made(state)
        world.decoder.on_step = lambda: None if go_on.wait(30) else None
    alone(world, state, range(max(shown - 1, 0), shown))
    if not held_up:
        until_made(state)
    data, left = world.save(state), state.left
    waiting = [coming.order for coming in state.coming if coming.order is not None]
    assert bool(waiting) == (shown in (1, 6))
    go_on.set()
    expected = alone(world, state, range(shown, shown + 30))
    another = ahead(EVERYTHING, 3)
    again = another.load(data)
    assert again.left == left
    got = alone(another, again, range(shown, shown + 30))
    assert bytes_of(got) == bytes_of(expected)
    assert [p.pose for p in got] == [p.pose for p in expected]
    assert torch.equal(
        another._record(again.seed, again.latents, again.tail).codes,
        world._record(state.seed, state.latents, state.tail).codes,
    )
    for one in (world, another):
        one.rest()


def test_a_snapshot_is_small_and_does_not_grow() -> None:
    world = make_world(EVERYTHING)
    state = world.open(START)
    sizes = []
    for _ in range(8 * 60 + 1):
        advance(world, [state], torch.tensor([[0.0, 1.0, 0.2, 0.0]]))
        sizes.append(len(world.save(state)))
    assert len(state.tail) == world.expected.kept == 42 + 3 + 3
    per_latent = 2 * 8 + 4 * 4 + 8 * 8  # codes, action, camera
    assert max(sizes[-8:]) < world.expected.kept * per_latent + 2500
    assert max(sizes[-8:]) == max(sizes[-16:-8])
    again = world.load(world.save(state))
    same = torch.tensor([[0.0, 1.0, 0.2, 0.0]])
    assert [advance(world, [again], same).i420 for _ in range(17)] == [
        advance(world, [state], same).i420 for _ in range(17)
    ]
    world.rest()


def test_what_is_no_snapshot_is_refused_as_such() -> None:
    world = make_world(EVERYTHING)
    state = world.open(START)
    for step in range(12):
        advance(world, [state], torch.tensor([action(step)]))
    good = world.save(state)
    assert world.load(good).left == state.left
    values = msgpack.unpackb(good)
    bad: dict[str, bytes] = {f"cut {at}": good[:at] for at in range(0, len(good), 37)}
    bad["longer"] = good + b"\0"
    others: list[Any] = [None, -1, 1 << 63, "x", b"", b"12", [], [1], {}, [[1e400] * 8], True, 2.5]
    fine = [("prompt", "x"), ("view", None), ("seed", 1 << 63), ("pictures", []), ("orders", [])]
    for key, other in itertools.product(values, others):
        if (key, other) not in fine:
            bad[f"{key} {other!r}"] = msgpack.packb({**values, key: other})
        bad[f"no {key}"] = msgpack.packb({k: v for k, v in values.items() if k != key})
    far = (1 << 16) - 1
    for change in (
        {"codes": far.to_bytes(2, "little") * (len(values["codes"]) // 2)},
        {"actions": values["actions"][:-4] + b"\0\0\x80\x7f"},
        {"actions": values["actions"][:-4] + b"\0\0\x80\x40"},
        {"latents": values["latents"] + 1},
        {"pictures": values["pictures"] * 40},
        {"orders": [[2.0, 0, 0, 0]]},
        {"orders": [[0.0, 0, 0, 0, *[0.0] * 8]]},
        {"orders": [[0.0] * 4] * 3},
        {"heard": [0.0] * 4},
        {"heard": [3.0, 0.0, 0.0, 0.0, 2]},
    ):
        bad[repr(change)[:60]] = msgpack.packb({**values, **change})
    for what, data in bad.items():
        try:
            world.load(data)
        except SnapshotError as error:
            assert error.expected and error.got and error.remedy
        else:
            pytest.fail(f"taken for a snapshot: {what}")
    for options in ({}, TEXT, ACTIONS, CAMERA):
        foreign = make_world(options)
        with pytest.raises(SnapshotError):
            world.load(foreign.save(foreign.open(START)))
    world.rest()


def test_under_another_prompt_a_stream_goes_on_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = 8 * torch.randn(2, 512, 24, generator=torch.Generator().manual_seed(1))
    worlds = [ahead(TEXT, 3, context=context) for context in (words[0], words[0], words[1])]
    state = worlds[0].open(START)
    alone(worlds[0], state, range(20))
    until_made(state)
    data = worlds[0].save(state)
    expected = alone(worlds[0], state, range(20, 44))
    same = worlds[1].load(data)
    assert not caplog.records
    assert bytes_of(alone(worlds[1], same, range(20, 44))) == bytes_of(expected)
    other = worlds[2].load(data)
    [record] = caplog.records
    assert "another prompt" in record.message and record.levelname == "WARNING"
    shown = alone(worlds[2], other, range(20, 44))
    promised = 8 + 8 - 3  # those of latents that were there
    assert bytes_of(shown[:5]) == bytes_of(expected[:5])
    assert bytes_of(shown[promised:]) != bytes_of(expected[promised:])
    for world in worlds:
        world.rest()


# -- pixels ---------------------------------------------------------------------------------------


@torch.inference_mode()
def test_pictures_of_patches_are_those_of_pixels() -> None:
    """The way they are made on a GPU, by the kernel's reference."""
    world = make_world({})
    latents = torch.randint(512, (3, 2, 4), generator=torch.Generator().manual_seed(3))
    making, _ = world.maker.make([SampledLatent(x) for x in latents], world.maker.fresh(), 17)
    stream, planes = world.maker.fresh(), []
    for latent in latents:
        first = stream.fresh
        patches, stream = world.tokenizer.decode_step_patches(latent[None, None], stream)
        planes.append(reference_patches_to_i420(patches, first)[0])
    found = torch.cat(planes).int()
    pixels = [torch.frombuffer(bytearray(x), dtype=torch.uint8) for x in making.frames()]
    assert found.shape[0] == 17
    assert int((found - torch.stack(pixels).int()).abs().max()) <= 1
    newest, _ = world.maker.make([SampledLatent(x) for x in latents], world.maker.fresh(), 3)
    assert newest.frames() == making.frames()[-3:]
