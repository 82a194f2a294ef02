"""What the runtime asks of a world model, and what it hands to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from worldbridge.bridge.protocol import Pose, WorldSpec
from worldbridge.models.progress import Progress

__all__ = [
    "AimedWorld",
    "Frames",
    "LookaheadWorld",
    "Picture",
    "PipelinedWorld",
    "Pose",
    "Progress",
    "ShownFrames",
    "UnfinishedFrames",
    "WorldModel",
    "WorldSpec",
    "WorldStart",
    "WorldState",
]

"""Told what is being loaded, and how far it is (0 to 1)."""


@dataclass(frozen=True, slots=True)
class WorldStart:
    """Where a session begins: what the theme looks like there, or pictures instead.

    `pictures`: uint8 [T, 3 or 4, H, W], RGB or RGBA of any size, oldest first, at most
    `spec.takes_pictures`; the world fits them
    (`models/conditioning/prompt_frames.py`). Theme and seed still say
    how it goes on.
    """

    theme: str
    seed: int
    pictures: Tensor | None = field(default=None, compare=False, repr=False)


class WorldState:
    """One session's place in a world. Opaque to the runtime: each world model has its own."""


@dataclass(frozen=True, slots=True)
class Frames:
    """What one step made: one picture per session, in the order of the states.

    `i420` holds height * width * 3 / 2 bytes each; `poses` are the cameras they were seen from;
    the times are `time.monotonic() * 1000`, for the whole batch.
    """

    i420: list[bytes]
    poses: list[Pose]
    t_tokens: float
    t_pixels: float


class UnfinishedFrames(Protocol):
    """Frames whose pixels are still being made, on another thread."""

    @property
    def t_tokens(self) -> float: ...

    def ready(self) -> bool:
        """Whether `frames` would return at once."""
        ...

    def frames(self) -> Frames:
        """Waits for the pixels. Raises what making them raised."""
        ...


@runtime_checkable
class PipelinedWorld(Protocol):
    """A world that can make the next tokens while the last ones become pixels.

    The states have moved on when `begin` returns; like `step` it is all or nothing. `between` is
    called now and then while tokens are made, for whoever wants to send finished frames.
    """

    between: Callable[[], None]

    def begin(self, states: Sequence[Any], actions: Tensor) -> UnfinishedFrames: ...

    def rest(self) -> None:
        """End the threads, so that the process can be forked; `begin` starts them again."""
        ...


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was made before it is shown, and what it answers.

    `mark`: of the step whose controls it was made with, None if nobody knows any more (it was made
    again after a restart); `t_tokens`: when its tokens were there, `time.monotonic() * 1000`.
    """

    i420: bytes
    pose: Pose
    mark: object | None
    t_tokens: float


@dataclass(frozen=True, slots=True)
class ShownFrames:
    """What a step of a `LookaheadWorld` shows each of its sessions, and when it was done."""

    pictures: list[Picture | None]
    t_done: float


@runtime_checkable
class LookaheadWorld(Protocol):
    """A world that makes several pictures at once, while the ones before are shown.

    So the controls of a picture are those of an earlier step: each step has a mark, which comes
    back with the pictures it led to.
    """

    @property
    def period_ms(self) -> float:
        """How far apart steps should be: longer than `spec.fps` says if this machine is slower."""
        ...

    def show(self, states: Sequence[Any], actions: Tensor, marks: Sequence[object]) -> ShownFrames:
        """The next picture of every session, None for one that has none yet. Never waits.

        `actions` as for `WorldModel.step`. When it raises, it has taken none of the step's controls
        and shown nothing; what could not be made is told once more for a session alone, and then
        begun again with the same controls.
        """
        ...

    def rest(self) -> None:
        """As `PipelinedWorld.rest`."""
        ...


@runtime_checkable
class AimedWorld(Protocol):
    """A world that follows the cameras of clients that send theirs."""

    def aim(self, states: Sequence[Any], poses: Sequence[Pose | None]) -> None:
        """Before a step: each client's camera, None from one that sends none.

        Changes nothing but where the next step looks, so aiming twice is aiming once.
        """
        ...


class WorldModel(Protocol):
    """A world that several sessions walk in, stepped together.

    A session is over when its state is garbage; the runtime keeps no other reference to it.
    """

    @property
    def spec(self) -> WorldSpec: ...

    def open(self, start: WorldStart) -> Any:
        """A new session's state. Raises UnknownThemeError, BadPictureError."""
        ...

    def step(self, states: Sequence[Any], actions: Tensor) -> Frames:
        """Move every state on by one frame. `actions`: float32 [B, 4] on the CPU, in [-1, 1].

        All or nothing: when it raises, every state is as it was before (so that the runtime can
        step the sessions one by one and find the one that is at fault). What a session sees never
        depends on the sessions beside it.
        """
        ...

    def snapshot(self, state: Any) -> bytes:
        """All of a state, so that `restore` goes on exactly where it stopped."""
        ...

    def restore(self, data: bytes) -> Any:
        """The state that `snapshot` saved. Raises SnapshotError for anything else."""
        ...
