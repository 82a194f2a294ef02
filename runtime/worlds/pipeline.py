"""The threads of a converted world, and when they begin a latent.

One thread samples latents, one decodes them. Sampling takes all that is wanted when it becomes
free, so streams that are due at the same time, or have to wait for others, are sampled together. A
third thread waits for a GPU's copies.

A latent is several frames. Its controls are read when it is begun, so it is begun as late as it can
be and still be ready when the frames of the one before run out: what sampling and decoding took
lately decides.
"""

from __future__ import annotations

import math
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from worldbridge.clock import now_ms
from worldbridge.models.tokenizer import StreamState
from worldbridge.runtime.decoding import Decoder, SavedTokens
from worldbridge.runtime.frames.detokenizer import Detokenizer, PendingFrames, SampledLatent
from worldbridge.runtime.stats import RollingPercentiles
from worldbridge.runtime.worlds.conditioning import Conditioning
from worldbridge.runtime.worlds.cosmos_state import (
    DecodedLatent,
    InFlightLatent,
    Latent,
    StreamSlot,
)

__all__ = ["GenerationPipeline", "LookaheadScheduler"]

_Job = tuple[StreamSlot, InFlightLatent]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What the pixel thread gets to know of a drawing."""

    t_tokens: float
    took_ms: float
    together: int


class GenerationPipeline:
    """A stream that nobody holds any more is left out; its `InFlightLatent` never comes.

    `InFlightLatent.made` raises what a stage raised; the threads go on for the other streams.
    """

    def __init__(
        self, decoder: Callable[[], Decoder], conditioning: Conditioning, maker: Detokenizer
    ) -> None:
        """`decoder`: the world's present one; its mode may be changed while nothing is drawn."""
        self._decoder, self._conditioning, self._maker = decoder, conditioning, maker
        self._wanted: deque[tuple[weakref.ref[StreamSlot], InFlightLatent]] = deque()
        self._threads: tuple[ThreadPoolExecutor, ThreadPoolExecutor, ThreadPoolExecutor] | None
        self._threads = None

    def draw(self, jobs: Sequence[_Job]) -> None:
        """Begin new latents, those of one call together."""
        if jobs:
            self._wanted += [(weakref.ref(work), coming) for work, coming in jobs]
            self._running()[0].submit(self._draw_wanted)

    def make(self, work: StreamSlot, coming: InFlightLatent, latents: Sequence[Latent]) -> None:
        """Make the newest frames of latents that were drawn before."""
        handed = [SampledLatent(latent.codes) for latent in latents]
        drawn = _Drawn(now_ms(), 0.0, 1)
        self._running()[1].submit(self._make, weakref.ref(work), coming, handed, drawn)

    def rest(self) -> None:
        """End the threads when they are done, so that the process can be forked."""
        for thread in self._threads or ():  # in this order: each hands over to the next
            thread.shutdown()
        self._threads = None

    def _running(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor, ThreadPoolExecutor]:
        if self._threads is None:
            # Said to each: what a new thread finds is what another one set last.
            counts = torch.get_num_threads(), 1, 1
            names = "draw", "pixels", "copies"
            draw, pixels, copies = (
                ThreadPoolExecutor(1, name, torch.set_num_threads, (count,))
                for name, count in zip(names, counts, strict=True)
            )
            self._threads = draw, pixels, copies
        return self._threads

    # -- the drawing thread -------------------------------------------------------------------

    def _draw_wanted(self) -> None:
        jobs: list[_Job] = []
        while self._wanted:
            reference, coming = self._wanted.popleft()
            work = reference()
            if work is not None and work.error is None:
                jobs.append((work, coming))
            elif work is not None:  # the latent before this one has no frames
                coming.made.set_exception(work.error)
        if jobs and not self._drew(jobs) and len(jobs) > 1:
            for job in jobs:  # the one at fault fails again, the others do not
                self._drew([job])

    def _drew(self, jobs: list[_Job]) -> bool:
        """Whether it could be done. If not, the future of a lone job gets the error."""
        begun = now_ms()
        try:
            codes, records = self._decode(jobs)
        except Exception as error:  # the boundary of a thread: the caller gets the error
            _let_go(error)
            for work, _ in jobs:
                work.session = None  # half drawn; it is rebuilt from its record
            if len(jobs) == 1:
                jobs[0][1].made.set_exception(error)
            return False
        drawn = _Drawn(now_ms(), now_ms() - begun, len(jobs))
        for (work, coming), record, latent in zip(jobs, records, codes, strict=True):
            work.record, coming.drawn = record, True
            self._running()[1].submit(self._make, weakref.ref(work), coming, [latent], drawn)
        return True

    @torch.inference_mode()
    def _decode(self, jobs: Sequence[_Job]) -> tuple[list[SampledLatent], list[SavedTokens]]:
        decoder, sessions = self._decoder(), []
        for work, _ in jobs:
            if work.session is None:
                work.session = decoder.restore(work.record)
            sessions.append(work.session)
        orders = [coming.order for _, coming in jobs]
        actions = torch.tensor([order.action for order in orders if order is not None])
        poses = [coming.pose for _, coming in jobs if coming.pose is not None]
        codes: Tensor = decoder.decode(
            sessions, self._conditioning.actions(actions), torch.stack(poses) if poses else None
        )
        return self._maker.hand_over(codes), [decoder.snapshot(s) for s in sessions]

    # -- the pixel thread ---------------------------------------------------------------------

    def _make(
        self,
        reference: weakref.ref[StreamSlot],
        coming: InFlightLatent,
        latents: Sequence[SampledLatent],
        drawn: _Drawn,
    ) -> None:
        try:
            self._start_making(reference, coming, latents, drawn)
        except Exception as error:  # the boundary of a thread
            _spoil(reference, coming, error)

    def _start_making(
        self,
        reference: weakref.ref[StreamSlot],
        coming: InFlightLatent,
        latents: Sequence[SampledLatent],
        drawn: _Drawn,
    ) -> None:
        work = reference()
        if work is None:
            return
        if work.error is not None:
            raise work.error
        making, work.stream = self._maker.make(latents, work.stream, len(coming.poses))
        finish = partial(_finish, reference, coming, making, work.stream, drawn)
        if latents[-1].ready is None:  # it was waited for, or there is nothing to wait for
            finish()
        else:
            self._running()[2].submit(finish)


