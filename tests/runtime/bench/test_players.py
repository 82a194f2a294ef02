"""How many players: of a model with random weights."""

from __future__ import annotations

import pytest
import torch

from tests.runtime.bench.test_decode import CONFIG, quiet
from worldbridge.models.tokenizer import TokenizerConfig
from worldbridge.models.world_folder import World
from worldbridge.runtime.bench import players
from worldbridge.runtime.bench.presets import random_world


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
    first, second = result["by_players"]
    assert first["frames_per_second_each"] > second["frames_per_second_each"] > 0
    assert result["ms_per_further_player"] == pytest.approx(
        second["ms_per_step"]["p50"] - first["ms_per_step"]["p50"], abs=0.011
    )


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="no preset 'cosmos-5'"):
        players.bench_players(
            preset="cosmos-5", most=1, quick=True, threads=1, device="cpu", progress=quiet
        )
