"""Worlds that begin with pictures, and go on from there like any other."""

from __future__ import annotations

import pytest
import torch

from tests.runtime.test_cosmos_world import make_world
from tests.support.fakes import CountingWorld, FakeClock
from tests.support.tiny_world import tiny_world
from tests.support.worlds import advance
from worldbridge.bridge.protocol import Failed, OpenSession, PromptFrames, RestartSession
from worldbridge.models.conditioning.prompt_frames import fit_prompt_frames
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.errors import BadPromptFrameError
from worldbridge.runtime.worlds.autoregressive import ArWorld
from worldbridge.runtime.worlds.contract import WorldStart
from worldbridge.runtime.worlds.cosmos import CosmosWorld
from worldbridge.runtime.worlds.procedural import ProceduralWorld


def film(count: int, height: int = 90, width: int = 200, channels: int = 3) -> torch.Tensor:
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(count))


@pytest.fixture(scope="module")
def embedded() -> ArWorld:
    torch.set_num_threads(1)
    return ArWorld(tiny_world(), capacity=4)


@pytest.fixture(scope="module")
def cosmos() -> CosmosWorld:
    torch.set_num_threads(1)
    return make_world("actions")


def walk(world: ArWorld | CosmosWorld, state: object, steps: int) -> list[bytes]:
    move = torch.tensor([[0.0, 0.6, -0.4, 0.0]])
    return [advance(world, [state], move).i420[0] for _ in range(steps)]  # type: ignore[list-item]


class TestEmbedded:
    def test_it_begins_with_the_pictures_tokens(self, embedded: ArWorld) -> None:
        pictures = film(6)
        state = embedded.open(WorldStart("zoo", 1, pictures))
        unit = fit_prompt_frames(pictures, 320, 512).float() / 127.5 - 1
        with torch.inference_mode():
            codes = embedded.tokenizer.encode(unit.transpose(0, 1)[None])[0]
        assert torch.equal(state.codes, codes)
        assert (state.camera.x, state.camera.z, state.camera.pitch) == (0.0, 0.0, 0.0)

    def test_one_picture_is_a_still_of_a_whole_window(self, embedded: ArWorld) -> None:
        state = embedded.open(WorldStart("zoo", 1, film(1)))
        assert len(state.codes) == embedded.spec.context_latents > 1

    def test_pictures_seed_and_theme_all_matter(self, embedded: ArWorld) -> None:
        starts = [
            WorldStart("zoo", 1, film(1)),
            WorldStart("zoo", 1, film(2)),
            WorldStart("zoo", 2, film(1)),
            WorldStart("zoo", 1),
        ]
        shown = {walk(embedded, embedded.open(start), 3)[-1] for start in starts}
        assert len(shown) == len(starts)
        city = embedded.open(WorldStart("city", 1, film(1)))
        assert not torch.equal(city.conditions, embedded.open(starts[0]).conditions)

    @pytest.mark.parametrize(("count", "before"), [(1, 0), (9, 0), (9, 3)])
    def test_a_restored_session_goes_on_exactly(
        self, embedded: ArWorld, count: int, before: int
    ) -> None:
        state = embedded.open(WorldStart("city", 3, film(count)))
        walk(embedded, state, before)
        again = embedded.load(embedded.save(state))
        assert walk(embedded, again, 3) == walk(embedded, state, 3)

    def test_too_many_and_none_are_refused(self, embedded: ArWorld) -> None:
        for pictures, got in ((film(10, 32, 32), "10"), (film(1)[:0], "0")):
            with pytest.raises(BadPromptFrameError) as caught:
                embedded.open(WorldStart("city", 3, pictures))
            assert (caught.value.code, caught.value.got) == ("bad_prompt_frame", got)


