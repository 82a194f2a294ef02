"""Rolling statistics of how long things take. Milliseconds throughout; no clock is read here."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

__all__ = ["LegStatistics", "RollingPercentiles"]

DEFAULT_WINDOW = 256


class RollingPercentiles:
    """Percentiles over the newest `window` values."""

    def __init__(self, window: int = DEFAULT_WINDOW) -> None:
        if window < 1:
            raise ValueError(f"expected a window of at least 1 value, got {window}")
        self._values: deque[float] = deque(maxlen=window)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        self._values.append(value)

    def percentile(self, percent: float) -> float | None:
        """Nearest-rank percentile (a value that really occurred); None before the first value."""
        if not 0 < percent <= 100:
            raise ValueError(f"expected a percentile in (0, 100], got {percent}")
        if not self._values:
            return None
        ordered = sorted(self._values)
        return ordered[math.ceil(percent / 100 * len(ordered)) - 1]


class LegStatistics:
    """A rolling window per named leg, for the worker's `stats` message."""

    def __init__(self, window: int = DEFAULT_WINDOW) -> None:
        self._window = window
        self._legs: dict[str, RollingPercentiles] = {}

    def add(self, legs: Mapping[str, float]) -> None:
        for name, value in legs.items():
            if name not in self._legs:
                self._legs[name] = RollingPercentiles(self._window)
            self._legs[name].add(value)

    def summary(self) -> dict[str, dict[str, float]]:
        """{leg: {p50, p95, p99}}, legs in the order in which they first came."""
        return {
            name: {f"p{p}": leg.percentile(p) or 0.0 for p in (50, 95, 99)}
            for name, leg in self._legs.items()
        }
