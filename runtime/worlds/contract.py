"""The contract between the runtime and a world model: open, submit, poll, save, load."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor

from worldbridge.bridge.protocol import Pose, WorldSpec
from worldbridge.models.progress import Progress
from worldbridge.runtime.controls import NEUTRAL, Action

if TYPE_CHECKING:
    from worldbridge.runtime.decoding.autotune import DecodedWorld

__all__ = [
    "Controls",
    "EngineFrame",
    "Pose",
    "Progress",
    "Synchronous",
    "WorldFrame",
    "WorldModel",
    "WorldSpec",
    "WorldStart",
    "next_frames",
    "wait_for_frames",
]

S = TypeVar("S")

_POLL_S = 0.0005


@dataclass(frozen=True, slots=True)
class WorldStart:
    """Where a session begins: the theme's rendered scene, or prompt frames instead of it.

    `prompt_frames`: uint8 [T, 3 or 4, H, W], RGB or RGBA of any size, oldest first, at most
    `spec.max_prompt_frames`; the world resizes them (`models/conditioning/prompt_frames.py`). Theme
    and seed still decide how the session continues. `prompt_nearness`: float [h, w] in 1/m of the
    newest one, of the same shape at any size, 0 where it is unknown; only for worlds with
    `spec.depth`.
    """

    theme: str
    seed: int
    prompt_frames: Tensor | None = field(default=None, compare=False, repr=False)
    prompt_nearness: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Controls:
    """What one session asks of one frame, whatever the kind of world.

    `action`: values in [-1, 1], in the order of the world's action schema; `camera`: the client's
    camera in its own coordinates, None from a client that sends none; `tag`: returned with the
    frame that these controls produced; `depth`: the frame's depth is wanted, too.
    """

    action: Action = NEUTRAL
    camera: Pose | None = None
    tag: object = None
    depth: bool = False


@dataclass(frozen=True, slots=True)
class EngineFrame:
    """A frame that an engine rendered, of any size.

    `rgb` uint8 [3, h, w]; `nearness` float [h, w] in 1/m, 0 where nothing was rendered; `camera` in
    the engine's coordinates; `fresh`: forget first what the world has drawn so far.
    """

    rgb: Tensor
    nearness: Tensor
    camera: Pose
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class WorldFrame:
    """One frame of one session.

    `i420`: height * width * 3 / 2 bytes; `pose`: the camera it was rendered from; `tag`: of the
    controls that it answers, None if they are unknown (a frame made again after a restart).
    `t_tokens` and `t_pixels`: when its tokens and its pixels were there, in milliseconds of
    `worldbridge.clock.now_ms`. `depth`: float32 [H, W] in metres along the view's axis as bytes,
    if it was wanted and the world has it (`spec.depth`).
    """

    i420: bytes
    pose: Pose
    t_tokens: float
    t_pixels: float
    tag: object = None
    depth: bytes | None = None


class WorldModel(ABC, Generic[S]):
    """A world that several sessions play, generic in the state of a session.

    The runtime calls `submit` once per frame for all sessions together and `poll` whenever frames
    may be finished. A session ends when its state is garbage: the runtime keeps the only reference.
    What a session sees never depends on the sessions beside it, except in time.

    Attributes:
        spec: name, frame size, frame rate and abilities, as clients see them.
        capacity: states that fit into memory at once, one more than there are seats (a session
            that restarts holds two); None if memory is no limit.
        overlap: frames that may be unfinished when the next ones are submitted.
        lead: begin a latent when this many of the frames before it are left (0: when none is, one
            latent at a time); None to measure. Ignored by worlds that make no frames ahead.
        notify: called, on any thread, when a frame may have been finished.
        decoding: the world's decoder and its modes; None for a world without tokens.
    """

    spec: WorldSpec
    capacity: int | None = None
    overlap: int = 0
    lead: int | None = None

    def __init__(self) -> None:
        self.notify: Callable[[], None] = lambda: None

    @property
    def decoding(self) -> DecodedWorld | None:
        return None

    @property
    def period_ms(self) -> float:
        """Time between two frames: longer than `spec.fps` says if this machine is slower."""
        return 1000.0 / self.spec.fps

    @abstractmethod
    def open(self, start: WorldStart) -> S:
        """Return a new session's state. Raises UnknownThemeError, BadPromptFrameError."""

    @abstractmethod
    def submit(self, states: Sequence[S], controls: Sequence[Controls]) -> None:
        """Ask for the next frame of every state.

        Neither waits for these frames nor raises for them: `poll` returns them, or their errors.
        A world may compute here, and may wait for frames that were submitted before.
        """

    @abstractmethod
    def poll(self, states: Sequence[S]) -> list[WorldFrame | Exception | None]:
        """Return the next finished frame of every state, oldest first; never waits.

        None: nothing is finished. At most one frame answers each `submit`. An exception is returned
        once; the state is then as it was before, and can be saved and submitted again. A world
        that makes frames ahead makes what failed again, with the same controls, when it is polled
        again.
        """

    def observe(self, state: S, frame: EngineFrame) -> int:
        """Let an engine's frame join a state's memory; return the number of points added.

        Only for worlds whose spec has the conditioning `observations`.
        """
        raise NotImplementedError(f"{self.spec.name} takes no observations")

    @abstractmethod
    def save(self, state: S) -> bytes:
        """Return everything of a state, so that `load` continues exactly where it is."""

    @abstractmethod
    def load(self, data: bytes) -> S:
        """Return the state that `save` wrote. Raises SnapshotError for anything else."""

    def rest(self) -> None:  # noqa: B027 (most worlds have no threads)
        """End the world's threads, so that the process can be forked; `submit` restarts them."""


class Synchronous(WorldModel[S]):
    """A world whose frames are finished when `submit` returns: implement `render` instead."""

    def __init__(self) -> None:
        super().__init__()
        self._finished: WeakKeyDictionary[S, WorldFrame | Exception] = WeakKeyDictionary()

    @abstractmethod
    def render(self, state: S, controls: Controls) -> WorldFrame:
        """Move one state on by one frame. When it raises, the state must be as it was before."""

    def submit(self, states: Sequence[S], controls: Sequence[Controls]) -> None:
        for state, asked in zip(states, controls, strict=True):
            try:
                self._finished[state] = self.render(state, asked)
            except Exception as error:  # the boundary of a session: the others get their frames
                self._finished[state] = error

    def poll(self, states: Sequence[S]) -> list[WorldFrame | Exception | None]:
        return [self._finished.pop(state, None) for state in states]


def next_frames(
    world: WorldModel[S], states: Sequence[S], controls: Sequence[Controls]
) -> list[WorldFrame]:
    """Submit, and wait for a frame of every state. Raises what a state reports."""
    world.submit(states, controls)
    return wait_for_frames(world, states)


def wait_for_frames(world: WorldModel[S], states: Sequence[S]) -> list[WorldFrame]:
    """Poll until every state has a frame. Raises the first error, when every state has answered."""
    answers: dict[int, WorldFrame | Exception] = {}
    while True:
        missing = [place for place in range(len(states)) if place not in answers]
        polled = world.poll([states[place] for place in missing])
        answers |= {p: a for p, a in zip(missing, polled, strict=True) if a is not None}
        if len(answers) == len(states):
            break
        time.sleep(_POLL_S)
    frames = []
    for place in range(len(states)):
        answer = answers[place]
        if isinstance(answer, Exception):
            raise answer
        frames.append(answer)
    return frames
