"""One stream of a converted world: what it is, what is being made for it, and how it is saved.

The largest part of a snapshot are the codes of the latents that the next frame depends on, two
bytes each: 64 kB for DV8x16x16 at 320x512 with a window of five latents.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgpack
import numpy as np
import torch
from torch import Tensor

from worldbridge.models.conditioning.camera import POSE_DIM, check_poses
from worldbridge.models.procedural import THEMES, CameraState
from worldbridge.models.tokenizer import StreamState
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.controls import NEUTRAL, Action
from worldbridge.runtime.decoding import DecodeSession, SavedTokens
from worldbridge.runtime.errors import SnapshotError
from worldbridge.runtime.worlds.conditioning import Alignment, pose_of, pose_vector
from worldbridge.runtime.worlds.contract import Pose, WorldFrame

__all__ = [
    "ActionAccumulator",
    "ClientView",
    "CosmosState",
    "DecodedLatent",
    "Expected",
    "InFlightLatent",
    "Latent",
    "LatentRequest",
    "SNAPSHOT_VERSION",
    "Saved",
    "StreamSlot",
    "fingerprint",
    "pack",
    "unpack",
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
        total = tuple(x + float(y) for x, y in zip(self.total, action, strict=True))
        return ActionAccumulator(total, self.count + 1)

    def mean(self) -> Action:
        """In float32, as models and snapshots have it."""
        return tuple(float(np.float32(x / max(self.count, 1))) for x in self.total)


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
    """Frames, and what is known now that they are there. Times in ms; 0 for what was not done."""

    frames: list[bytes]
    codes: Tensor  # [h, w] on the CPU
    stream: StreamState
    t_tokens: float
    t_pixels: float
    drawing_ms: float
    together: int  # how many latents were drawn at that time
    pixels_ms: float


@dataclass(slots=True, eq=False)
class InFlightLatent:
    """Frames that are being made, seen from `poses`.

    Those of a new latent have an `order`; the others are of latents that were drawn before.
    """

    poses: Sequence[Pose]
    camera: CameraState  # after the last one
    order: LatentRequest | None = None
    pose: Tensor | None = None  # [8], the camera that conditions the model
    asked_ms: float = 0.0
    drawn: bool = False  # set by the drawing thread
    made: Future[DecodedLatent] = field(default_factory=Future)


@dataclass(slots=True, eq=False)
class CosmosState:
    """One stream.

    `tail`: its newest latents, oldest first, as many as frames depend on. `pending`: frames
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
    unmade: tuple[Pose, ...] = ()  # frames of `tail` that have to be made (again)
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
        """Frames that were promised and not shown."""
        return len(self.pending) + sum(len(c.poses) for c in self.coming)


SNAPSHOT_VERSION = 3
_ORDERS = 2  # one latent is drawn while another one is decoded


@dataclass(frozen=True, slots=True)
class Saved:
    """A stream. `poses` are those of the frames that were promised and not shown."""

    theme: str
    seed: int
    latents: int
    tail: tuple[Latent, ...]
    camera: CameraState
    poses: tuple[Pose, ...]
    orders: tuple[LatentRequest, ...]
    heard: ActionAccumulator
    view: ClientView | None
    prompt: str  # fingerprint of the text that the stream follows


@dataclass(frozen=True, slots=True)
class Expected:
    """What a world's snapshots look like.

    `kept`: latents of a tail, unless the stream is younger; `frames`: of a latent.
    """

    config: TransformerConfig
    kept: int
    frames: int


def fingerprint(context: Tensor | None) -> str:
    """Of a text's embeddings; empty where there is none."""
    if context is None:
        return ""
    return hashlib.sha256(context.float().cpu().numpy().tobytes()).hexdigest()[:16]


# -- writing --------------------------------------------------------------------------------------


def pack(saved: Saved, config: TransformerConfig) -> bytes:
    camera, tail = saved.camera, saved.tail
    codes = torch.stack([latent.codes for latent in tail]).cpu().numpy()
    actions = np.array([latent.action for latent in tail], np.float32)
    poses = [latent.pose.tolist() for latent in tail if latent.pose is not None]
    return msgpack.packb(  # type: ignore[no-any-return]
        {
            "version": SNAPSHOT_VERSION,
            "theme": saved.theme,
            "seed": saved.seed,
            "latents": saved.latents,
            "codes": codes.astype(_code_type(config)).tobytes(),
            "actions": actions.tobytes() if config.takes_actions else None,
            "cameras": np.array(poses).tobytes() if config.takes_camera else None,
            "camera": [camera.x, camera.z, camera.yaw, camera.pitch],
            "pictures": [pose_vector(pose).tolist() for pose in saved.poses],
            "orders": [[*order.action, *_sent(order)] for order in saved.orders],
            "heard": [*saved.heard.total, saved.heard.count],
            "view": None if saved.view is None else _packed_view(saved.view),
            "prompt": saved.prompt,
        }
    )


def _code_type(config: TransformerConfig) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if config.vocab_size <= 1 << 16 else np.uint32


