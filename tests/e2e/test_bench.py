"""The benchmarks, run as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def _bench(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "worldbridge.cli", "bench", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_all_decode_modes_draw_the_same_tokens(tmp_path: Path) -> None:
    out = tmp_path / "decode.json"
    result = _bench("decode", "--quick", "--out", str(out))
    assert json.loads(out.read_text()) == result
    modes = {mode["name"]: mode for mode in result["modes"]}
    assert {"sequential", "diagonal"} <= modes.keys()
    for mode in modes.values():
        assert mode["exact"] and mode["identical_to_sequential"], mode["name"]
        forward = mode["ms_per_forward"]
        assert 0 < forward["p10"] <= forward["p50"] <= forward["p90"]
        tokens = mode["tokens_per_forward"] * mode["forwards_per_latent"]
        assert tokens == pytest.approx(160, rel=0.01)
    assert modes["sequential"]["forwards_per_latent"] == 160
    assert modes["sequential"]["times_sequential"] == 1
    # 10 rows of 16 tokens, each row one step behind the row above
    assert modes["diagonal"]["forwards_per_latent"] == 25
    assert modes["diagonal"]["frames_per_second"] > 3 * modes["sequential"]["frames_per_second"]
    assert result["environment"]["processor"]
    assert result["measured_read_bandwidth_gb_s"] > 0.2


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_every_further_player_costs_time() -> None:
    result = _bench("players", "--quick", "--most", "3", "--world", "procedural")
    rates = [row["frames_per_second_each"] for row in result["by_players"]]
    assert [row["players"] for row in result["by_players"]] == [1, 2, 3]
    assert rates[0] > rates[2] > 0
    assert result["ms_per_further_player"] > 0
    carried = result["players_at_that_rate"]
    assert carried == sum(rate >= result["frames_per_second_of_the_world"] for rate in rates)
