"""Worlds on the fake CUDA device show the frames that they show on the CPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.fake_cuda import fake_cuda
from tests.support.fake_cuda.streams import RuleError
from tests.support.fake_cuda.worlds import small_world
from tests.support.worlds import advance
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.frames import detokenizer
from worldbridge.runtime.frames.detokenizer import CudaDetokenizer
from worldbridge.runtime.worlds.autoregressive import ArWorld
from worldbridge.runtime.worlds.contract import WorldStart
from worldbridge.runtime.worlds.cosmos import CosmosWorld
from worldbridge.runtime.worlds.registry import open_world

ACTION = torch.tensor([[0.0, 1.0, 0.5, 0.0]])
COUNT = 1 + 8 * 3  # frames, of which the last latent slides the window


def shown(world: CosmosWorld, count: int = COUNT) -> list[bytes]:
    """As an engine shows them: drawing and pixels run beside it."""
    state = world.open(WorldStart("city", 3))
    found = [advance(world, [state], ACTION).i420[0] for _ in range(count)]
    world.rest()
    return found


def apart(frames: list[bytes], others: list[bytes]) -> int:
    """The largest difference of a byte."""
    pairs = zip(frames, others, strict=True)
    return max(abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True))


@pytest.mark.slow
def test_a_converted_world_shows_the_same_frames() -> None:
    """On streams of their own, from one kernel, through pinned memory."""
    expected = shown(CosmosWorld(small_world("cpu"), 2))
    with fake_cuda() as gpu:
        world = CosmosWorld(small_world("cuda"), 2)
        assert isinstance(world.maker, CudaDetokenizer)
        found = shown(world)
        data = world.save(world.open(WorldStart("zoo", 1)))
        assert len(shown_again(world, data)) == 2
    assert gpu.recorded == 2
    assert apart(found, expected) <= 1  # rounding


@pytest.mark.long
def test_compiled_frames_are_made_on_their_stream() -> None:
    """Of fixed shapes; nothing is compiled here, see `tests/runtime/test_device_pixels.py`."""
    expected = shown(CosmosWorld(small_world("cpu"), 1), 20)
    with fake_cuda():
        found = shown(CosmosWorld(small_world("cuda"), 1, pixels="compiled"), 20)
    assert apart(found, expected) <= 1


def shown_again(world: CosmosWorld, data: bytes) -> list[bytes]:
    state = world.load(data)
    frames = [advance(world, [state], ACTION).i420[0] for _ in range(2)]
    world.rest()
    return frames


def _unread(copying: detokenizer._Copying) -> list[bytes]:
    """As `frames`, without waiting for the copy."""
    done = [plane.numpy().tobytes() for part in copying.parts for plane in part]
    copying.parts.clear()
    return done[len(done) - copying.count :]


@pytest.mark.long
@pytest.mark.parametrize("what", ["wait for the copy", "wait for the drawing"])
def test_what_the_frame_streams_wait_for_is_needed(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the test above could fail."""
    if what == "wait for the copy":
        monkeypatch.setattr(detokenizer._Copying, "frames", _unread)
    else:
        monkeypatch.setattr(
            "tests.support.fake_cuda.streams.Stream.wait_event", lambda stream, event: None
        )
        monkeypatch.setattr(
            "tests.support.fake_cuda.streams.Timeline.informed", lambda timeline, clock: None
        )
    expected = shown(CosmosWorld(small_world("cpu"), 1), 2)
    try:
        with fake_cuda():
            assert apart(shown(CosmosWorld(small_world("cuda"), 1), 2), expected) > 1
    except RuleError:
        assert what == "wait for the drawing"


def test_the_embedded_world_shows_the_same_frames() -> None:
    def frames(world: ArWorld) -> tuple[list[list[bytes]], bytes]:
        states = [world.open(WorldStart("city", 3)), world.open(WorldStart("zoo", 4))]
        both = ACTION.expand(2, -1)
        return [advance(world, states, both).i420 for _ in range(2)], world.save(states[1])

    expected, saved = frames(open_world(WorkerConfig(world="embedded", mode=None)))  # type: ignore[arg-type]
    with fake_cuda():
        world = open_world(WorkerConfig(world="embedded", mode=None, device="cuda"))
        assert isinstance(world, ArWorld) and world.decoder.device.type == "cuda"
        found, also = frames(world)
        again = world.load(saved)
        assert len(advance(world, [again], ACTION).i420[0]) == len(expected[0][0])
        world.rest()
    assert also == saved
    assert max(apart(*pair) for pair in zip(found, expected, strict=True)) <= 1
