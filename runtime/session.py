"""One session in a worker: its place in the world, its controls, its frames on the way out."""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgpack

from worldbridge.bridge.protocol import FrameHeader, Pose, RawFrame
from worldbridge.runtime.controls import NEUTRAL, Action, ControlLatch, ControlMemory, TurnLimits
from worldbridge.runtime.errors import SnapshotError
from worldbridge.runtime.worlds.contract import WorldModel, WorldStart

__all__ = ["FrameOutbox", "Session", "open_session", "pack_session", "restore_session"]

SNAPSHOT_VERSION = 1
FRAMES_IN_FLIGHT = 2
INPUT_LOG_FRAMES = 256
_ACTION = struct.Struct(f"<{len(NEUTRAL)}f")


class FrameOutbox:
    """Frames on their way out: while the gateway has two to take, only the newest waits."""

    def __init__(self, session: str, dropped: int = 0) -> None:
        self._session = session
        self._unacked: deque[int] = deque()
        self._waiting: RawFrame | None = None
        self.dropped = dropped

    def put(
        self, header: FrameHeader, payload: bytes, depth_scale: float | None = None
    ) -> list[RawFrame]:
        """The frames to send now: this one, or none while the gateway has two to take."""
        self.clear()
        self._waiting = RawFrame(self._session, header, memoryview(payload), depth_scale)
        return self._send()

    def acked(self, frame: int) -> list[RawFrame]:
        """The gateway took `frame` and all before it; the frames to send now."""
        while self._unacked and self._unacked[0] <= frame:
            self._unacked.popleft()
        return self._send()

    def clear(self) -> None:
        """Drop what waits, and count it."""
        if self._waiting is not None:
            self.dropped += 1
            self._waiting = None

    def _send(self) -> list[RawFrame]:
        if self._waiting is None or len(self._unacked) >= FRAMES_IN_FLIGHT:
            return []
        frame, self._waiting = self._waiting, None
        self._unacked.append(frame.header.frame)
        return [frame.replace(header=frame.header.replace(dropped=self.dropped))]


@dataclass(slots=True)
class Session:
    """`frame` numbers the next frame; it continues when the player restarts.

    `depth`: somebody wants the depth of its frames.
    """

    id: str
    start: WorldStart
    state: Any
    latch: ControlLatch
    box: FrameOutbox
    frame: int = 0
    depth: bool = False
    pose: Pose = field(default_factory=Pose)
    log: deque[bytes] = field(default_factory=lambda: deque(maxlen=INPUT_LOG_FRAMES))

    def record(self, action: Action, pose: Pose) -> None:
        """The world took `action` and made a frame seen from `pose`."""
        self.log.append(_ACTION.pack(*action))
        self.pose = pose
        self.frame += 1

    def restart(self, start: WorldStart, world: WorldModel[Any]) -> None:
        """Restart elsewhere. Controls and frame numbers continue: it is the same player.

        When the world refuses, the session is over: its old state goes first, since a full world
        has no room for both.
        """
        self.state = None
        self.state = world.open(start)
        self.start = replace(start, prompt_frames=None)  # megabytes that nobody asks for again
        self.log.clear()
        self.box.clear()

    def actions(self) -> list[Action]:
        """The newest actions, oldest first; the last one made frame `frame - 1`."""
        return [cast(Action, _ACTION.unpack(entry)) for entry in self.log]


def open_session(world: WorldModel[Any], session: str, start: WorldStart) -> Session:
    latch = ControlLatch(TurnLimits.at(world.spec.fps))
    kept = replace(start, prompt_frames=None)
    return Session(session, kept, world.open(start), latch, FrameOutbox(session))


def pack_session(world: WorldModel[Any], session: Session) -> bytes:
    """Everything needed to go on elsewhere, with a checksum: msgpack {version, crc32, body}."""
    memory = session.latch.memory
    body = msgpack.packb(
        {
            "world": world.spec.name,
            "theme": session.start.theme,
            "seed": session.start.seed,
            "frame": session.frame,
            "dropped": session.box.dropped,
            "state": world.save(session.state),
            "log": b"".join(session.log),
            "pose": [session.pose.position, session.pose.orientation, session.pose.fov_y],
            "controls": [memory.seq, memory.pointer, memory.turn_deg],
        }
    )
    packed: bytes = msgpack.packb(
        {"version": SNAPSHOT_VERSION, "crc32": zlib.crc32(body), "body": body}
    )
    return packed


def restore_session(world: WorldModel[Any], session: str, data: bytes) -> Session:
    """The session that `pack_session` saved, to go on under the id `session`.

    Raises:
        SnapshotError: damaged bytes, another version, or a snapshot of another world.
    """
    saved = _unpack(data)
    if saved["world"] != world.spec.name:
        raise SnapshotError(
            "the snapshot is of another world",
            expected=f"a snapshot of {world.spec.name!r}",
            got=f"one of {saved['world']!r}",
        )
    seq, pointer, turn_deg = saved["controls"]
    memory = ControlMemory(seq, tuple(pointer) if pointer else None, tuple(turn_deg))
    position, rotation, fov_y = saved["pose"]
    return Session(
        id=session,
        start=WorldStart(saved["theme"], saved["seed"]),
        state=world.load(saved["state"]),
        latch=ControlLatch(TurnLimits.at(world.spec.fps), memory),
        box=FrameOutbox(session, saved["dropped"]),
        frame=saved["frame"],
        pose=Pose(tuple(position), tuple(rotation), fov_y),
        log=deque(_entries(saved["log"]), maxlen=INPUT_LOG_FRAMES),
    )


def _entries(log: bytes) -> Iterable[bytes]:
    return (log[at : at + _ACTION.size] for at in range(0, len(log), _ACTION.size))


def _unpack(data: bytes) -> dict[str, Any]:
    """The checked body. The checksum covers all of it, so what passes is what was packed."""
    expected = f"a session snapshot of version {SNAPSHOT_VERSION}"
    try:
        outer = msgpack.unpackb(data)
        version, crc32, body = outer["version"], outer["crc32"], outer["body"]
        actual = zlib.crc32(body)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise SnapshotError(
            "the snapshot is damaged",
            expected=expected,
            got=f"{len(data)} bytes ({type(error).__name__}: {error})",
        ) from error
    if version != SNAPSHOT_VERSION:
        raise SnapshotError(
            "the snapshot has another version", expected=expected, got=f"version {version!r}"
        )
    if crc32 != actual:
        raise SnapshotError(
            "the snapshot is damaged", expected=f"checksum {crc32!r}", got=f"checksum {actual}"
        )
    saved: dict[str, Any] = msgpack.unpackb(body)
    return saved
