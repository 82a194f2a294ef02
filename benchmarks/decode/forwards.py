"""How long the forwards of a world take while its players are stepped together."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldbridge.benchmarks.decode.streams import ForwardMarks
from worldbridge.benchmarks.timing import Laps
from worldbridge.runtime.decoding.autotune import DecodedWorld

__all__ = ["Forwards"]


class Forwards:
    """The forwards that draw, of all sessions together, latent by latent.

    Times are medians: a latent has a few marks of another kind, one for each session whose finished
    latent is fed once more.
    """

    def __init__(self, world: DecodedWorld, device: torch.device) -> None:
        self._decoder = world.decoder
        self._marks, self._laps = ForwardMarks(self._decoder), Laps(device)
        self.begin()

    def begin(self) -> None:
        """Forget what was seen."""
        self._times: list[float] = []
        self._counted: list[int] = []

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Forwards within the block are."""
        with self._marks.made_by(self._laps.mark):
            yield

    def latent_ends(self) -> None:
        """Of every session."""
        self._times += self._laps.take()
        self._counted.append(int(self._decoder.counts.forwards))

    @property
    def ms(self) -> list[float]:
        return self._times

    def a_latent(self, sessions: int) -> float:
        """How many draw a latent, on average, of all latents but the first; counted by session, and
        each counts as long as its session is not done."""
        done = self._counted[-1] - self._counted[0]
        return done / (sessions * (len(self._counted) - 1))

    def latent_ms_at(
        self, latent_ms: float, sessions: int, tokens: int, tokens_per_forward: float
    ) -> float:
        """What a latent of `tokens` tokens would take if guesses were right so often, where it took
        `latent_ms`: the forwards that it then has more or fewer of take the median each."""
        more = tokens / tokens_per_forward - self.a_latent(sessions)
        return latent_ms + more * statistics.median(self._times)
