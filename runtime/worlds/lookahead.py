"""When the next latent has to be begun, and how fast its pictures may follow each other.

A latent is several pictures. Its controls are read when it is begun, so it is begun as late as it
can be and still be ready when the pictures of the one before run out: what drawing and decoding
took lately decides. Milliseconds throughout; no clock is read here.
"""

from __future__ import annotations

import math

from worldbridge.runtime.stats import RollingPercentiles

__all__ = ["LookaheadScheduler"]

# A few seconds of play: one slow latent must not make the controls of all later ones old.
_NEWEST = 16
_SLOW = 90.0  # percentile; of sixteen all but one
# Room for what the next one may take longer than the last ones.
_MARGIN, _MARGIN_MS = 1.1, 2.0


class LookaheadScheduler:
    """Measured on what was made; before the first measurement everything is begun early.

    Args:
        frame_ms: a picture's time at the world's frame rate.
        pictures: of one latent.
    """

    def __init__(self, frame_ms: float, pictures: int) -> None:
        self._frame_ms, self._pictures = frame_ms, pictures
        self._drawing = RollingPercentiles(_NEWEST)
        self._pixels = RollingPercentiles(_NEWEST)
        self._ready = RollingPercentiles(_NEWEST)

    @property
    def most(self) -> int:
        """The largest measured lead: one latent is drawn while another one is decoded."""
        return 2 * self._pictures

    def drew(self, ms: float, together: int) -> None:
        """A latent was drawn, together with others: `together` of them took `ms`."""
        self._drawing.add(ms / together)

    def decoded(self, ms: float) -> None:
        """A latent's pictures took `ms`, without the time they waited for others."""
        self._pixels.add(ms)

    def came(self, ms: float) -> None:
        """A latent's pictures were ready `ms` after its controls were read."""
        self._ready.add(ms)

    def period_ms(self, players: int) -> float:
        """How far apart pictures are: as the frame rate says, or as fast as this machine is.

        Drawing and decoding are done side by side, so the slower of them counts, for all players.
        """
        drawing, pixels = self._drawing.percentile(50), self._pixels.percentile(50)
        slower = max(drawing or 0.0, pixels or 0.0) * max(players, 1)
        return max(self._frame_ms, _MARGIN * slower / self._pictures)

    def lead(self, players: int) -> int:
        """Begin the next latent when at most this many pictures are left, before one is shown."""
        slow = self._ready.percentile(_SLOW)
        if slow is None:
            return self.most
        steps = math.ceil((_MARGIN * slow + _MARGIN_MS) / self.period_ms(players))
        return min(steps, self.most)
