"""Frames end up a little before the display's refreshes, whatever phase they began with."""

import random

import pytest

from worldbridge.bridge.gateway.latency import VsyncAligner

REFRESH = 1000 / 60


class Display:
    """Shows frames at its refreshes: those that arrive at least `needed` ms before."""

    def __init__(
        self, lock: VsyncAligner, phase: float, jitter: float, needed: float = 2.5
    ) -> None:
        self.lock, self.phase, self.jitter, self.needed = lock, phase, jitter, needed
        self.random = random.Random(3)
        self.refresh = REFRESH
        self.drift = 0.0

    def play(self, frames: int) -> list[float]:
        waits = []
        for _ in range(frames):
            self.phase += self.drift
            arrival = self.phase + self.random.gauss(0, self.jitter)
            wait = (-arrival - self.needed) % self.refresh + self.needed
            waits.append(wait)
            self.phase += self.lock.seen(wait, self.refresh) or 0.0
        return waits


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * len(values))]


@pytest.mark.parametrize("phase", [0.0, 3.0, 8.0, 12.0, 14.5, 16.0])
def test_any_phase_is_locked(phase: float) -> None:
    display = Display(VsyncAligner(), phase, jitter=0.8)
    display.play(100)
    waits = display.play(300)
    assert percentile(waits, 0.5) < 7
    assert percentile(waits, 0.95) < 9


def test_unlocked_frames_would_have_waited_longer() -> None:
    waits = Display(VsyncAligner(), 14.5, jitter=0.8).play(9)  # one too few for a judgement
    assert percentile(waits, 0.9) > 15


def test_unsteady_frames_are_given_more_time() -> None:
    steady, unsteady = Display(VsyncAligner(), 5.0, 0.3), Display(VsyncAligner(), 5.0, 2.2)
    for display in (steady, unsteady):
        display.play(2000)
    assert unsteady.lock.target_ms > steady.lock.target_ms + 1
    late = [w > REFRESH for w in unsteady.play(500)]
    assert sum(late) < 0.12 * len(late)


@pytest.mark.parametrize("seed", range(3))
def test_one_frame_in_a_hundred_at_most_misses_its_refresh(seed: int) -> None:
    display = Display(VsyncAligner(), 9.0, jitter=0.6)
    display.random.seed(seed)
    display.play(600)
    waits = display.play(6000)
    print(f"p50 {percentile(waits, 0.5):.1f} ms, p99 {percentile(waits, 0.99):.1f} ms")
    assert percentile(waits, 0.99) < 8.5


def test_a_display_that_runs_a_little_fast_is_followed() -> None:
    display = Display(VsyncAligner(), 5.0, 0.5)
    display.drift = 0.05
    display.play(300)
    assert percentile(display.play(300), 0.95) < 10


def test_frames_without_a_common_phase_are_left_alone() -> None:
    lock, chance = VsyncAligner(), random.Random(1)
    assert all(lock.seen(chance.uniform(0, 3 * REFRESH), REFRESH * 3) is None for _ in range(9))
    shifts = [lock.seen((i % 2) * REFRESH / 2 + 3, REFRESH) for i in range(200)]
    assert shifts[20:] == [None] * 180  # 24 frames a second on 60 refreshes: two phases in turn


@pytest.mark.parametrize("wait", [-1.0, 1e12, 100.0])
def test_stalls_and_nonsense_do_not_count(wait: float) -> None:
    lock = VsyncAligner()
    assert [lock.seen(wait, REFRESH) for _ in range(100)] == [None] * 100


def test_a_shift_is_never_more_than_half_a_period() -> None:
    for refresh in (1.0, 1000 / 144, 16.7, 1000.0):
        for phase in range(20):
            lock = VsyncAligner()
            for _ in range(30):
                shift = lock.seen(refresh * phase / 20, refresh)
                assert shift is None or abs(shift) <= refresh / 2
                assert 0 < lock.target_ms <= max(5.0, 0.6 * refresh)
