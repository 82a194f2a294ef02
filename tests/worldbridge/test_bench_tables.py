"""What `worldbridge bench decode` prints, of a result as a GPU would give it."""

from __future__ import annotations

import copy
from typing import Any

from rich.console import Console

from worldbridge.cli.bench_tables import decode_table, players_table


def mode(name: str, **changes: Any) -> dict[str, Any]:
    own = {
        "name": name,
        "exact": True,
        "tokens_as_sequential": 1.0,
        "rows_per_forward": 64,
        "ms_per_forward": {"p10": 2.117, "p50": 2.152, "p90": 12.253},
        "tokens_per_latent": 640,
        "tokens_per_forward": 1.123,
        "forwards_per_latent": 641.0,
        "frames_per_second": 123.456,
        "times_plain": 13.577,
        "gb_per_forward": 7.712345,
        "gb_per_second": 3587.123,
        "percent_of_measured_bandwidth": 83.2,
        "percent_of_datasheet": 74.7,
    }
    return own | changes


def three(value: float) -> dict[str, float]:
    return {"p10": value - 15, "p50": value, "p90": value}


RESULT: dict[str, Any] = {
    "environment": {
        "processor": "Some CPU",
        "cores": 8,
        "python": "3.12.3",
        "packages": {"torch": "2.11.0+cu128", "triton": "3.6.0", "numpy": "2.4.0"},
        "gpu_state": {
            "samples": 9,
            "at_work": True,
            "driver": "570.86.15",
            "most_sm_clock_mhz": 1980.0,
            "sm_clock_mhz": three(1905.0),
            "memory_clock_mhz": three(3201.0),
            "power_w": three(622.0),
            "power_limit_w": three(700.0),
        },
    },
    "threads": 4,
    "world": "cosmos-4b-320p",
    "parameters": 4_014_000_000,
    "trained": False,
    "note": "random weights: " + "only times count, and so on, for as long as a note may be " * 3,
    "precision": "fp8",
    "batch": 1,
    "context_latents": 4,
    "context_tokens": 2880,
    "latents": 8,
    "gpu": {"name": "NVIDIA H200", "multiprocessors": 132, "memory_gib": 139.8, "cuda": "12.8"},
    "measured_read_bandwidth_gb_s": 4312.4,
    "datasheet_bandwidth_gb_s": 4800.0,
    "baseline": "published",
    "modes": [
        mode("sequential"),
        mode(
            "jacobi W=64",
            frames_per_second_at=[
                {"tokens_per_forward": 4.24, "frames_per_second": 24.123},
                {"tokens_per_forward": 13.6, "frames_per_second": 75.3},
            ],
        ),
        mode(
            "medusa",
            frames_per_second_at=[{"tokens_per_forward": 4.24, "frames_per_second": 24.567}],
        ),
        mode("diagonal k=1", exact=False, tokens_as_sequential=0.99996),
        mode("published", rows_per_forward=None),
    ],
}


def shown(result: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, record=True, color_system=None)
    with console.capture() as capture:
        console.print(decode_table(result))
    return capture.get()


def test_it_tells_where_it_was_measured() -> None:
    text = " ".join(shown(RESULT).split())
    for part in (
        "cosmos-4b-320p, random weights, 4,014 M parameters, read as fp8",
        "NVIDIA H200, 132 multiprocessors, 139.8 GiB, driver 570.86.15, CUDA 12.8",
        "SM 1905 MHz (1890 to 1905) of 1980, memory 3201 MHz, 622 of 700 W",
        "Python 3.12.3, torch 2.11.0+cu128, triton 3.6.0",
        "4,312 GB/s read, measured; 4,800 GB/s by the datasheet",
        "batch 1, 2,880 context tokens (4 latents), 640 tokens per latent, 8 latents",
        "speed-up: over published",
        "random weights: only times count",
    ):
        assert part in text, part


def test_nothing_is_cut_off_in_80_columns() -> None:
    text = shown(RESULT)
    assert "…" not in text and all(len(line) <= 80 for line in text.splitlines())
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "sequential yes 100% 2.12 / 2.15 / 12.25 123.46 13.58" in rows
    assert "sequential 64 1.12 641.0 7.71 3,587 83 75" in rows
    # not all of it: it is not called 100%
    assert "diagonal k=1 no 99.9% 2.12 / 2.15 / 12.25 123.46 13.58" in rows
    assert "published - 1.12 641.0 7.71 3,587 83 75" in rows


def test_a_stated_acceptance_has_a_table() -> None:
    rows = [" ".join(line.split()) for line in shown(RESULT).splitlines()]
    assert "frames/s at tokens per forward 4.24 13.6" in rows
    assert "jacobi W=64 24.12 75.30" in rows and "medusa 24.57 -" in rows
    plain = copy.deepcopy(RESULT)
    for said in plain["modes"]:
        said.pop("frames_per_second_at", None)
    assert "at tokens per forward" not in shown(plain)


def test_a_processor_has_no_clocks_and_no_peak() -> None:
    result = copy.deepcopy(RESULT) | {
        "gpu": None,
        "datasheet_bandwidth_gb_s": None,
        "context_latents": None,
        "trained": True,
        "precision": "model",
    }
    result["modes"] = [mode("sequential", percent_of_datasheet=None)]
    text = " ".join(shown(result).split())
    assert "processor Some CPU, 4 of 8 cores" in text and "clocks" not in text
    assert "2,880 context tokens, 640" in text and "datasheet" not in text
    assert "cosmos-4b-320p, 4,014 M parameters, read as the model's own type" in text


def test_clocks_that_nobody_reported_are_unknown() -> None:
    result = copy.deepcopy(RESULT)
    result["environment"]["gpu_state"] = {}
    text = shown(result)
    assert "driver unknown" in text and "nvidia-smi does not report them" in text
    idle = copy.deepcopy(RESULT)
    idle["environment"]["gpu_state"]["at_work"] = False
    assert "measured while idle" in " ".join(shown(idle).split())


def test_players_have_a_column_for_every_stated_acceptance() -> None:
    at = [{"tokens_per_forward": 4.24, "frames_per_second": 31.257}]
    row = {"players": 1, "ms_per_step": three(41.0), "frames_per_second_each": 9.125}
    result = {
        **RESULT,
        "frames_per_second_of_the_world": 25.0,
        "players_at_that_rate": 0,
        "ms_per_frame_per_further_player": 2.575,
        "mode": "diagonal",
        "diagonal": 1,
        "by_players": [row | {"frames_per_second_at": at}],
    }
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(players_table(result))
    text = " ".join(capture.get().split())
    assert "driver 570.86.15" in text and "mode diagonal k=1" in text
    assert "at 4.24 tokens" in text and "9.12 │ 31.26" in text
    assert "one more player costs 2.58 ms per frame" in text
