"""The rate control on simulated networks: 60 frames per second, a report every 100 ms."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import pytest

from worldbridge.benchmarks.impairment import LINKS, Impairment, Link
from worldbridge.bridge.media.rate import BitrateLimits, RateController, frame_divisor

FPS = 60
PACKET = 1200
REPORT_MS = 100.0
LIMITS = BitrateLimits()


class Simulation:
    """A sender whose encoder takes exactly its rate, or `demand` if that is less."""

    def __init__(self, link: Link, limits: BitrateLimits = LIMITS) -> None:
        self.down = Impairment(link)
        self.up = Impairment(Link(delay_ms=link.delay_ms))
        self.rate = RateController(limits, 0.0)
        self.now = 0.0
        self.demand = 1e9
        self.delays: list[tuple[float, float]] = []  # (sent at, ms on the way)
        self.skipped = 0
        self._number = 0
        self._unreported: list[tuple[int, float | None]] = []
        self._reports: list[tuple[float, list[tuple[int, float | None]]]] = []
        self._report_ms = 0.0

    def run(self, seconds: float) -> Iterator[float]:
        """Play, and yield the rate after each frame."""
        for _ in range(round(seconds * FPS)):
            self.now += 1000 / FPS
            self._report()
            if self.rate.congested(self.now):
                self.skipped += 1
            else:
                self._frame()
            yield self.rate.bitrate

    def play(self, seconds: float) -> float:
        """Play, and return the mean rate."""
        rates = list(self.run(seconds))
        return sum(rates) / len(rates)

    def worst_ms(self, seconds: float) -> float:
        """The 95th percentile of the delay within the last seconds."""
        recent = sorted(d for at, d in self.delays if at > self.now - seconds * 1000)
        return recent[int(len(recent) * 0.95)]

    def _frame(self) -> None:
        left = int(min(self.rate.bitrate, self.demand) / FPS / 8)
        while left > 0:
            size = min(left, PACKET)
            left -= size
            self._number += 1
            self.rate.sent(self._number, size, self.now)
            at = self.down.arrival(size, self.now / 1000)
            self._unreported.append((self._number, None if at is None else at * 1000 + 12_345.0))
            if at is not None:
                self.delays.append((self.now, at * 1000 - self.now))

    def _report(self) -> None:
        while self._reports and self._reports[0][0] <= self.now:
            self.rate.reported(heapq.heappop(self._reports)[1], self.now)
        if self.now - self._report_ms < REPORT_MS:
            return
        self._report_ms = self.now
        arrived = [n for n, at in self._unreported if at is not None and at - 12_345.0 <= self.now]
        if not arrived:
            return
        # as transport-wide feedback does: what is missing before the newest arrival is lost
        done = [p for p in self._unreported if p[0] <= max(arrived)]
        self._unreported = [p for p in self._unreported if p[0] > max(arrived)]
        at = self.up.arrival(100, self.now / 1000)
        if at is not None:
            heapq.heappush(self._reports, (at * 1000, done))


def test_a_good_network_gets_the_ceiling_and_keeps_it() -> None:
    simulation = Simulation(LINKS["wifi"])
    simulation.play(6)
    assert simulation.play(10) > 0.95 * LIMITS.ceiling
    assert simulation.skipped == 0


@pytest.mark.parametrize(("name", "capacity"), [("2mbit", 2e6), ("600kbit", 6e5), ("300kbit", 3e5)])
def test_a_slow_network_is_used_without_filling_its_queue(name: str, capacity: float) -> None:
    simulation = Simulation(LINKS[name])
    simulation.play(10)
    mean = simulation.play(30)
    queued = simulation.worst_ms(30) - LINKS[name].delay_ms
    print(f"{name}: {mean / 1e3:.0f} kbit/s, {queued:.0f} ms queued, skipped {simulation.skipped}")
    assert 0.55 * capacity < mean < capacity
    assert queued < 150


def test_random_loss_does_not_slow_the_stream() -> None:
    simulation = Simulation(LINKS["very_lossy"])
    simulation.play(10)
    assert simulation.play(20) > 0.6 * LIMITS.ceiling


def test_far_is_not_slow() -> None:
    simulation = Simulation(LINKS["far"])
    simulation.play(10)
    assert simulation.play(10) > 0.9 * LIMITS.ceiling


def test_a_network_that_polices_is_obeyed() -> None:
    """No queue: everything above the rate is lost."""
    simulation = Simulation(Link(delay_ms=10, rate_bps=1e6, queue_ms=8))
    simulation.play(10)
    assert 0.3e6 < simulation.play(20) < 1.3e6
    assert simulation.down.overflowed / simulation.down.sent < 0.3


def test_a_network_that_becomes_slow_and_fast_again() -> None:
    simulation = Simulation(LINKS["wifi"])
    simulation.play(10)
    simulation.down.link = LINKS["600kbit"]
    rates = list(simulation.run(1.5))
    assert rates[-1] < 700e3, "within 1.5 s"
    simulation.play(10)
    simulation.down.link = LINKS["wifi"]
    simulation.play(8)
    assert simulation.rate.bitrate > 2e6


def test_after_an_outage_the_stream_goes_on_as_before() -> None:
    simulation = Simulation(LINKS["lan"])
    simulation.play(10)
    before, sent = simulation.rate.bitrate, simulation.down.sent
    simulation.down.black_out(simulation.now / 1000, 2.0)
    simulation.play(2)
    assert simulation.down.sent - sent < 0.5 * sent / 10 * 2, "a silent network is only probed"
    simulation.play(1)
    assert simulation.rate.bitrate > 0.6 * before
    assert not simulation.rate.congested(simulation.now)


def test_an_idle_stream_proves_nothing() -> None:
    simulation = Simulation(LINKS["lan"])
    simulation.demand = 100e3
    simulation.play(20)
    assert simulation.rate.bitrate == LIMITS.start


def test_the_limits_hold() -> None:
    limits = BitrateLimits(start=900_000, floor=400_000, ceiling=1_000_000)
    slow = Simulation(LINKS["300kbit"], limits)
    assert min(slow.run(10)) == limits.floor
    fast = Simulation(LINKS["lan"], limits)
    assert max(fast.run(10)) == limits.ceiling


class TestWithoutPacketReports:
    def test_receiver_reports_of_much_loss_slow_and_of_none_speed_up(self) -> None:
        rate = RateController(LIMITS, 0.0)
        for second in range(1, 4):
            rate.receiver_report(0.3, 20.0, second * 1000.0)
        assert rate.bitrate < 0.5 * LIMITS.start
        low = rate.bitrate
        for second in range(4, 10):
            rate.receiver_report(0.0, 20.0, second * 1000.0)
        assert rate.bitrate > 1.5 * low

    def test_a_growing_round_trip_slows(self) -> None:
        rate = RateController(LIMITS, 0.0)
        rate.receiver_report(0.0, 20.0, 1000.0)
        rate.receiver_report(0.0, 300.0, 2000.0)
        assert rate.bitrate < LIMITS.start

    def test_an_estimate_counts_when_it_falls_not_while_it_grows_from_nothing(self) -> None:
        rate = RateController(LIMITS, 0.0)
        for n, estimate in enumerate((50_000, 90_000, 200_000, 900_000, 3_000_000)):
            rate.remb(estimate, n * 500.0)
        assert rate.bitrate == LIMITS.start
        rate.remb(800_000, 3000.0)
        assert 700_000 < rate.bitrate <= 800_000


def test_frames_become_coarser_before_they_become_fewer() -> None:
    pixels = 512 * 320
    assert frame_divisor(6e6, pixels, 60) == 1
    assert frame_divisor(320e3, pixels, 60) == 1
    assert frame_divisor(150e3, pixels, 60) == 2
    assert frame_divisor(10e3, pixels, 60) == 7, "never below 8 frames per second"
    assert frame_divisor(150e3, 1280 * 720, 30) == 3