class TestCosmos:
    @pytest.mark.parametrize(("count", "latents"), [(1, 1), (5, 2), (9, 2)])
    def test_up_to_nine_pictures_are_two_latents(
        self, cosmos: CosmosWorld, count: int, latents: int
    ) -> None:
        state = cosmos.open(WorldStart("zoo", 1, film(count, channels=4)))
        assert state.latents == latents
        assert state.left == 1, "the newest picture is shown first"
        assert len(set(walk(cosmos, state, 10))) > 5

    def test_nine_pictures_are_encoded_as_published(self, cosmos: CosmosWorld) -> None:
        pictures = film(9)
        unit = fit_prompt_frames(pictures, 64, 96).float() / 127.5 - 1
        with torch.inference_mode():
            codes = cosmos.tokenizer.encode(unit.transpose(0, 1)[None])[0]
        state = cosmos.open(WorldStart("zoo", 1, pictures))
        assert torch.equal(cosmos._record(state.seed, state.latents, state.tail).codes, codes)

    @pytest.mark.parametrize("shown", [0, 1, 9])
    def test_a_restored_stream_draws_the_same_tokens(self, cosmos: CosmosWorld, shown: int) -> None:
        state = cosmos.open(WorldStart("museum", 9, film(9)))
        walk(cosmos, state, shown)
        again = cosmos.load(cosmos.save(state))
        assert again.left == state.left
        assert walk(cosmos, state, 9) == walk(cosmos, again, 9)
        assert torch.equal(
            cosmos._record(again.seed, again.latents, again.tail).codes,
            cosmos._record(state.seed, state.latents, state.tail).codes,
        )

    def test_its_spec_says_how_many(self, cosmos: CosmosWorld) -> None:
        assert cosmos.spec.max_prompt_frames == 9
        with pytest.raises(BadPromptFrameError, match="1 to 9"):
            cosmos.open(WorldStart("zoo", 1, film(10, 32, 32)))


def test_a_rendered_world_says_that_it_cannot() -> None:
    world = ProceduralWorld()
    assert world.spec.max_prompt_frames == 0
    with pytest.raises(BadPromptFrameError, match="expected no prompt frames, got 1"):
        world.open(WorldStart("city", 1, film(1)))


def raw(pictures: torch.Tensor) -> PromptFrames:
    count, _, height, width = pictures.shape
    data = pictures.permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    return PromptFrames(count, height, width, data)


class TestEngine:
    def test_it_hands_the_pixels_over_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world, seen = CountingWorld(FakeClock()), []
        opened = world.open

        def record(start: WorldStart) -> object:
            seen.append(start.prompt_frames)
            return opened(start)

        monkeypatch.setattr(world, "open", record)
        engine = Engine(world, seats=1, pick_seed=lambda: 4)
        pictures = film(2, 20, 30)
        engine.receive(OpenSession("a", prompt_frames=raw(pictures)), 0.0)
        engine.receive(RestartSession("a", seed=5), 0.0)
        engine.receive(RestartSession("a", prompt_frames=raw(pictures[:1])), 0.0)
        assert torch.equal(seen[0], pictures) and seen[1] is None
        assert torch.equal(seen[2], pictures[:1])
        assert engine._sessions["a"].start == WorldStart("plain", 5)
        assert engine._sessions["a"].start.prompt_frames is None, "megabytes for nothing"

    def test_what_the_world_refuses_is_told_by_its_code(self) -> None:
        world = ProceduralWorld()
        engine = Engine(world, seats=1, pick_seed=lambda: 4)
        [failed] = engine.receive(OpenSession("a", prompt_frames=raw(film(1))), 0.0)
        assert isinstance(failed, Failed) and failed.code == "bad_prompt_frame"
        assert "procedural" in failed.message and failed.got == "1"

    def test_the_worlds_go_on_when_a_worker_is_replaced(self, embedded: ArWorld) -> None:
        engine = Engine(embedded, seats=2, pick_seed=lambda: 4)
        out = engine.receive(OpenSession("a", "zoo", 1, prompt_frames=raw(film(3))), 0.0)
        snapshot = bytes(out[1].payload)  # type: ignore[union-attr]
        another = Engine(embedded, seats=2, pick_seed=lambda: 5)
        another.receive(OpenSession("a", "zoo", 1, snapshot), 0.0)
        codes = [e._sessions["a"].state.codes for e in (engine, another)]
        assert torch.equal(*codes)
