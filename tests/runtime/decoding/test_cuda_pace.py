"""When steps are enqueued: never one that may be useless, and the device hardly ever waits."""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("triton", reason="needs triton: pip install triton")

from worldbridge.runtime.decoding.executors.cuda.graphs import DispatchPacer, Reports, buckets_of


def play(pace: DispatchPacer, gains: list[int]) -> tuple[list[int], int, int]:
    """A device whose step i gives gains[i] tokens: groups, steps done, times it had to wait."""
    groups: list[int] = []
    under_way: list[int] = []  # groups
    done = waits = 0
    left = pace.left
    while not pace.finished:
        steps = pace.next_group()
        if steps:
            groups.append(steps)
            under_way.append(steps)
            continue
        ran = under_way.pop(0)
        for _ in range(ran):
            left = max(0, left - gains[min(done, len(gains) - 1)])
            done += 1
        waits += not under_way  # nothing was left to do while the host read the report
        pace.report(left)
    return groups, done + sum(under_way), waits


@pytest.mark.parametrize("seed", range(20))
def test_no_step_is_for_nothing(seed: int) -> None:
    choose = random.Random(seed)
    size, width = choose.randint(1, 700), choose.choice([1, 2, 10, 16, 64])
    gains = [choose.randint(1, width) for _ in range(size)]
    needed, left = 0, size
    while left > 0:
        left -= gains[needed]
        needed += 1
    group = choose.randint(1, 9)
    groups, steps, _ = play(DispatchPacer(size, width, group=group), gains)
    assert steps == needed and max(groups) <= group


def test_sequential_decoding_never_waits() -> None:
    groups, steps, waits = play(DispatchPacer(640, 1, group=8), [1])
    assert steps == 640 and len(groups) >= 80
    assert waits == 1  # the last one


def test_the_device_waits_only_near_the_end() -> None:
    """640 tokens at 4 of at most 10 a step: 160 steps, of which the last few are uncertain."""
    groups, steps, waits = play(DispatchPacer(640, 10, group=8), [4])
    assert steps == 160 and waits <= 6
    assert groups[0] == 8 and groups[-1] == 1


def test_steps_ahead_trade_useless_steps_for_no_waiting() -> None:
    _, steps, waits = play(DispatchPacer(640, 10, group=8, ahead=2), [4])
    assert 160 < steps <= 164 and waits <= 1


def test_a_latent_of_one_token() -> None:
    pace = DispatchPacer(1, 16)
    assert (pace.next_group(), pace.next_group()) == (1, 0)
    pace.report(0)
    assert pace.finished and pace.next_group() == 0


def test_reports_that_cannot_be_are_errors() -> None:
    for left in (10, 11, -1):
        pace = DispatchPacer(10, 4)
        assert pace.next_group() == 2
        with pytest.raises(RuntimeError, match="expected at least one token per step"):
            pace.report(left)
    for wrong in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            DispatchPacer(*wrong)
    with pytest.raises(ValueError, match="at least 1"):
        DispatchPacer(1, 1, group=0)


def test_buckets_waste_less_than_a_third() -> None:
    assert buckets_of(1) == (1,)
    assert buckets_of(5) == (1, 2, 3, 4, 5)
    assert buckets_of(16) == (1, 2, 3, 4, 6, 8, 12, 16)
    for sessions in range(1, 65):
        bucket = next(b for b in buckets_of(64) if b >= sessions)
        assert (bucket - sessions) / bucket < 1 / 3


def test_reports_are_of_their_time_and_in_order() -> None:
    done = torch.tensor([1, 2, 9])
    reports = Reports(done, most=2)
    reports.note(2)
    done += 3
    reports.note(3)
    with pytest.raises(RuntimeError, match="2 reports are under way"):
        reports.note(1)
    assert list(reports.read()) == [1, 2]
    assert list(reports.read()) == [4, 5, 12]
    reports.note(1)
    reports.forget()
    done += 1
    reports.note(1)
    assert list(reports.read()) == [5]
