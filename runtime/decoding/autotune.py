"""Which way a world is decoded: chosen by hand, or by measuring which exact way is the fastest."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from worldbridge.clock import now_ms
from worldbridge.runtime.config import MODES, DecodeMode
from worldbridge.runtime.errors import ModeError
from worldbridge.runtime.worlds.contract import (
    Controls,
    Progress,
    WorldModel,
    WorldStart,
    next_frames,
)

__all__ = ["MODES", "DecodedWorld", "Trial", "check_mode", "remember", "remembered", "set_mode"]

log = logging.getLogger(__name__)


_BUDGET_S = 30.0  # for one mode; the embedded world needs half a second
_TOTAL_S = 60.0  # no further mode is begun after that
_LATENTS = 4  # that are timed, where they take no longer than this:
_TIMED_S = 2.0
_SURE = 3  # forwards until the fastest one of them is taken for what a forward takes
_HOPELESS = 3.0  # times as long as the best mode
_TIMES_ENQUEUED = 4  # so many times what may be enqueued is timed at a stretch


class DecodedWorld(Protocol):
    """The part of a world whose tokens can be decoded in several ways."""

    # has `mode`, `least_forwards`, `on_step`, called before every forward, and `enqueued`, how many
    # forwards may be ahead of the device
    decoder: Any
    tokenizer: Any  # nn.Module
    transformer: Any  # nn.Module

    @property
    def exact_modes(self) -> tuple[str, ...]:
        """Those that sample the tokens of sequential decoding, the most promising ones first."""
        ...

    def make_decoder(self, mode: str | None, row_lag: int | None = None) -> Any:
        """Return a decoder; None stands for the world's usual mode and row lag."""
        ...


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a mode. Without `latent_s` it was given up: it cannot be the fastest."""

    mode: str
    latent_s: float | None  # seconds until the tokens of a latent are there
    frames_per_second: float  # with the pixels; if it was given up, no more than this

    def beats(self, other: Trial) -> bool:
        if self.latent_s is None:
            return False
        return other.latent_s is None or self.latent_s < other.latent_s

    def __str__(self) -> str:
        less = "" if self.latent_s is not None else "under "
        return f"{self.mode} {less}{self.frames_per_second:.3g}"


def check_mode(mode: str | None, row_lag: int | None, manifest: dict[str, Any]) -> None:
    """Check by its world.json, before weights are read, that a world has a decode mode.

    Raises ModeError.
    """
    if mode is not None and mode not in MODES:
        raise ModeError(
            "there is no such decode mode",
            expected="one of " + ", ".join(MODES),
            got=repr(mode),
            remedy="choose one of these, or leave --mode out",
        )
    if row_lag is not None and (mode != "diagonal" or row_lag < 1):
        raise ModeError(
            "the row lag does not fit the decode mode",
            expected="a positive number, and mode 'diagonal' with it",
            got=f"{row_lag} with mode {mode!r}",
            remedy="add --mode diagonal, or leave --row-lag out",
        )
    grid = manifest["transformer"].get("grid")
    if mode == "medusa" and "heads" not in manifest:
        raise ModeError(
            f"this world cannot be decoded in mode {mode!r}",
            expected="a world with Medusa heads",
            got="one that has none",
            remedy="leave --mode out: the fastest mode that it has is taken",
        )
    if grid is not None and row_lag not in (None, grid["diagonal"]):
        raise ModeError(
            "this world was trained with another row lag",
            expected=f"{grid['diagonal']}",
            got=f"{row_lag}",
            remedy="leave --row-lag out",
        )


def set_mode(
    world: WorldModel[Any], mode: str | None, row_lag: int | None, progress: Progress
) -> None:
    """Give a world that was just loaded, and has no session, the decoder of a mode.

    `auto` measures the exact modes where there are several, and keeps the fastest. None leaves the
    world its usual decoder.
    """
    decoding = world.decoding
    if decoding is None or mode is None:
        return
    if mode == "auto":
        log.info("%s", _fastest(world, decoding, progress))
        return
    _change(decoding, mode, row_lag)
    if mode in decoding.exact_modes:
        log.info("decode mode %s", mode)
    else:
        log.warning("approximate: mode %r samples other tokens than the model was trained to", mode)


def _change(world: DecodedWorld, mode: str, row_lag: int | None = None) -> None:
    """Replace a world's decoder; the memory of the old one is freed first if nobody holds it."""
    world.decoder = None
    gc.collect()  # a trial that was given up is held by the frames of its exception
    world.decoder = world.make_decoder(mode, row_lag)


# -- measuring ------------------------------------------------------------------------------------


def _fastest(world: WorldModel[Any], decoding: DecodedWorld, progress: Progress) -> str:
    """Give the world the fastest decoder. Return what was found, in words."""
    begun, best = time.perf_counter(), None
    decoder: Any = None  # the best one; what lost is kept by nobody
    trials: list[Trial] = []
    for mode in decoding.exact_modes:
        left = _TOTAL_S - (time.perf_counter() - begun)
        if trials and left < 0:
            break
        progress(f"measuring the decode mode {mode}", 0.9)
        _change(decoding, mode)
        trial = _try(world, decoding.decoder, best, min(_BUDGET_S, left))
        trials.append(trial)
        if best is None or trial.beats(best):
            best, decoder = trial, decoding.decoder
    decoding.decoder = decoder
    gc.collect()
    assert best is not None
    text = _told(best, trials, world.spec.fps)
    progress(text, 0.9)
    return text


