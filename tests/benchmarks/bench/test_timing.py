import time

import pytest
import torch

from worldbridge.benchmarks.timing import Laps, percentiles, read_bandwidth


def test_percentiles_of_many_and_of_one() -> None:
    assert percentiles([float(i) for i in range(101)]) == {"p10": 10.0, "p50": 50.0, "p90": 90.0}
    assert percentiles([3.0]) == {"p10": 3.0, "p50": 3.0, "p90": 3.0}


def test_laps_are_the_times_between_marks() -> None:
    laps = Laps(torch.device("cpu"))
    for _ in range(3):
        laps.mark()
        time.sleep(0.02)
    taken = laps.take()
    assert len(taken) == 2 and all(lap >= 19.9 for lap in taken)
    assert laps.take() == []


def test_memory_is_read_at_a_plausible_speed() -> None:
    assert 0.2e9 < read_bandwidth(torch.device("cpu"), quick=True) < 2e12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_laps_on_a_gpu_are_those_of_its_stream() -> None:
    laps = Laps(torch.device("cuda"))
    x = torch.randn(4096, 4096, device="cuda")
    laps.mark()
    for _ in range(20):
        x = x @ x
    laps.mark()
    [lap] = laps.take()
    assert lap > 1.0
