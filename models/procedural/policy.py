"""A plausible random player, for training data: smooth pieces of walking, turning, looking."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from worldbridge.models.procedural.camera import CameraState, clearance, spawn, step_camera
from worldbridge.models.procedural.scene import Scene

__all__ = ["random_walk"]

_BLOCKED_M = 1.0
_RELEASED_M = 2.0
# What a piece of play does, and how often: (strafe, forward, yaw, pitch) axes in use.
_PIECES: tuple[tuple[float, tuple[bool, bool, bool, bool]], ...] = (
    (0.17, (False, False, False, False)),
    (0.24, (False, True, False, False)),
    (0.18, (False, True, True, False)),
    (0.17, (False, False, True, False)),
    (0.16, (True, False, False, False)),
    (0.07, (True, True, False, False)),
    (0.08, (False, False, False, True)),
    (0.08, (False, False, True, True)),
)


@dataclass(frozen=True, slots=True)
class _Piece:
    frames: int
    target: tuple[float, float, float, float]
    smooth: float  # share of the way to the target made per frame; 1 is a digital key


class _Player:
    """Plays one walk. Signs alternate like a shuffled deck, so each axis is covered evenly."""

    def __init__(self, scene: Scene, seed: int, stubborn: bool) -> None:
        self.scene = scene
        self.stubborn = stubborn
        self.rng = random.Random(f"{scene.theme}/{scene.seed}/{seed}")
        self.decks: dict[int, list[float]] = {axis: [] for axis in range(4)}
        self.now = [0.0, 0.0, 0.0, 0.0]
        self.piece = _Piece(0, (0.0, 0.0, 0.0, 0.0), 1.0)
        self.left = 0
        self.turned = 0.0  # sum of the yaw actions so far

    def act(self, state: CameraState) -> list[float]:
        self.left -= 1
        if self.left <= 0:
            self.piece = self._next_piece(state)
            self.left = self.piece.frames
        if not self.stubborn:
            self._avoid_walls(state)
        target = self.piece.target
        for axis in range(4):
            self.now[axis] += (target[axis] - self.now[axis]) * self.piece.smooth
            if abs(self.now[axis]) < 0.02 and target[axis] == 0.0:
                self.now[axis] = 0.0
        self.turned += self.now[2]
        return list(self.now)

    def _next_piece(self, state: CameraState) -> _Piece:
        weights = [weight for weight, _ in _PIECES]
        axes = self.rng.choices([axes for _, axes in _PIECES], weights)[0]
        digital = self.rng.random() < 0.6
        values = [self._value(axis, digital) if used else 0.0 for axis, used in enumerate(axes)]
        if axes[3] and values[3] * state.pitch > 0 and abs(state.pitch) > 0.25:
            values[3] = -values[3]
        elif not any(axes) or (not axes[3] and abs(state.pitch) > 0.2 and self.rng.random() < 0.4):
            values[3] = -math.copysign(0.5, state.pitch) if abs(state.pitch) > 0.2 else 0.0
        frames = self.rng.randint(4, 14) if axes[3] else self.rng.randint(6, 26)
        smooth = 1.0 if digital else self.rng.uniform(0.15, 0.5)
        return _Piece(frames, (values[0], values[1], values[2], values[3]), smooth)

    def _value(self, axis: int, digital: bool) -> float:
        size = 1.0 if digital else self.rng.uniform(0.2, 1.0)
        return size * self._sign(axis)

    def _sign(self, axis: int) -> float:
        deck = self.decks[axis]
        if not deck:
            deck.extend([1.0, 1.0, -1.0, -1.0])
            self.rng.shuffle(deck)
        return deck.pop()

    def _avoid_walls(self, state: CameraState) -> None:
        """Turn away when the way ahead is blocked."""
        target = self.piece.target
        if target[1] > 0 or target[0] != 0.0:
            ahead = clearance(self.scene, state.x, state.z, state.yaw, _RELEASED_M)
            if ahead <= _BLOCKED_M:
                self.piece = self._turn_away(state)
                self.left = self.piece.frames

    def _turn_away(self, state: CameraState) -> _Piece:
        """Towards the side turned to less so far, unless only the other one is open."""
        views = [
            clearance(self.scene, state.x, state.z, state.yaw + side, 6.0) for side in (0.9, -0.9)
        ]
        sign = -math.copysign(1.0, self.turned)
        if min(views) < 1.5 < max(views):
            sign = math.copysign(1.0, views[0] - views[1])
        rate = 1.0 if self.rng.random() < 0.6 else self.rng.uniform(0.5, 1.0)
        return _Piece(self.rng.randint(10, 20), (0.0, 0.0, sign * rate, 0.0), 1.0)


def random_walk(
    scene: Scene, seed: int, frames: int, *, stubborn: bool = False, lead_in: int = 0
) -> tuple[Tensor, list[CameraState]]:
    """A seeded walk: actions float32 [frames, 4] and `frames` camera states.

    `states[i]` is the camera after `actions[i]`; without a lead-in, `states[0]` is the spawn and
    `actions[0]` is zero. The first `lead_in` frames of the walk are left out. A stubborn player
    does not turn away from what is in the way, but goes on into it, as people do.
    Raises ValueError unless `frames` is positive and `lead_in` is not negative.
    """
    if frames < 1 or lead_in < 0:
        raise ValueError(f"expected frames >= 1 and lead_in >= 0, got {frames} and {lead_in}")
    player = _Player(scene, seed, stubborn)
    states = [spawn(scene, seed)]
    played = [[0.0, 0.0, 0.0, 0.0]]
    for _ in range(lead_in + frames - 1):
        action = player.act(states[-1])
        states.append(step_camera(scene, states[-1], action))
        played.append(action)
    return torch.tensor(played[lead_in:], dtype=torch.float32), states[lead_in:]
