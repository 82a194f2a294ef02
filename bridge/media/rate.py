"""Congestion control: the bit rate that one viewer's network carries, from what it reports.

Sans-I/O. The sender reports what it sends, the transport what became of it: per packet for WebRTC
(transport-wide congestion control, draft-holmer-rmcat-transport-wide-cc-extensions-01), per frame
for a WebSocket that acknowledges, or once a second in an RTCP receiver report (RFC 3550).

The rate falls when packets queue (their delay grows above its minimum) or when many are lost, and
grows while it is used and neither happens. Loss without queueing is taken for radio noise: below
`RANDOM_LOSS` it changes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["BitrateLimits", "MessageRate", "RateController", "frame_divisor"]

WINDOW_MS: Final = 500.0  # in which throughput and loss are measured
RECENT_MS: Final = 150.0  # in which throughput is measured once the network is too slow
BASE_MS: Final = 10_000.0  # within which the smallest delay counts as that of an empty network
QUEUE_LOW_MS: Final = 15.0  # no more than this: the rate may grow
QUEUE_HIGH_MS: Final = 40.0  # more than this: the network carries less than is sent
QUEUE_FULL_MS: Final = 200.0  # more than this: frames wait until it has emptied
RANDOM_LOSS: Final = 0.15
DECREASE: Final = 0.85  # of what arrived
HOLD_MS: Final = 250.0  # between two decreases, and one round trip more
GROWTH: Final = 0.5  # per second, while no limit is known
CAREFUL_GROWTH: Final = 0.08  # per second, near the rate that was too much the last time
NEAR: Final = 0.9
USED: Final = 0.35  # of the rate must have arrived before it grows: an idle stream proves nothing
SILENCE_MS: Final = 500.0  # without any report: the network is down, and only probes are sent
PROBE_MS: Final = 250.0
MAX_SENT: Final = 4096  # packets that were not reported yet
MIN_BITS_PER_PIXEL: Final = 0.03  # of a frame; with less, fewer frames look better
MIN_FRAMES_PER_SECOND: Final = 8.0


@dataclass(frozen=True, slots=True)
class BitrateLimits:
    """Bits per second of one video stream."""

    start: int = 2_000_000
    floor: int = 150_000
    ceiling: int = 6_000_000


@dataclass(slots=True)
class _Sent:
    size: int
    at_ms: float


class RateController:
    """The rate of one viewer. All times in milliseconds; arrival times may have another origin."""

    def __init__(self, limits: BitrateLimits, now_ms: float) -> None:
        self._limits = limits
        self._rate = float(min(max(limits.start, limits.floor), limits.ceiling))
        self._too_much = math.inf  # the rate at which the network queued or lost the last time
        self._sent: dict[int, _Sent] = {}
        self._arrived: deque[tuple[float, int]] = deque()  # (arrival, bytes)
        self._lost: deque[tuple[float, int]] = deque()  # (reported at, packets)
        self._base = _WindowedMinimum(BASE_MS)
        self._reported_ms = now_ms
        self._grown_ms = now_ms
        self._held_until_ms = -math.inf
        self._probed_ms = -math.inf
        self._remb: float | None = None
        self._packets_reported = False
        self.queue_ms = 0.0
        self.loss = 0.0
        self.decreases = 0

    @property
    def bitrate(self) -> int:
        """Bits per second that the stream may take now."""
        return round(self._rate)

    def congested(self, now_ms: float) -> bool:
        """Return whether the next frame should be left out; a few probe a silent network."""
        if not self._sent:
            return False
        if self.silent(now_ms):
            if now_ms - self._probed_ms < PROBE_MS:
                return True
            self._probed_ms = now_ms
            return False
        return self.queue_ms > QUEUE_FULL_MS

    def silent(self, now_ms: float) -> bool:
        """Return whether the network is down: packets are on their way, and none is reported."""
        late = now_ms - self._reported_ms > SILENCE_MS
        return self._packets_reported and bool(self._sent) and late

    def sent(self, number: int, size: int, now_ms: float) -> None:
        """Note a packet of `size` bytes."""
        if not self._sent:
            self._reported_ms = max(self._reported_ms, now_ms)  # there was nothing to report
        self._sent[number] = _Sent(size, now_ms)
        while len(self._sent) > MAX_SENT:
            del self._sent[next(iter(self._sent))]

    def reported(self, packets: Iterable[tuple[int, float | None]], now_ms: float) -> None:
        """Take what became of packets: (number, arrival time, or None if it was lost)."""
        recovered, self._packets_reported = self.silent(now_ms), True
        delays, lost = [], 0
        for number, arrival in packets:
            sent = self._sent.pop(number, None)
            if sent is None:
                continue
            if arrival is None:
                lost += 1
            else:
                delays.append(arrival - sent.at_ms)
                self._arrived.append((arrival, sent.size))
        if recovered:
            self._recover(now_ms)
        elif lost:
            self._lost.append((now_ms, lost))
        if delays:
            self._reported_ms = now_ms
            self._measure_queue(delays, now_ms)
        self._adapt(now_ms)

    def receiver_report(self, loss: float, round_trip_ms: float | None, now_ms: float) -> None:
        """Take an RTCP receiver report: the share of packets lost since the last one."""
        if self._packets_reported:
            return  # that says more, and earlier
        self.loss = loss
        if round_trip_ms is not None:
            self._measure_queue([round_trip_ms], now_ms)
        self._decide(now_ms, self._rate * (1 - loss), used=True)

    def remb(self, bitrate: int, now_ms: float) -> None:
        """Take a receiver's estimate of the network. One that grows from nothing proves nothing."""
        previous, self._remb = self._remb, bitrate
        if self._packets_reported:
            return
        if previous is not None and bitrate < NEAR * previous and bitrate < self._rate:
            self._decrease(bitrate / DECREASE, now_ms)

    def _recover(self, now_ms: float) -> None:
        """Go on after an outage. What it lost says nothing about the rate."""
        self._lost.clear()
        self._arrived.clear()
        self.queue_ms = 0.0
        self._held_until_ms = now_ms + HOLD_MS

    def _measure_queue(self, delays: list[float], now_ms: float) -> None:
        # the least delayed packet of a report: jitter and the length of a frame do not count
        least = min(delays)
        self.queue_ms = least - self._base.add(least, now_ms)

    def _adapt(self, now_ms: float) -> None:
        while self._lost and now_ms - self._lost[0][0] > WINDOW_MS:
            self._lost.popleft()
        while self._arrived and self._arrived[-1][0] - self._arrived[0][0] > WINDOW_MS:
            self._arrived.popleft()
        lost = sum(count for _, count in self._lost)
        self.loss = lost / max(1, lost + len(self._arrived))
        if self._arrived:
            used = self._throughput(WINDOW_MS) >= USED * self._rate
            self._decide(now_ms, self._throughput(RECENT_MS), used)

    def _throughput(self, window_ms: float) -> float:
        """Return the bits per second that arrived in the last part of the window."""
        end = self._arrived[-1][0]
        size, begin = 0, end
        for at, more in reversed(self._arrived):
            if end - at > window_ms:
                break
            size, begin = size + more, at
        return size * 8000 / max(end - begin, window_ms / 2)

    def _decide(self, now_ms: float, arrived: float, used: bool) -> None:
        elapsed_s = min(0.5, (now_ms - self._grown_ms) / 1000)
        self._grown_ms = now_ms
        if now_ms < self._held_until_ms:
            return
        if self.queue_ms > QUEUE_HIGH_MS or self.loss > RANDOM_LOSS:
            self._decrease(arrived, now_ms)
        elif self.queue_ms <= QUEUE_LOW_MS and used:
            near = NEAR * self._too_much <= self._rate <= self._too_much / NEAR
            growth = CAREFUL_GROWTH if near else GROWTH
            self._rate = min(self._limits.ceiling, self._rate * (1 + growth * elapsed_s))

    def _decrease(self, arrived: float, now_ms: float) -> None:
        self._too_much = self._rate
        deep = DECREASE if self.queue_ms < QUEUE_FULL_MS else DECREASE**2
        self._rate = max(self._limits.floor, min(self._rate, arrived) * deep)
        self._held_until_ms = now_ms + HOLD_MS + self.queue_ms
        self.decreases += 1


