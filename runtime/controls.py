"""What a player's controller means for a world: snapshots in, actions out. Pure; no clock is read.

An action has a value in [-1, 1] for each of `ACTION_NAMES`, of the largest step a world makes per
frame; strafe + is right, forward + is ahead, yaw + turns left, pitch + looks up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from worldbridge.bridge.protocol import ControllerState, ControlSpec, Pose
from worldbridge.models.procedural.actions import (
    ACTION_NAMES,
    FRAMES_PER_SECOND,
    MAX_PITCH_DEG,
    MAX_YAW_DEG,
)

__all__ = [
    "NEUTRAL",
    "Action",
    "ControlLatch",
    "ControlMemory",
    "LatchedControls",
    "TurnLimits",
    "control_specs",
    "held_action",
]

Action = tuple[float, ...]  # in the order of ACTION_NAMES
NEUTRAL: Action = (0.0,) * len(ACTION_NAMES)

DEAD_ZONE = 0.12
POINTER_DEG_PER_PIXEL = 0.12
# A flick of the mouse goes on turning for this many frames at most; more would feel like drift.
POINTER_CARRY_FRAMES = 3.0
SILENCE_MS = 250.0

_CONTROLS = {
    spec.name: spec
    for spec in (
        ControlSpec("strafe", "axis", (-1.0, 1.0), ("KeyA",), ("KeyD",), 0),
        ControlSpec(
            "forward", "axis", (-1.0, 1.0), ("KeyS", "ArrowDown"), ("KeyW", "ArrowUp"), 1, True
        ),
        ControlSpec(
            "yaw", "look", (-1.0, 1.0), ("ArrowRight", "KeyE"), ("ArrowLeft", "KeyQ"), 2, True
        ),
        ControlSpec("pitch", "look", default_axis=3, inverted=True),
    )
}


def control_specs(names: Iterable[str]) -> tuple[ControlSpec, ...]:
    """Return the description of each control of a world. Raises KeyError for an unknown name."""
    return tuple(_CONTROLS[name] for name in names)


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """The most a camera turns per frame, in degrees: what a yaw or a pitch of 1 stands for."""

    yaw_deg: float
    pitch_deg: float

    @classmethod
    def at(cls, fps: float) -> TurnLimits:
        """Speeds are defined per second, so a world with more frames turns less in each."""
        share = FRAMES_PER_SECOND / fps
        return cls(MAX_YAW_DEG * share, MAX_PITCH_DEG * share)


def held_action(snapshot: ControllerState) -> Action:
    """What keys and sticks ask for (not the pointer). Components may exceed 1: not yet clamped."""
    keys = set(snapshot.keys)
    left_x, left_y = _outside_dead_zone(*snapshot.axes[:2])
    right_x, right_y = _outside_dead_zone(*snapshot.axes[2:])
    strafe = _held(keys, "strafe") + left_x
    forward = _held(keys, "forward") - left_y
    yaw = _held(keys, "yaw") - right_x
    others = (_held(keys, name) for name in ACTION_NAMES[4:])  # keys alone
    return strafe, forward, yaw, -right_y, *others


def _held(keys: set[str], control: str) -> float:
    spec = _CONTROLS[control]
    return float(not keys.isdisjoint(spec.high_keys)) - float(not keys.isdisjoint(spec.low_keys))


def _outside_dead_zone(x: float, y: float) -> tuple[float, float]:
    """A stick without its dead zone: 0 inside, then growing from 0 so that nothing jumps."""
    reach = math.hypot(x, y)
    if reach <= DEAD_ZONE:
        return 0.0, 0.0
    scale = (reach - DEAD_ZONE) / (1.0 - DEAD_ZONE) / reach
    return _clamp(x * scale), _clamp(y * scale)


def _clamp(value: float, limit: float = 1.0) -> float:
    return min(max(value, -limit), limit)


@dataclass(frozen=True, slots=True)
class ControlMemory:
    """What a latch remembers between frames; saved with a session's snapshot.

    `pointer` is the counter up to which movement was used, None if the next one is the baseline;
    `turn_deg` is the (yaw, pitch) that the pointer asked for and no frame has turned yet.
    """

    seq: int = -1
    pointer: tuple[float, float] | None = (0.0, 0.0)
    turn_deg: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class LatchedControls:
    """The controls of one frame, and which input they come from (seq -1: none, times 0).

    `pose` is the client's own camera, if it sends one.
    """

    action: Action = NEUTRAL
    seq: int = -1
    time: float = 0.0
    t_input: float = 0.0
    pose: Pose | None = None


class ControlLatch:
    """The newest snapshot of one session's controller, taken once per frame.

    A controller that is silent for 250 ms is released. Snapshots may come late or twice: an older
    `seq` is ignored, unless the latch is silent. Then it is a client that restarted (a page that
    was loaded again counts from 0), and its pointer counter starts again with it.
    """

    def __init__(self, limits: TurnLimits, memory: ControlMemory | None = None) -> None:
        self._limits = limits
        self.memory = memory or ControlMemory()
        self._newest: ControllerState | None = None
        self._t_input = 0.0
        self._heard_ms = -math.inf

    def offer(self, snapshot: ControllerState, t_input_ms: float, now_ms: float) -> bool:
        """Whether the snapshot is news. `now_ms` is this process's time, for the silence rule."""
        if snapshot.sequence <= self.memory.seq:
            if not self._silent(now_ms):
                return False
            self.memory = ControlMemory(pointer=None)
        if self.memory.pointer is None:
            self.memory = replace(self.memory, pointer=snapshot.pointer)
        self.memory = replace(self.memory, seq=snapshot.sequence)
        self._newest, self._t_input, self._heard_ms = snapshot, t_input_ms, now_ms
        return True

    def take(self, now_ms: float) -> LatchedControls:
        """The controls for a frame whose step starts now."""
        snapshot = self._newest
        if snapshot is None or self._silent(now_ms):
            self.memory = replace(self.memory, turn_deg=(0.0, 0.0))
            return LatchedControls()
        strafe, forward, yaw, pitch, *others = held_action(snapshot)
        pointer_yaw, pointer_pitch = self._turn(snapshot.pointer)
        action = strafe, forward, yaw + pointer_yaw, pitch + pointer_pitch, *others
        return LatchedControls(
            tuple(_clamp(value) for value in action),
            snapshot.sequence,
            snapshot.time,
            self._t_input,
            snapshot.camera,
        )

    def _silent(self, now_ms: float) -> bool:
        return now_ms - self._heard_ms > SILENCE_MS

    def _turn(self, pointer: tuple[float, float]) -> tuple[float, float]:
        """This frame's (yaw, pitch) from the pointer, in [-1, 1]; what is left is carried over."""
        base = self.memory.pointer or pointer
        # +x is to the right and +y is down, both against the sense of yaw and pitch
        asked = (base[0] - pointer[0], base[1] - pointer[1])
        yaw, yaw_left = _spend(asked[0], self.memory.turn_deg[0], self._limits.yaw_deg)
        pitch, pitch_left = _spend(asked[1], self.memory.turn_deg[1], self._limits.pitch_deg)
        self.memory = replace(self.memory, pointer=pointer, turn_deg=(yaw_left, pitch_left))
        return yaw, pitch


def _spend(pixels: float, carried_deg: float, limit_deg: float) -> tuple[float, float]:
    """(turn in [-1, 1], degrees carried over) for a movement on top of what was carried."""
    wanted = carried_deg + pixels * POINTER_DEG_PER_PIXEL
    turned = _clamp(wanted, limit_deg)
    carried = _clamp(wanted - turned, POINTER_CARRY_FRAMES * limit_deg)
    return turned / limit_deg, carried
