"""The README's tables, from results."""

import re
from typing import Any

import pytest

from worldbridge.benchmarks import readme

ENVIRONMENT = {"date": "2026-01-02", "gpu": None, "cores": 2, "processor": "Test CPU"}
BLOCKS = "".join(
    f"<!-- begin:{name} -->\nold\n<!-- end:{name} -->\n"
    for name in re.findall(r"<!-- begin:(\w+) -->", readme.README.read_text())
)
TRAINING = {
    "pictures": 4800,
    "frames_of_play": 23040,
    "tokenizer_steps": 12056,
    "tokenizer_minutes": 40.0,
    "transformer_steps": 5625,
    "transformer_minutes": 62.0,
}
HEADS = {
    "heads_steps": 512,
    "heads_minutes": 7.0,
    "network_nats_before_heads": 2.3124,
    "network_nats_with_heads": 2.2871,
}
DRAFTS = {
    "tokens_per_forward": 2.345,
    "forwards_per_latent": 68.23,
    "latents": 100,
    "same_latents": 1.0,
}


def quality(monkeypatch: pytest.MonkeyPatch, **more: Any) -> str:
    values = {name: 1.0 for name, _, _ in readme.MEASURES}
    values |= {"steepness": {"3": 0.5, "10": 0.25}, "real": {"steepness": {"3": 0.9}}}
    result = {"environment": ENVIRONMENT, "quality": values | {"scenes": "some"} | more}
    monkeypatch.setattr(readme, "read_results", lambda name: [result] * name.startswith("quality"))
    return readme.render(BLOCKS)


def test_drafts_have_a_table_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    medusa = DRAFTS | {"acceptance_per_head": [0.711, 0.402, 0.2]}
    text = quality(monkeypatch, medusa=medusa, jacobi=DRAFTS, training=TRAINING | HEADS)
    assert "| `medusa` | 2.35 | 68.2 | 0.711, 0.402, 0.200 | 100% of 100 |" in text
    assert "| `jacobi` | 2.35 | 68.2 | - | 100% of 100 |" in text
    assert "7 minutes (512 steps)" in text and "from 2.312 to 2.287 nats" in text
    again = HEADS | {"network_nats_with_heads": 2.3124}
    assert "were restored afterwards" in quality(monkeypatch, training=TRAINING | again)


def test_measures_stand_beside_those_of_real_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    text = quality(monkeypatch)
    assert "| steepness of edges (1: hard, 0.13: a ramp), 3 s | 0.50 | 0.90 | >= 0.6 |" in text
    assert "| steepness of edges (1: hard, 0.13: a ramp), 10 s | 0.25 | - | >= 0.6 |" in text


def test_a_world_without_heads_says_nothing_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = quality(monkeypatch, training=TRAINING)
    assert "medusa" not in text.lower() and "12,056 steps" in text


def tables(monkeypatch: pytest.MonkeyPatch, **results: list[dict[str, Any]]) -> str:
    """All blocks, from results by their names with _ for -."""
    named = {name.replace("_", "-"): found for name, found in results.items()}
    monkeypatch.setattr(readme, "read_results", lambda name: named.get(name, []))
    return readme.render(BLOCKS)


def decoded(**changes: Any) -> dict[str, Any]:
    mode = {
        "name": "sequential",
        "exact": True,
        "identical_to_sequential": True,
        "ms_per_forward": {"p10": 1.0, "p50": 2.345, "p90": 3.0},
        "forwards_per_latent": 160.0,
        "frames_per_second": 2.71,
        "times_plain": 1.234,
        "percent_of_measured_bandwidth": 12.3,
        "percent_of_datasheet": None,
    }
    drafting = mode | {"name": "medusa", "identical_to_sequential": False, "exact": True}
    result = {"environment": ENVIRONMENT, "world": "some", "trained": True}
    return result | {"modes": [mode, drafting]} | changes


def test_decode_modes_stand_beside_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    text = tables(monkeypatch, decode=[decoded()])
    assert (
        "| 2 cores of Test CPU | some, sequential | yes | yes | 2.35 | 160.0 | 2.7 | 1.23 "
        "| 12 / - |" in text
    )
    assert "| some, medusa | yes | no | 2.35 | 160.0 | 2.7 |" in text
    assert text.count("On a GPU: not yet measured.") == 2  # modes, kernels


def test_random_weights_say_nothing_of_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = ENVIRONMENT | {"gpu": "NVIDIA H200"}
    random = decoded(
        environment=on_gpu,
        trained=False,
        note="random weights: only times count",
        precision="fp8",
        baseline="published",
    )
    random["modes"][0]["percent_of_datasheet"] = 61.4
    text = tables(monkeypatch, decode=[decoded()], decode_fp8=[random])
    assert "| NVIDIA H200 | some, sequential (random weights, fp8) | yes | yes | 2.35 |" in text
    assert "| 12 / 61 |" in text
    assert "| some, medusa (random weights, fp8) | yes | no | 2.35 | - | - | - | 12 / - |" in text
    assert "Random weights: only times count." in text
    assert text.count("On a GPU: not yet measured.") == 1  # kernels


def test_a_stated_acceptance_stands_for_random_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    at = [{"tokens_per_forward": 4.24, "frames_per_second": 24.12}]
    random = decoded(trained=False, baseline="published")
    random["modes"] = [
        mode | {"name": name, "frames_per_second_at": at}
        for name, mode in zip(("jacobi W=64", "medusa"), random["modes"], strict=True)
    ]
    random["modes"].append(random["modes"][0] | {"name": "diagonal k=1"})
    text = tables(monkeypatch, decode=[random])
    for name in ("jacobi W=64", "medusa"):
        assert f"| some, {name} (random weights) |" in text
    assert text.count("| 2.35 | - | 24.1 at 4.24 tokens per forward | - | 12 / - |") == 2
    assert "| some, diagonal k=1 (random weights) | yes | yes | 2.35 | 160.0 | 2.7 |" in text