def _finish(
    reference: weakref.ref[StreamSlot],
    coming: InFlightLatent,
    making: PendingFrames,
    stream: StreamState,
    drawn: _Drawn,
) -> None:
    """Waits for the frames."""
    try:
        frames = making.frames()
        made = DecodedLatent(
            frames,
            making.codes(),
            stream,
            drawn.t_tokens,
            now_ms(),
            drawn.took_ms,
            drawn.together,
            making.milliseconds(),
        )
    except Exception as error:  # the boundary of a thread
        _spoil(reference, coming, error)
        return
    coming.made.set_result(made)


def _spoil(reference: weakref.ref[StreamSlot], coming: InFlightLatent, error: Exception) -> None:
    """Give the error to the caller; the stream has no frames from here on."""
    _let_go(error)
    work = reference()
    if work is not None:
        work.error = error
    coming.made.set_exception(error)


def _let_go(error: Exception) -> None:
    """A traceback would keep the sessions of a drawing, and with them their place in the cache."""
    traceback.clear_frames(error.__traceback__)


# A few seconds of play: one slow latent must not make the controls of all later ones old.
_NEWEST = 16
_SLOW = 90.0  # percentile; of sixteen all but one
# Room for what the next one may take longer than the last ones.
_MARGIN, _MARGIN_MS = 1.1, 2.0


class LookaheadScheduler:
    """Measured on what was made; before the first measurement everything is begun early.

    Args:
        frame_ms: a frame's time at the world's frame rate.
        frames: of one latent.
    """

    def __init__(self, frame_ms: float, frames: int) -> None:
        self._frame_ms, self._frames = frame_ms, frames
        self._drawing = RollingPercentiles(_NEWEST)
        self._pixels = RollingPercentiles(_NEWEST)
        self._ready = RollingPercentiles(_NEWEST)

    @property
    def most(self) -> int:
        """The largest measured lead: one latent is drawn while another one is decoded."""
        return 2 * self._frames

    def drew(self, ms: float, together: int) -> None:
        """A latent was drawn, together with others: `together` of them took `ms`."""
        self._drawing.add(ms / together)

    def decoded(self, ms: float) -> None:
        """A latent's frames took `ms`, without the time they waited for others."""
        self._pixels.add(ms)

    def came(self, ms: float) -> None:
        """A latent's frames were ready `ms` after its controls were read."""
        self._ready.add(ms)

    def period_ms(self, players: int) -> float:
        """How far apart frames are: as the frame rate says, or as fast as this machine is.

        Drawing and decoding are done side by side, so the slower of them counts, for all players.
        """
        drawing, pixels = self._drawing.percentile(50), self._pixels.percentile(50)
        slower = max(drawing or 0.0, pixels or 0.0) * max(players, 1)
        return max(self._frame_ms, _MARGIN * slower / self._frames)

    def lead(self, players: int) -> int:
        """Begin the next latent when at most this many frames are left, before one is shown."""
        slow = self._ready.percentile(_SLOW)
        if slow is None:
            return self.most
        steps = math.ceil((_MARGIN * slow + _MARGIN_MS) / self.period_ms(players))
        return min(steps, self.most)
