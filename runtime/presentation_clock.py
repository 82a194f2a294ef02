"""When the next step should start. No clock is read here: every call gets the time, in ms.

Frame k is due at `anchor + k * period`, so that rounding and jitter never add up. A step starts as
late as it can and still meet its deadline (deadline - p99 of the step time - margin), because what
the player does until then still counts for this frame. A world slower than its frame rate runs
free: each step starts when the last one ended.
"""

from __future__ import annotations

from worldbridge.runtime.stats import RollingPercentiles

__all__ = ["PresentationClock"]

# A frame this much of a period late moves the schedule instead of making the next frame early.
_LATE = 0.5
# The lead follows the p99 by this much of a period per frame, so that one outlier that enters or
# leaves the window is not seen as a jerk.
_SLEW = 0.1
# How fast a wanted shift of the schedule is made, ms per frame: too little to be seen.
_SHIFT_MS = 0.5
# One outlier (a page fault, another process) among 128 steps must not move the p99.
_WINDOW = 128


class PresentationClock:
    """An absolute schedule at `fps` that re-anchors after a stall."""

    def __init__(self, fps: float, *, margin_ms: float = 2.0) -> None:
        if not fps > 0:
            raise ValueError(f"expected a positive frame rate, got {fps}")
        self.period_ms = 1000.0 / fps
        self._margin_ms = margin_ms
        self._step_ms = RollingPercentiles(_WINDOW)
        self._anchor_ms = 0.0
        self._frames = 0
        self._lead_ms = margin_ms
        self._shift_ms = 0.0  # still to be made
        self.stalls = 0

    @property
    def deadline_ms(self) -> float:
        """When the next frame is due."""
        return self._anchor_ms + self._frames * self.period_ms

    def restart(self, now_ms: float) -> None:
        """Start again, after the worker was idle: a frame is due at once."""
        self._anchor_ms, self._frames = now_ms, 0

    def shift(self, ms: float) -> None:
        """Move the schedule by `ms`, later if positive, little by little over the next frames.

        A shift that is still being made is replaced.
        """
        self._shift_ms = min(max(ms, -self.period_ms / 2), self.period_ms / 2)

    def set_period(self, period_ms: float) -> None:
        """From the next frame on, frames are so far apart; when that one is due stays as it is."""
        if period_ms != self.period_ms:
            self._anchor_ms, self._frames = self.deadline_ms, 0
            self.period_ms = period_ms

    def next_start_ms(self) -> float:
        """When the next step should start; in the past if it should have started already."""
        return self.deadline_ms - self._lead_ms

    def stepped(self, start_ms: float, end_ms: float) -> None:
        """A step ran from `start_ms` to `end_ms` and made the frame that was due next."""
        self._step_ms.add(end_ms - start_ms)
        late = end_ms - self.deadline_ms
        self._frames += 1
        if late > _LATE * self.period_ms:
            self.stalls += 1
            self._anchor_ms, self._frames = end_ms, 1
        self._follow()
        part = min(max(self._shift_ms, -_SHIFT_MS), _SHIFT_MS)
        self._anchor_ms += part
        self._shift_ms -= part

    def _follow(self) -> None:
        """Move the lead towards what slow steps need."""
        slow = self._step_ms.percentile(99) or 0.0
        # Never more than a period: a slow spell would otherwise let later, faster steps run far
        # ahead of the schedule, in a burst.
        wanted = min(slow + self._margin_ms, self.period_ms)
        most = _SLEW * self.period_ms if len(self._step_ms) > 1 else self.period_ms
        self._lead_ms += min(max(wanted - self._lead_ms, -most), most)
