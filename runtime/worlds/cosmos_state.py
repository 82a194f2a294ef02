"""One stream of a converted world: what it is, and what is being made for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from worldbridge.models.procedural import CameraState
from worldbridge.models.tokenizer import StreamState
from worldbridge.runtime.controls import NEUTRAL, Action
from worldbridge.runtime.decoding import DecodeSession, SavedTokens
from worldbridge.runtime.worlds.camera import Alignment
from worldbridge.runtime.worlds.contract import Pose, WorldFrame

__all__ = [
    "ClientView",
    "InFlightLatent",
    "CosmosState",
    "ActionAccumulator",
    "Latent",
    "DecodedLatent",
    "LatentRequest",
    "StreamSlot",
]


@dataclass(frozen=True, slots=True)
class ClientView:
    """A camera that the client sends: how its coordinates lie in ours, and where it is in ours."""

    alignment: Alignment
    pose: Pose


@dataclass(frozen=True, slots=True)
class ActionAccumulator:
    """The actions of the steps since a latent was begun: their sum, and how many they are."""

    total: Action = NEUTRAL
    count: int = 0

    def plus(self, action: Sequence[float]) -> ActionAccumulator:
        a, b, c, d = (x + float(y) for x, y in zip(self.total, action, strict=True))
        return ActionAccumulator((a, b, c, d), self.count + 1)

    def mean(self) -> Action:
        """In float32, as models and snapshots have it."""
        a, b, c, d = (float(np.float32(x / max(self.count, 1))) for x in self.total)
        return a, b, c, d


@dataclass(frozen=True, slots=True)
class LatentRequest:
    """What a latent is drawn with. `sent`: the client's camera, `mark`: of the step it answers."""

    action: Action
    sent: Pose | None = None
    mark: object | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Latent:
    """`codes` [h, w] on the CPU, and what they were drawn with; `pose` [8], if the model has it."""

    codes: Tensor
    action: Action = NEUTRAL
    pose: Tensor | None = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class StreamSlot:
    """A stream's place in both networks, rebuilt from `record` and `stream` when there is none.

    `session` and `record` belong to the drawing thread, `stream` and `error` to the pixel thread.
    """

    record: SavedTokens
    stream: StreamState
    session: DecodeSession | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedLatent:
    """Pictures, and what is known now that they are there. Times in ms; 0 for what was not done."""

    pictures: list[bytes]
    codes: Tensor  # [h, w] on the CPU
    stream: StreamState
    t_tokens: float
    t_pixels: float
    drawing_ms: float
    together: int  # how many latents were drawn at that time
    pixels_ms: float


@dataclass(slots=True, eq=False)
class InFlightLatent:
    """Pictures that are being made, seen from `poses`.

    Those of a new latent have an `order`; the others are of latents that were drawn before.
    """

    poses: Sequence[Pose]
    camera: CameraState  # after the last one
    order: LatentRequest | None = None
    pose: Tensor | None = None  # [8], what the model is told
    asked_ms: float = 0.0
    drawn: bool = False  # set by the drawing thread
    made: Future[DecodedLatent] = field(default_factory=Future)


@dataclass(slots=True, eq=False)
class CosmosState:
    """One stream.

    `tail`: its newest latents, oldest first, as many as pictures depend on. `pending`: pictures
    that were made and not shown. All that is still `coming` changes nothing of the stream until it
    is there as a whole, so that whatever fails can be done again. `owed`: a frame was submitted and
    not polled.
    """

    theme: str
    seed: int
    latents: int  # so far
    tail: tuple[Latent, ...]
    camera: CameraState  # after the newest of them
    work: StreamSlot
    stream: StreamState  # the tokenizer's place behind the newest of them, if `unmade` is empty
    unmade: tuple[Pose, ...] = ()  # pictures of `tail` that have to be made (again)
    pending: deque[WorldFrame] = field(default_factory=deque)
    coming: deque[InFlightLatent] = field(default_factory=deque)
    orders: deque[LatentRequest] = field(default_factory=deque)  # begun once, and to be begun again
    heard: ActionAccumulator = ActionAccumulator()
    view: ClientView | None = None
    failure: Exception | None = None
    owed: bool = False

    @property
    def newest(self) -> Tensor:
        """Codes [h, w] of the newest latent."""
        return self.tail[-1].codes

    @property
    def left(self) -> int:
        """Pictures that were promised and not shown."""
        return len(self.pending) + sum(len(c.poses) for c in self.coming)