def test_kernels_of_one_forward_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = {
        "kernel": "skinny_gemm",
        "what": "down",
        "weights": "fp8",
        "shape": {"rows": 10, "n": 4096, "k": 14336},
        "ms": {"p50": 0.0171},
        "gb_per_second": 3456.7,
        "percent_of_measured_bandwidth": 81.2,
        "percent_of_datasheet": 72.0,
        "baselines": [{"name": "torch", "times_ours": 1.456}],
        "error": {"ours": 1.9e-3, "torch": 2.1e-3},
    }
    others = [
        case | {"what": "not shown", "shape": {"rows": 64}},
        case | {"what": "of eight", "shape": {"batch": 8, "tokens": 10}},
        case | {"kernel": "medusa_heads", "what": "heads", "shape": {"rows": 1}},
        case | {"what": "frames", "shape": {"times": 2}, "percent_of_datasheet": None},
    ]
    result = {"environment": ENVIRONMENT | {"gpu": "NVIDIA H200"}, "cases": [case, *others]}
    text = tables(monkeypatch, kernels=[result])
    assert (
        "| NVIDIA H200 | skinny_gemm, down | rows 10, n 4,096, k 14,336 | fp8 | 17.1 | 3,457 "
        "| 81 / 72 | 1.46 | 2e-03 / 2e-03 |" in text
    )
    assert "medusa_heads, heads" in text and "| 81 / - |" in text
    assert "not shown" not in text and "of eight" not in text


def test_the_cost_of_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "new_share": 0.304,
        "processor_ms": {"p10": 90.0, "p50": 95.6, "p90": 99.0},
        "frames_per_second_of_a_core": 10.46,
    }
    text = tables(monkeypatch, world=[{"environment": ENVIRONMENT, "rows": [row]}])
    assert "| 2 cores of Test CPU | 30% | 96 | 10.5 |" in text


def test_one_more_player_has_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    result = {
        "environment": ENVIRONMENT,
        "world": "some",
        "frames_per_second_of_the_world": 15.0,
        "ms_per_frame_per_further_player": 20.57,
        "mode": "diagonal",
        "weights": "the world's",
        "by_players": [{"players": 1, "frames_per_second_each": 9}],
    }
    text = tables(monkeypatch, players=[result])
    assert "Frames/s of each player of some, mode diagonal, on 2 cores of Test CPU," in text
    assert "1: 9.0 (the world's rate is 15). One more player costs 20.6 ms per frame." in text
    alone = tables(monkeypatch, players=[result | {"ms_per_frame_per_further_player": None}])
    assert "(the world's rate is 15).\n" in alone
    rendered = tables(monkeypatch, players=[result | {"mode": None}])
    assert "player of some, on 2 cores" in rendered


def test_players_are_reported_for_every_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    at = [{"tokens_per_forward": 4.24, "frames_per_second": 31.2}]
    row = {"players": 1, "frames_per_second_each": 9.0, "frames_per_second_at": at}
    result = {
        "environment": ENVIRONMENT,
        "world": "some",
        "frames_per_second_of_the_world": 25.0,
        "ms_per_frame_per_further_player": 2.57,
        "weights": "random",
        "by_players": [row],
        "mode": "medusa",
    }
    plain = {"by_players": [{"players": 1, "frames_per_second_each": 9.0}]}
    text = tables(
        monkeypatch,
        players_medusa=[result],
        players_sequential=[result | plain | {"mode": "sequential"}],
        players_diagonal_k1=[result | plain | {"mode": "diagonal", "diagonal": 1}],
    )
    assert "mode sequential, on 2 cores of Test CPU, by the number of players: 1: 9.0 (" in text
    assert "mode diagonal k=1, on" in text and text.count("costs 2.6 ms per frame") == 2
    # what random heads cost is said for the acceptance that was stated, and for no other
    assert "mode medusa, on 2 cores" in text
    assert "1: 31.2 at 4.24 tokens per forward (the world's rate is 25).\n" in text


def test_the_readme_is_up_to_date() -> None:
    text = readme.README.read_text()
    assert readme.render(text) == text, "run python -m worldbridge.benchmarks.readme"


def test_lines_and_inputs_have_a_table_each(monkeypatch: pytest.MonkeyPatch) -> None:
    ms = {"p50": 20.0, "p95": 80.26, "p99": 120.0}
    line = {
        "frames_per_second": 29.96,
        "longest_pause_ms": 140.2,
        "input_to_photon_ms": ms,
        "frame_after_outage_ms": None,
    }
    result = {
        "environment": ENVIRONMENT,
        "lines": {"300_kbit": line, "lan": line | {"frame_after_outage_ms": 290.4}},
        "inputs": {"ordered": {"delivered_percent": 100.0, "sent_to_gateway_ms": ms}},
    }
    monkeypatch.setattr(readme, "read_results", lambda name: [result] * (name == "network"))
    text = readme.render(BLOCKS)
    times = "20.0 / 80.3 / 120.0"
    assert f"| 300 kbit/s, 50 ms | 30.0 | 140 | {times} | - |" in text
    assert f"| LAN | 30.0 | 140 | {times} | 290 |" in text
    assert f"| ordered | 100% | {times} |" in text