class MessageRate(RateController):
    """The rate of video in messages, each acknowledged by one credit, in order."""

    def __init__(self, limits: BitrateLimits, now_ms: float) -> None:
        super().__init__(limits, now_ms)
        self._unacknowledged: deque[int] = deque()

    def sent(self, number: int, size: int, now_ms: float) -> None:
        self._unacknowledged.append(number)
        super().sent(number, size, now_ms)

    def acknowledged(self, frames: int, now_ms: float) -> None:
        """Take the credit for frames; it is also the first credit, for which nothing was sent."""
        count = min(frames, len(self._unacknowledged))
        numbers = [self._unacknowledged.popleft() for _ in range(count)]
        if numbers:
            self.reported([(number, now_ms) for number in numbers], now_ms)


class _WindowedMinimum:
    """The minimum of the last one to two windows."""

    def __init__(self, window_ms: float) -> None:
        self._window_ms = window_ms
        self._began_ms = -math.inf
        self._now = self._before = math.inf

    def add(self, value: float, now_ms: float) -> float:
        """Take a value and return the minimum, this value included."""
        if now_ms - self._began_ms > self._window_ms:
            self._began_ms, self._before, self._now = now_ms, self._now, math.inf
        self._now = min(self._now, value)
        return min(self._now, self._before)


def frame_divisor(bitrate: float, pixels: int, frames_per_second: float) -> int:
    """Return n to encode every nth frame: coarser frames come first, then fewer of them."""
    wanted = bitrate / (MIN_BITS_PER_PIXEL * pixels)
    most = max(1, math.floor(frames_per_second / MIN_FRAMES_PER_SECOND))
    return min(most, max(1, math.ceil(frames_per_second / max(wanted, 0.1) - 1e-6)))
