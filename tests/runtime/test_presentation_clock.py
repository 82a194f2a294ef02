import itertools
import random
from collections.abc import Iterable

import pytest

from worldbridge.runtime.presentation_clock import PresentationClock

PERIOD = 1000 / 15


def play(clock: PresentationClock, step_ms: Iterable[float]) -> tuple[list[float], list[float]]:
    """(starts, ends) of steps that take this long, each begun when the clock says so."""
    now = 5000.0
    clock.restart(now)
    starts, ends = [], []
    for duration in step_ms:
        now = max(now, clock.next_start_ms())
        starts.append(now)
        now += duration
        clock.stepped(starts[-1], now)
        ends.append(now)
    return starts, ends


def gaps(times: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(times)]


def test_a_fast_world_keeps_its_rate_without_drift() -> None:
    jitter = random.Random(1)
    _, ends = play(PresentationClock(15), (jitter.uniform(18, 24) for _ in range(1500)))
    assert ends[-1] - ends[100] == pytest.approx(1399 * PERIOD, abs=7)


def test_a_step_starts_as_late_as_its_slow_steps_allow() -> None:
    clock = PresentationClock(15, margin_ms=2)
    play(clock, [20.0, 30.0] * 100)
    assert clock.deadline_ms - clock.next_start_ms() == pytest.approx(32)


def test_a_single_outlier_does_not_make_every_later_step_start_early() -> None:
    clock = PresentationClock(15, margin_ms=2)
    play(clock, [*[20.0] * 100, 60.0, *[20.0] * 50])
    assert clock.deadline_ms - clock.next_start_ms() == pytest.approx(22)


def test_after_a_stall_frames_go_on_evenly_without_a_burst() -> None:
    _, ends = play(PresentationClock(15), [*[20.0] * 50, 900.0, *[20.0] * 100])
    after = gaps(ends[50:])
    assert min(after) > PERIOD * 0.85
    assert max(after) < PERIOD * 1.15
    assert sum(after[15:45]) / 30 == pytest.approx(PERIOD, abs=0.1)


def test_a_small_delay_is_made_up_and_a_large_one_moves_the_schedule() -> None:
    clock = PresentationClock(10)
    clock.restart(0.0)
    clock.stepped(0.0, 40.0)
    assert (clock.deadline_ms, clock.stalls) == (100.0, 0)
    clock.stepped(100.0, 170.0)
    assert (clock.deadline_ms, clock.stalls) == (270.0, 1)


def test_a_slow_world_runs_free() -> None:
    starts, ends = play(PresentationClock(15), [80.0] * 100)
    assert starts[1:] == ends[:-1]


def test_a_slow_spell_is_not_followed_by_a_burst() -> None:
    _, ends = play(PresentationClock(15), [*[200.0] * 40, *[10.0] * 200])
    assert min(gaps(ends[40:])) > PERIOD * 0.85  # only the first quick one follows its slow one
    assert sum(gaps(ends[60:150])) / 89 == pytest.approx(PERIOD, abs=0.5)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan")])
def test_a_rate_must_be_positive(fps: float) -> None:
    with pytest.raises(ValueError, match="positive frame rate"):
        PresentationClock(fps)


def test_a_shift_is_made_little_by_little_and_then_kept() -> None:
    clock = PresentationClock(30)
    _, before = play(clock, [10.0] * 50)
    due = clock.deadline_ms
    clock.shift(6.0)
    ends = []
    for _ in range(40):
        start = clock.next_start_ms()
        clock.stepped(start, start + 10.0)
        ends.append(start + 10.0)
    assert clock.deadline_ms == pytest.approx(due + 40 * 1000 / 30 + 6.0)
    assert max(gaps([before[-1], *ends])) < 1000 / 30 + 0.6
    clock.shift(-1e6)  # never more than half a period
    due = clock.deadline_ms
    for _ in range(60):
        start = clock.next_start_ms()
        clock.stepped(start, start + 10.0)
    assert clock.deadline_ms == pytest.approx(due + 60 * 1000 / 30 - 500 / 30)


def test_another_period_counts_from_the_next_frame_on() -> None:
    clock = PresentationClock(20)
    clock.restart(0.0)
    clock.stepped(0.0, 1.0)
    clock.set_period(80.0)
    assert clock.deadline_ms == 50.0, "what is due next stays"
    clock.stepped(48.0, 50.0)
    assert clock.deadline_ms == 130.0
    clock.set_period(80.0)
    clock.stepped(128.0, 130.0)
    assert (clock.deadline_ms, clock.stalls) == (210.0, 0)