def _told(best: Trial, trials: list[Trial], fps: float) -> str:
    others = "; ".join(str(trial) for trial in trials if trial is not best)
    less = "" if best.latent_s is not None else "under "
    slow = "" if best.frames_per_second >= fps else f" (the world's rate is {fps:g})"
    first = f"auto: {best.mode}, {less}{best.frames_per_second:.3g} frames/s{slow}"
    return f"{first}; {others}" if others else first


class _Hopeless(Exception):
    """This mode cannot become the fastest any more."""


class _Watch:
    """Times a latent from inside, by its forwards, and gives it up when it is hopeless.

    A decoder that enqueues forwards for a GPU marks up to `enqueued` of them before they begin. So
    there a stretch of several times as many is timed: it takes at most that much longer than it
    took to mark it.
    """

    def __init__(self, decoder: Any, best_s: float | None, deadline: float) -> None:
        self._decoder, self._best_s, self._deadline = decoder, best_s, deadline
        self._marks: list[float] = []
        self.forward_s = float("inf")  # what one takes at least
        self._enqueued = int(decoder.enqueued)
        self._forwards = 0

    @property
    def least_s(self) -> float:
        """This latent takes no less."""
        return self._forward_s * max(int(self._decoder.least_forwards), len(self._marks))

    @property
    def _forward_s(self) -> float:
        if self.forward_s < float("inf") or not self._marks:
            return self.forward_s
        return (time.perf_counter() - self._marks[0]) / len(self._marks)  # too few to know better

    def begin(self) -> None:
        self._marks.clear()

    @property
    def sampled(self) -> bool:
        """Whether anything was sampled since `begin`."""
        return bool(self._marks)

    def mark(self) -> None:
        """A forward begins. Raises _Hopeless."""
        now = time.perf_counter()
        if self._marks:
            self._time(now)
        self._marks.append(now)
        if now > self._deadline or self._is_hopeless():
            raise _Hopeless

    def _time(self, now: float) -> None:
        """Another forward was marked."""
        stretch = _TIMES_ENQUEUED * self._enqueued or 1
        if len(self._marks) >= stretch:
            self.forward_s = min(self.forward_s, (now - self._marks[-stretch]) / stretch)
            self._forwards += 1

    def _is_hopeless(self) -> bool:
        if self._best_s is None or self._forwards < _SURE:
            return False
        however_good = self.forward_s * float(self._decoder.least_forwards)
        return however_good > self._best_s or self.least_s > _HOPELESS * self._best_s


@contextmanager
def _watching(decoder: Any, watch: _Watch) -> Iterator[None]:
    before: Callable[[], None] = decoder.on_step
    decoder.on_step = watch.mark
    try:
        yield
    finally:
        decoder.on_step = before


@contextmanager
def _one_latent_at_a_time(world: WorldModel[Any]) -> Iterator[None]:
    before, world.lead = world.lead, 0
    try:
        yield
    finally:
        world.lead = before


@torch.inference_mode()
def _try(world: WorldModel[Any], decoder: Any, best: Trial | None, budget_s: float) -> Trial:
    """Latents of one player who walks and turns. The first is not timed: it is prepared there."""
    state = world.open(WorldStart(world.spec.themes[0], 0))
    controls = [Controls((0.0, 1.0, 0.3, 0.0))]
    mode, per_latent = str(decoder.mode), world.spec.frames_per_latent
    best_s = None if best is None else best.latent_s
    watch = _Watch(decoder, best_s, time.perf_counter() + budget_s)
    tokens: list[float] = []
    pixels: list[float] = []
    with _watching(decoder, watch), _one_latent_at_a_time(world):
        try:
            while len(tokens) <= _LATENTS and sum(tokens[1:]) < _TIMED_S:
                watch.begin()
                begun = now_ms()
                [frame] = next_frames(world, [state], controls)
                if watch.sampled:  # not one of the frames that a latent leaves over
                    tokens.append((frame.t_tokens - begun) / 1000)
                    pixels.append((frame.t_pixels - frame.t_tokens) / 1000)
        except _Hopeless:
            if best_s is not None or not tokens:
                return Trial(mode, None, per_latent / max(watch.least_s, 1e-9))
    drawn_s, made_s = min(tokens[1:] or tokens), min(pixels[1:] or pixels)
    # when the world is served, pixels are made beside the next tokens
    return Trial(mode, drawn_s, per_latent / max(drawn_s, made_s))


# -- after a crash --------------------------------------------------------------------------------


def remember(world: WorldModel[Any], mode: DecodeMode | None, file: Path | None) -> None:
    """Keep a choice that was made by measuring for the workers that follow."""
    if file is not None and mode == "auto" and world.decoding is not None:
        file.write_text(f"{world.decoding.decoder.mode}\n")


def remembered(mode: DecodeMode | None, file: Path | None) -> DecodeMode | None:
    """What an earlier worker chose for this server, if it did; otherwise what is wanted."""
    if file is None or mode != "auto" or not file.exists():
        return mode
    found = file.read_text().strip()
    return next((known for known in MODES[1:] if known == found), mode)
