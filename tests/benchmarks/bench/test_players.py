"""How many players: of a model with random weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.benchmarks.bench.test_decode import CONFIG, quiet
from tests.runtime.test_capacity import Clock, LatentWorld
from worldbridge.benchmarks.decode import players
from worldbridge.benchmarks.decode.players import Forwards
from worldbridge.benchmarks.decode.presets import random_world
from worldbridge.models.checkpoint import World
from worldbridge.models.tokenizer import TokenizerConfig
from worldbridge.runtime.decoding import capacity
from worldbridge.runtime.decoding.drafts import DraftCounts
from worldbridge.runtime.errors import ModeError, SeatsError, WeightDtypeError
from worldbridge.runtime.worlds import cosmos as cosmos_world


def small(name: str, device: torch.device, dtype: torch.dtype) -> World:
    tokenizer = TokenizerConfig(channels=32, z_channels=4, levels=(4, 4, 5, 3), embedding_dim=4)
    return random_world(name, CONFIG, tokenizer, 3, device, dtype)


def test_a_preset_is_stepped_like_a_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(players, "preset_world", small)  # the published shapes fill 16 GB
    result = players.bench_players(
        preset="cosmos-4b-320p", most=2, quick=True, threads=1, device="cpu", progress=quiet
    )
    assert result["world"] == "cosmos-4b-320p" and result["weights"] == "random"
    assert result["gpu"] is None and result["frames_per_second_of_the_world"] == 25
    assert result["frames_per_latent"] == 8 and result["latents"] == 3
    assert "beside the next latent's tokens" in result["method"] and result["diagonal"] is None
    first, second = result["by_players"]
    assert first["frames_per_second_each"] > second["frames_per_second_each"] > 0
    # with eight pictures a latent, seven steps of eight only hand theirs out
    assert second["ms_per_step"]["p10"] > first["ms_per_step"]["p10"] > 0.2


@pytest.mark.parametrize("pictures", [1, 8])
@pytest.mark.parametrize("quick", [True, False])
def test_what_a_player_costs_is_what_its_latents_cost(
    monkeypatch: pytest.MonkeyPatch, pictures: int, quick: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr(capacity, "time", clock)
    world = LatentWorld(clock, pictures=pictures, fps=20, ms_a_latent=24, ms_a_player=16 * pictures)
    monkeypatch.setattr(players, "open_world", lambda *given, **named: world)
    result = players.bench_players(
        "latents", most=4, quick=quick, threads=1, device="cpu", progress=quiet
    )
    assert (
        result["latents"]
        == {(1, True): 12, (1, False): 45, (8, True): 3, (8, False): 8}[pictures, quick]
    )
    assert result["ms_per_frame_per_further_player"] == pytest.approx(16.0)
    for count, row in enumerate(result["by_players"], start=1):
        step = 24 / pictures + 16 * count
        assert list(row["ms_per_step"].values()) == pytest.approx([step] * 3, abs=0.01)
        assert row["frames_per_second_each"] == pytest.approx(1000 / step, abs=0.01)
    assert result["players_at_that_rate"] == (1 if pictures == 1 else 2)  # 50 ms


def test_guesses_that_are_right_more_often_leave_out_forwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(players, "preset_world", small)
    result = players.bench_players(
        preset="cosmos-4b-320p",
        most=2,
        quick=False,
        threads=1,
        device="cpu",
        mode="medusa",
        acceptances=(1.0, 3.0, 5.0),
        progress=quiet,
    )
    for row in result["by_players"]:
        one, three = row["frames_per_second_at"]  # three heads: no forward draws five
        assert (one["tokens_per_forward"], three["tokens_per_forward"]) == (1, 3)
        assert 1 < row["forwards_per_latent"] <= 12 and row["ms_per_forward"]["p50"] > 0
        saved = 8 / one["frames_per_second"] - 8 / three["frames_per_second"]
        assert saved == pytest.approx(8 * row["ms_per_forward"]["p50"] / 1000, rel=0.05)
    assert [at["tokens_per_forward"] for at in result["players_at"]] == [1, 3]


def test_forwards_are_replaced_at_their_median() -> None:
    class Decoder:
        between = staticmethod(lambda: None)
        counts = DraftCounts()

    forwards = Forwards(SimpleNamespace(decoder=Decoder()), torch.device("cpu"))  # type: ignore[arg-type]
    forwards._times = [2.0, 2.0, 2.0, 50.0]
    forwards._counted = [100, 100 + 2 * 10, 100 + 4 * 10]
    assert forwards.a_latent(sessions=2) == 10
    assert forwards.latent_ms_at(100.0, 2, tokens=12, tokens_per_forward=4) == 100 - 7 * 2.0
    assert forwards.latent_ms_at(100.0, 2, tokens=12, tokens_per_forward=1.2) == pytest.approx(100)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"mode": "sequential", "acceptances": (4.24,)}, ValueError, "got sequential; choose one"),
        ({"mode": "jacobi", "acceptances": (0.5,)}, ValueError, "from 1 to 12, got 0.5"),
        ({"mode": "jacobi", "diagonal": 1}, ModeError, "does not fit the decode mode"),
        ({"weights": "bf16"}, ValueError, "bf16 for one in torch.float32"),
        ({"weights": "fp8"}, WeightDtypeError, "only kernels on a GPU read fp8"),
    ],
)
def test_what_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    monkeypatch.setattr(players, "preset_world", small)
    options = {"most": 1, "quick": True, "threads": 1, "device": "cpu", "progress": quiet}
    with pytest.raises(error, match=said):
        players.bench_players(preset="cosmos-4b-320p", **(options | changes))


def test_the_diagonal_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(players, "preset_world", small)
    result = players.bench_players(
        preset="cosmos-4b-320p",
        most=1,
        quick=True,
        threads=1,
        device="cpu",
        mode="diagonal",
        diagonal=1,
        progress=quiet,
    )
    assert (result["mode"], result["diagonal"]) == ("diagonal", 1)
    assert "frames_per_second_at" not in result["by_players"][0]


def test_more_players_than_the_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(players, "preset_world", small)
    monkeypatch.setattr(cosmos_world, "places_that_fit", lambda wanted, *rest: min(wanted, 3))
    options: dict[str, Any] = {"quick": True, "threads": 1, "device": "cpu", "progress": quiet}
    with pytest.raises(SeatsError, match="does not hold so many players") as said:
        players.bench_players(preset="cosmos-4b-320p", most=3, **options)
    assert "at most 2" in said.value.expected and "ask for 2" in said.value.remedy


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="no preset 'cosmos-5'"):
        players.bench_players(
            preset="cosmos-5", most=1, quick=True, threads=1, device="cpu", progress=quiet
        )
