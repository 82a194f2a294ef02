"""The benchmarks that measure time, run as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_convert import CLI, TOKENIZER, _checkpoint


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worldbridge", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=170)


def _bench(*arguments: str) -> dict[str, Any]:
    done = _run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_all_decode_modes_draw_the_same_tokens(tmp_path: Path) -> None:
    out = tmp_path / "decode.json"
    result = _bench("decode", "--quick", "--out", str(out))
    assert json.loads(out.read_text()) == result
    modes = {mode["name"]: mode for mode in result["modes"]}
    assert {"sequential", "diagonal", "plain"} <= modes.keys()
    for mode in modes.values():
        assert mode["exact"] and mode["identical_to_sequential"], mode["name"]
        forward = mode["ms_per_forward"]
        assert 0 < forward["p10"] <= forward["p50"] <= forward["p90"]
        tokens = mode["tokens_per_forward"] * mode["forwards_per_latent"]
        assert tokens == pytest.approx(160, rel=0.01)
    assert result["trained"] is True and result["baseline"] == "plain"
    assert modes["sequential"]["forwards_per_latent"] == 160
    assert modes["plain"]["forwards_per_latent"] == 160 and modes["plain"]["times_plain"] == 1
    assert modes["diagonal"]["times_plain"] > 3
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
    assert result["ms_per_frame_per_further_player"] > 0 and result["frames_per_latent"] == 1
    carried = result["players_at_that_rate"]
    assert carried == sum(rate >= result["frames_per_second_of_the_world"] for rate in rates)


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_a_converted_world_is_measured(tmp_path: Path) -> None:
    world = tmp_path / "tiny-world"
    source = _checkpoint(tmp_path / "source")
    convert = [*CLI, "convert", str(source), "--tokenizer", str(TOKENIZER), "--out", str(world)]
    subprocess.run(convert, check=True, capture_output=True, timeout=120)
    # the model has seen three latents: two, and the one that is drawn
    result = _bench(
        "decode",
        "--world",
        str(world),
        "--quick",
        "--context-latents",
        "2",
        "--mode",
        "diagonal",
        "--mode",
        "jacobi",
        "--width",
        "4",
        "--width",
        "16",
        "--row-lag",
        "1",
        "--row-lag",
        "2",
        "--acceptance",
        "4",
    )
    modes = {mode["name"]: mode for mode in result["modes"]}
    assert list(modes) == [
        "sequential",
        "jacobi W=4",
        "jacobi",
        "diagonal k=1",
        "diagonal",
        "plain",
    ]
    [at] = modes["jacobi W=4"]["frames_per_second_at"]
    assert at["tokens_per_forward"] == 4 and at["frames_per_second"] > 0
    assert modes["sequential"]["exact"] and modes["plain"]["identical_to_sequential"]
    assert not modes["diagonal"]["exact"]
    assert modes["diagonal"]["forwards_per_latent"] < modes["sequential"]["forwards_per_latent"]
    assert modes["plain"]["forwards_per_latent"] == 24 and result["context_tokens"] == 60
    # a checkpoint does not say whether and how it was trained
    assert result["trained"] is None and result["context_latents"] == 2
    wrong = _run("decode", "--world", str(world), "--context-latents", "3")
    assert wrong.returncode == 2
    assert "--context-latents from 1 to 2, got 3" in " ".join(wrong.stderr.split())
