"""A tiny deterministic world on a clock that only moves when told, for the engine's logic."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from torch import Tensor

from worldbridge.bridge.protocol import ControllerState, Pose, WorldSpec, i420_bytes
from worldbridge.runtime.errors import SnapshotError, UnknownThemeError
from worldbridge.runtime.worlds.contract import Frames, WorldStart, WorldState

SPEC = WorldSpec(
    name="counting",
    title="Counts steps",
    width=16,
    height=8,
    fps=15.0,
    frames_per_latent=1,
    themes=("plain", "striped"),
    action_schema=("strafe", "forward", "yaw", "pitch"),
    context_frames=0,
    kind="procedural",
)


@dataclass
class FakeClock:
    now_ms: float = 1000.0


@dataclass(eq=False)
class CountingState(WorldState):
    theme: str
    seed: int
    steps: int = 0
    walked: float = 0.0


@dataclass
class CountingWorld:
    """Its frame shows theme, seed, steps and distance; states with a seed in `broken` raise."""

    clock: FakeClock
    spec: WorldSpec = SPEC
    step_ms: float = 10.0
    broken: set[int] = field(default_factory=set)
    batches: list[int] = field(default_factory=list)
    states: weakref.WeakSet[CountingState] = field(default_factory=weakref.WeakSet)

    def open(self, start: WorldStart) -> CountingState:
        if start.theme not in self.spec.themes:
            raise UnknownThemeError(start.theme, self.spec.themes)
        state = CountingState(start.theme, start.seed)
        self.states.add(state)
        return state

    def alive(self) -> list[int]:
        """Seeds of the states that someone still holds."""
        return sorted(state.seed for state in self.states)

    def step(self, states: Sequence[CountingState], actions: Tensor) -> Frames:
        for state in states:
            if state.seed in self.broken:
                raise RuntimeError(f"seed {state.seed} is broken")
        self.batches.append(len(states))
        for state, action in zip(states, actions.tolist(), strict=True):
            state.steps += 1
            state.walked += action[1]
        latch_ms = self.clock.now_ms
        self.clock.now_ms += self.step_ms
        poses = [Pose(position=(0.0, 1.6, -state.walked)) for state in states]
        frames = [counting_frame(state) for state in states]
        return Frames(frames, poses, latch_ms + self.step_ms / 2, self.clock.now_ms)

    def snapshot(self, state: CountingState) -> bytes:
        return json.dumps(asdict(state)).encode()

    def restore(self, data: bytes) -> CountingState:
        try:
            return CountingState(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise SnapshotError("damaged", expected="JSON", got=str(error)) from error


def counting_frame(state: CountingState) -> bytes:
    said = f"{state.theme} {state.seed} {state.steps} {state.walked:.3f}".encode()
    return said.ljust(i420_bytes(SPEC.width, SPEC.height), b".")


def held(seq: int, *keys: str, pointer: tuple[float, float] = (0.0, 0.0)) -> ControllerState:
    return ControllerState(seq=seq, time=seq * 16.0, keys=keys, pointer=pointer)
