"""Which way a world is decoded: what is refused, what is measured, what is taken."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runtime.test_cosmos_world import make_world, play
from tests.runtime.test_worker import Gateway, ended, start_worker
from tests.support.tiny_world import tiny_world
from tests.support.worlds import advance
from worldbridge.bridge.protocol import Ready, WorldSpec
from worldbridge.models.checkpoint import EMBEDDED_WORLD, read_manifest
from worldbridge.models.transformer import MedusaHeads
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.decoding import autotune as modes
from worldbridge.runtime.decoding.autotune import check_mode, remember, remembered, set_mode
from worldbridge.runtime.errors import DetokenizerError, ModeError, WeightDtypeError, WorldError
from worldbridge.runtime.worlds.autoregressive import ArWorld
from worldbridge.runtime.worlds.contract import Controls, Pose, Synchronous, WorldFrame, WorldStart
from worldbridge.runtime.worlds.registry import open_world

COSMOS: dict[str, Any] = {"transformer": {"grid": None}, "heads": {"count": 9}}


def silent(stage: str, share: float) -> None:
    pass


# -- what a world can do --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "row_lag", "manifest", "message"),
    [
        ("magic", None, COSMOS, "there is no such decode mode: expected one of auto, seq"),
        ("medusa", None, COSMOS | {"heads": None}, None),
        ("medusa", None, {"transformer": {}}, "expected a world with Medusa heads"),
        ("jacobi", 2, COSMOS, "expected a positive number, and mode 'diagonal' with it"),
        ("auto", 2, COSMOS, "add --mode diagonal"),
        ("diagonal", 0, COSMOS, "got 0 with mode 'diagonal'"),
        ("diagonal", 3, COSMOS, None),
        ("diagonal", 3, {"transformer": {"grid": {"diagonal": 1}}}, "expected 1, got 3"),
        ("diagonal", 1, {"transformer": {"grid": {"diagonal": 1}}}, None),
        ("auto", None, COSMOS, None),
        (None, None, COSMOS, None),
    ],
)
def test_what_a_world_cannot_do_is_told(
    mode: str | None, row_lag: int | None, manifest: dict[str, Any], message: str | None
) -> None:
    if message is None:
        check_mode(mode, row_lag, manifest)
        return
    with pytest.raises(ModeError, match=message.replace("(", r"\(")) as caught:
        check_mode(mode, row_lag, manifest)
    assert caught.value.exit_code == 2


def test_it_is_told_before_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldbridge.runtime.worlds.autoregressive.load_embedded", None)
    grid = read_manifest(EMBEDDED_WORLD)["transformer"]["grid"]
    with pytest.raises(ModeError, match="another row lag"):
        open_world(WorkerConfig(world="embedded", mode="diagonal", row_lag=grid["diagonal"] + 1))


@pytest.mark.parametrize(
    ("world", "what"), [("procedural", "is rendered"), ("guided", "has a spatial memory")]
)
@pytest.mark.parametrize(
    ("choice", "error"),
    [
        ({"mode": "diagonal"}, ModeError),
        ({"weight_dtype": "fp8"}, WeightDtypeError),
        ({"detokenizer": "compiled"}, DetokenizerError),
    ],
)
def test_a_world_without_choices_says_so(
    world: str, what: str, choice: dict[str, Any], error: type[WorldError]
) -> None:
    with pytest.raises(error, match=f"got one that {what}; leave --") as caught:
        open_world(WorkerConfig(world=world, **choice))
    assert caught.value.exit_code == 2


# -- measuring, with decoders whose speed is known ------------------------------------------------


class Decoder:
    """Takes so many forwards of so many milliseconds for a latent."""

    def __init__(self, mode: str, forwards: int, ms: float, least: int | None = None) -> None:
        self.mode, self.forwards, self.ms = mode, forwards, ms
        self.least_forwards = forwards if least is None else least
        self.on_step: Callable[[], None] = lambda: None
        self.enqueued = 0
        self.ran = 0

    def draw(self) -> None:
        for _ in range(self.forwards):
            self.on_step()
            time.sleep(self.ms / 1000)
            self.ran += 1


@dataclasses.dataclass(eq=False)
class Place:
    shown: int = 0


class World(Synchronous[Place]):
    """Of two pictures a latent, of which the first is drawn and the second is left over."""

    spec = WorldSpec("fake", "Fake", 2, 2, 10.0, 2, ("zoo",), (), 1, "autoregressive")
    tokenizer = transformer = None

    def __init__(self, *kinds: Decoder) -> None:
        super().__init__()
        self.kinds = {kind.mode: kind for kind in kinds}
        self._exact = tuple(kind.mode for kind in kinds if kind.mode != "diagonal")
        self.decoder = next(iter(kinds))
        self.made: list[str] = []

    @property
    def decoding(self) -> World:
        return self

    @property
    def exact_modes(self) -> tuple[str, ...]:
        return self._exact

    def make_decoder(self, mode: str | None, row_lag: int | None = None) -> Decoder:
        assert mode is not None
        self.made.append(mode)
        return self.kinds[mode]

    def open(self, start: WorldStart) -> Place:
        return Place()

    def render(self, state: Place, controls: Controls) -> WorldFrame:
        if state.shown % 2 == 0:
            self.decoder.draw()
        state.shown += 1
        now = time.monotonic() * 1000
        return WorldFrame(b"", Pose(), now, now)

    def save(self, state: Place) -> bytes:
        raise NotImplementedError

    def load(self, data: bytes) -> Place:
        raise NotImplementedError


def chosen(world: World, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, "worldbridge.runtime.decoding.autotune"):
        set_mode(world, "auto", None, silent)
    (text,) = caplog.messages
    return text


def test_the_fastest_is_taken_and_told(caplog: pytest.LogCaptureFixture) -> None:
    slow, fast = Decoder("jacobi", 4, 5), Decoder("sequential", 8, 1)
    world, told = World(slow, fast), []
    with caplog.at_level(logging.INFO, "worldbridge.runtime.decoding.autotune"):
        set_mode(world, "auto", None, lambda stage, share: told.append(stage))
    assert world.decoder is fast and world.made == ["jacobi", "sequential"]
    assert caplog.messages[0].startswith("auto: sequential, ")
    assert "; jacobi " in caplog.messages[0] and "the world's rate" not in caplog.messages[0]
    assert told[:2] == ["measuring the decode mode jacobi", "measuring the decode mode sequential"]
    assert told[2] == caplog.messages[0]
    before = fast.ran
    fast.draw()  # nothing watches it any more
    assert fast.ran == before + 8


def test_what_cannot_win_is_given_up_at_once(caplog: pytest.LogCaptureFixture) -> None:
    fast, slow = Decoder("jacobi", 4, 2), Decoder("sequential", 1000, 2)
    text = chosen(World(fast, slow), caplog)
    assert "sequential under " in text
    assert slow.ran <= 4  # then it is known what a thousand of them take


class Enqueuing(Decoder):
    """Marks sixteen forwards at once, and then waits until they are done, as on a GPU."""

    def __init__(self, mode: str, forwards: int, ms: float, least: int | None = None) -> None:
        super().__init__(mode, forwards, ms, least)
        self.enqueued = 16

    def draw(self) -> None:
        for begin in range(0, self.forwards, self.enqueued):
            some = min(self.enqueued, self.forwards - begin)
            for _ in range(some):
                self.on_step()
            self.ran += some
            time.sleep(some * self.ms / 1000)


def test_forwards_that_are_enqueued_are_not_taken_for_instant_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fast, slow = Enqueuing("jacobi", 100, 1), Enqueuing("sequential", 4000, 1)
    text = chosen(World(fast, slow), caplog)
    under = float(text.partition("sequential under ")[2].split()[0])
    assert slow.ran <= 6 * 16
    assert 0.3 < under <= 2 / 4 / 0.6  # 4 s a latent of two pictures, known to three quarters


def test_the_fastest_of_those_that_enqueue_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    slow, fast = Enqueuing("jacobi", 200, 1), Enqueuing("sequential", 100, 1)
    assert chosen(World(slow, fast), caplog).startswith("auto: sequential")
    assert fast.ran >= 2 * 100  # nothing was given up


def test_many_forwards_are_given_up_too(caplog: pytest.LogCaptureFixture) -> None:
    """Guesses may all be right, so a latent may take few forwards; this one takes many."""
    fast, slow = Decoder("jacobi", 4, 2), Decoder("medusa", 1000, 2, least=1)
    assert "medusa under " in chosen(World(fast, slow), caplog)
    assert slow.ran < 30


def test_a_first_latent_that_is_prepared_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    class Prepared(Decoder):
        def draw(self) -> None:
            time.sleep(0 if self.ran else 0.3)
            super().draw()

    text = chosen(World(Decoder("jacobi", 4, 5), Prepared("sequential", 8, 1)), caplog)
    assert text.startswith("auto: sequential")


def test_nothing_is_measured_without_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(modes, "_BUDGET_S", 0.4)
    monkeypatch.setattr(modes, "_TOTAL_S", 0.6)  # with what goes before a mode, for two of them
    kinds = [Decoder(mode, 1000, 10) for mode in ("medusa", "jacobi", "sequential")]
    world = World(*kinds)
    began = time.perf_counter()
    text = chosen(world, caplog)
    assert time.perf_counter() - began < 20  # the budget, on a machine that pauses
    assert world.decoder is kinds[0]
    assert text.startswith("auto: medusa, under 0.1"), text  # the fakes sleep a little longer
    assert "frames/s (the world's rate is 10)" in text
    assert kinds[0].ran < 1000 and kinds[2].ran == 0  # on a loaded machine jacobi has no time left


def test_an_approximation_is_for_the_one_who_asks(caplog: pytest.LogCaptureFixture) -> None:
    exact, quick = Decoder("jacobi", 4, 3), Decoder("diagonal", 1, 1)
    world = World(exact, quick)
    chosen(world, caplog)
    assert world.decoder is exact and "diagonal" not in world.made
    set_mode(world, "diagonal", None, silent)
    assert world.decoder is quick
    assert caplog.records[-1].levelname == "WARNING"
    assert caplog.messages[-1].startswith("approximate: mode 'diagonal'")


# -- measuring real worlds ------------------------------------------------------------------------


def test_a_token_grid_keeps_its_tokens() -> None:
    loaded = dataclasses.replace(tiny_world(), heads=MedusaHeads(32, 3))
    world, usual = ArWorld(loaded, 2), ArWorld(loaded, 2)
    assert set(world.exact_modes) == {"diagonal", "jacobi", "medusa", "sequential"}
    set_mode(world, "auto", None, silent)
    assert world.decoder.mode in world.exact_modes and len(world.decoder.cache.free) == 2
    states = [w.open(WorldStart("zoo", 3)) for w in (world, usual)]
    action = torch.tensor([[0.0, 1.0, 0.5, 0.0]])
    for _ in range(3):
        assert advance(world, [states[0]], action).i420 == advance(usual, [states[1]], action).i420
    world.rest()
    usual.rest()


def test_a_converted_world_keeps_its_tokens(caplog: pytest.LogCaptureFixture) -> None:
    expected = make_world(mode="sequential")
    wanted = play(expected, expected.open(WorldStart("zoo", 3)), 20)
    world = make_world()
    assert world.exact_modes == ("jacobi", "sequential")
    set_mode(world, "auto", None, silent)
    assert world.decoder.mode in world.exact_modes and len(world.decoder.cache.free) == 4
    assert play(world, world.open(WorldStart("zoo", 3)), 20) == wanted
    with caplog.at_level(logging.WARNING, "worldbridge.runtime.decoding.autotune"):
        set_mode(world, "diagonal", 1, silent)
    assert caplog.messages == [
        "approximate: mode 'diagonal' samples other tokens than the model was trained to"
    ]
    assert world.decoder.least_forwards == 6 + 3 * 1
    state = world.open(WorldStart("zoo", 3))
    shown = play(world, state, 20)
    assert shown[:1] == wanted[:1] and shown != wanted
    again = world.load(world.save(state))
    assert play(world, state, 16) == play(world, again, 16)
    set_mode(world, "diagonal", 6, silent)  # rows one after the other
    assert play(world, world.open(WorldStart("zoo", 3)), 20) == wanted
    world.rest()
    expected.rest()


# -- the worker -----------------------------------------------------------------------------------


def test_a_choice_is_made_once(tmp_path: Path) -> None:
    file, world = tmp_path / "mode", World(Decoder("jacobi", 1, 1))
    assert remembered("auto", file) == "auto"
    remember(world, "jacobi", file)
    assert not file.exists(), "who was told needs to remember nothing"
    remember(world, "auto", file)
    assert remembered("auto", file) == "jacobi"
    assert remembered("diagonal", file) == "diagonal"
    assert remembered("auto", None) == "auto"
    file.write_text("damaged")
    assert remembered("auto", file) == "auto"


def test_a_worker_says_what_its_world_cannot_do(tmp_path: Path) -> None:
    code, errors = ended(start_worker(f"ipc://{tmp_path}/s", world="procedural", mode="jacobi"))
    told = json.loads(errors.splitlines()[-1])
    assert code == 2 and told["message"] == "this world cannot be decoded in mode 'jacobi'"


def test_a_worker_goes_on_with_the_mode_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "mode").write_text("jacobi\n")
    gateway = Gateway(f"ipc://{tmp_path}/s")
    settings = {"world": "embedded", "mode": "auto", "autotune_cache": str(tmp_path / "mode")}
    process = start_worker(f"ipc://{tmp_path}/s", **settings, seats=1)
    try:
        assert gateway.until(Ready).mode == "jacobi"
    finally:
        process.terminate()
        ended(process)
        gateway.close()
