"""Learning rates by elapsed time, so that a run of any length ends fully decayed."""

from __future__ import annotations

import math
import time

__all__ = ["TimedSchedule"]


class TimedSchedule:
    """Linear warm-up by steps, then cosine decay by wall-clock share of the budget."""

    def __init__(self, rate: float, minutes: float, warmup_steps: int, spent: float = 0.0) -> None:
        self.rate = rate
        self.seconds = minutes * 60
        self.warmup_steps = warmup_steps
        self.spent = spent  # share of the budget already used by an earlier, interrupted run
        self.start = time.monotonic()

    def share(self) -> float:
        """Used share of the budget, 0 to 1."""
        return min(1.0, self.spent + (time.monotonic() - self.start) / max(self.seconds, 1e-9))

    def value(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.rate * warm * max(0.02, 0.5 + 0.5 * math.cos(math.pi * self.share()))
