"""How many steps to enqueue for a latent: no device, no clock.

A step gives a session at least one token and at most `width`, so the host knows how many steps are
certainly needed, but not how many are enough. It enqueues what is certain, in groups, and after
each group the device reports how many tokens are left. While the report of one group is awaited the
next one is already enqueued, as long as it is certain to be needed. So the device waits for the
host only during the last few steps of a latent, some tens of microseconds each, and does no step
for nothing, which would cost as much as reading all weights. Where steps are so short that this is
the wrong way round, `ahead` steps are enqueued beyond what is certain; they change nothing.
"""

from __future__ import annotations

from collections import deque

__all__ = ["DispatchPacer"]

_GROUPS = 2  # under way at most: one that runs, and the one behind it


class DispatchPacer:
    """Of one latent. Ask `next_group` until it gives 0, then read a report, until `finished`."""

    def __init__(self, size: int, width: int, *, group: int = 8, ahead: int = 0) -> None:
        """A latent of `size` tokens; `group` is the most steps between two reports."""
        if size < 1 or width < 1 or group < 1 or ahead < 0:
            raise ValueError(
                "expected size, width and group of at least 1 and ahead of at least 0, got "
                f"{size}, {width}, {group} and {ahead}"
            )
        self.left = size  # tokens, by the newest report, of the session that lacks most
        self._width, self._group, self._ahead = width, group, ahead
        self._under_way: deque[int] = deque()

    @staticmethod
    def most(group: int, ahead: int) -> int:
        """How many steps can be enqueued that no report is known of."""
        return _GROUPS * group + ahead

    @property
    def finished(self) -> bool:
        return self.left == 0

    def next_group(self) -> int:
        """How many steps to enqueue now, with a report behind them; 0: read a report first."""
        if self.finished or len(self._under_way) == _GROUPS:
            return 0
        certain = -(-self.left // self._width) - sum(self._under_way)
        wanted = certain + self._ahead
        if wanted <= 0:
            return 0
        # near the end shorter groups, so that the next report comes while some still run
        count = min(self._group, -(-wanted // _GROUPS))
        self._under_way.append(count)
        return count

    def report(self, left: int) -> None:
        """The oldest group is done, and the session that lacks most lacks `left` tokens.

        Raises RuntimeError if that cannot be, so that a broken device ends in an error instead of
        a loop without end.
        """
        steps = self._under_way.popleft()
        if not 0 <= left <= max(0, self.left - steps):
            raise RuntimeError(
                f"after {steps} steps with {self.left} tokens left, the device reports {left}; "
                "expected at least one token per step: its memory or kernels are damaged"
            )
        self.left = left