def _sent(order: LatentRequest) -> list[float]:
    return [] if order.sent is None else pose_vector(order.sent).tolist()


def _packed_view(view: ClientView) -> list[float]:
    return [*view.alignment.rotation, *view.alignment.shift, *pose_vector(view.pose).tolist()]


# -- reading --------------------------------------------------------------------------------------

_damaged = partial(SnapshotError.damaged, SNAPSHOT_VERSION)


def unpack(data: bytes, expected: Expected) -> Saved:
    """What `pack` wrote. Raises SnapshotError for anything else."""
    try:
        values: dict[str, Any] = msgpack.unpackb(data)
        version = values["version"]
        if version != SNAPSHOT_VERSION:
            raise _damaged(f"version {version!r}")
        saved = _saved(values, expected.config)
        _check(saved, expected)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        msgpack.UnpackException,
    ) as error:
        raise _damaged(f"{len(data)} bytes ({type(error).__name__}: {error})") from error
    return saved


def _saved(values: dict[str, Any], config: TransformerConfig) -> Saved:
    """Raises whatever a wrong value leads to."""
    return Saved(
        theme=values["theme"],
        seed=_whole(values["seed"]),
        latents=_whole(values["latents"]),
        tail=_tail(values, config),
        camera=CameraState(*_finite(values["camera"], 4)),
        poses=tuple(pose_of(pose) for pose in _list(values["pictures"])),
        orders=tuple(_order(order) for order in _list(values["orders"])),
        heard=_heard(_list(values["heard"])),
        view=None if values["view"] is None else _view(values["view"]),
        prompt=values["prompt"],
    )


def _tail(values: dict[str, Any], config: TransformerConfig) -> tuple[Latent, ...]:
    _, height, width = config.latent_shape
    flat = np.frombuffer(values["codes"], _code_type(config)).reshape(-1, height, width)
    codes = torch.from_numpy(flat.astype(np.int64))
    if (values["actions"] is not None) != config.takes_actions:
        raise ValueError("actions of another model")
    if (values["cameras"] is not None) != config.takes_camera:
        raise ValueError("cameras of another model")
    actions = np.zeros((len(codes), 4), np.float32)
    if values["actions"] is not None:
        actions = np.frombuffer(values["actions"], np.float32).reshape(len(codes), 4)
    poses: list[Tensor | None] = [None] * len(codes)
    if values["cameras"] is not None:
        found = np.frombuffer(values["cameras"], np.float64).reshape(len(codes), POSE_DIM)
        turned = torch.from_numpy(found.copy())
        check_poses(turned, len(codes))
        poses = list(turned)
    rows = zip(codes, actions.tolist(), poses, strict=True)
    return tuple(Latent(latent, _action(action), pose) for latent, action, pose in rows)


def _check(saved: Saved, expected: Expected) -> None:
    """Raises ValueError for what no stream of this world can be."""
    count = len(saved.tail)
    if saved.theme not in THEMES:
        raise ValueError(f"theme {saved.theme!r}")
    if not 0 < count == min(saved.latents, expected.kept):
        raise ValueError(f"{count} of {saved.latents} latents")
    largest = max(int(latent.codes.max()) for latent in saved.tail)
    if largest >= expected.config.vocab_size:
        raise ValueError(f"codes up to {largest}, the model has {expected.config.vocab_size}")
    if len(saved.poses) > min(1 + expected.frames * (count - 1), 3 * expected.frames):
        raise ValueError(f"{len(saved.poses)} frames of {count} latents")
    if len(saved.orders) > _ORDERS or not isinstance(saved.prompt, str):
        raise ValueError(f"{len(saved.orders)} latents begun, prompt {saved.prompt!r}")


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {value!r}")
    return value


def _heard(values: list[Any]) -> ActionAccumulator:
    heard = ActionAccumulator(_action(values[:4], limit=None), _whole(*values[4:]))
    if max(map(abs, heard.total)) > heard.count * (1 + 1e-6):
        raise ValueError(f"expected the sum of {heard.count} actions, got {heard.total}")
    return heard


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"expected a whole number, got {value!r}")
    return value


def _finite(values: Sequence[float], count: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != count or not all(math.isfinite(value) for value in numbers):
        raise ValueError(f"expected {count} finite numbers, got {values}")
    return numbers


def _action(values: Sequence[float], limit: float | None = 1.0) -> Action:
    numbers = _finite(values, len(NEUTRAL))
    if limit is not None and max(map(abs, numbers)) > limit:
        raise ValueError(f"expected an action in [-{limit}, {limit}], got {values}")
    return tuple(numbers)


def _order(values: Sequence[float]) -> LatentRequest:
    action, pose = values[: len(NEUTRAL)], values[len(NEUTRAL) :]
    if not pose:
        return LatentRequest(_action(action))
    check_poses(torch.tensor([pose], dtype=torch.float64), 1)
    return LatentRequest(_action(action), pose_of(pose))


def _view(values: Sequence[float]) -> ClientView:
    a, b, c, d, x, y, z = _finite(values[:7], 7)
    return ClientView(Alignment((a, b, c, d), (x, y, z)), pose_of(values[7:]))
