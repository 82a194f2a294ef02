"""A tiny deterministic world on a clock that only moves by hand, for the engine's logic."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from worldbridge.bridge.protocol import ControllerState, Pose, WorldSpec, i420_bytes
from worldbridge.runtime.controls import control_specs
from worldbridge.runtime.errors import SnapshotError, UnknownThemeError
from worldbridge.runtime.worlds.contract import Controls, Synchronous, WorldFrame, WorldStart

SPEC = WorldSpec(
    name="counting",
    title="Counts steps",
    width=16,
    height=8,
    fps=15.0,
    frames_per_latent=1,
    themes=("plain", "striped"),
    action_schema=control_specs(("strafe", "forward", "yaw", "pitch")),
    context_latents=0,
    kind="procedural",
)


@dataclass
class FakeClock:
    now_ms: float = 1000.0


@dataclass(eq=False)
class CountingState:
    theme: str
    seed: int
    steps: int = 0
    walked: float = 0.0


class CountingWorld(Synchronous[CountingState]):
    """Its frame shows theme, seed, steps and distance; states with a seed in `broken` raise."""

    def __init__(
        self,
        clock: FakeClock,
        broken: Iterable[int] = (),
        step_ms: float = 10.0,
        spec: WorldSpec = SPEC,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.clock, self.step_ms = clock, step_ms
        self.broken = set(broken)
        self.batches: list[int] = []
        self.states: weakref.WeakSet[CountingState] = weakref.WeakSet()

    def open(self, start: WorldStart) -> CountingState:
        if start.theme not in self.spec.themes:
            raise UnknownThemeError(start.theme, self.spec.themes)
        state = CountingState(start.theme, start.seed)
        self.states.add(state)
        return state

    def alive(self) -> list[int]:
        """Seeds of the states that someone still holds."""
        return sorted(state.seed for state in self.states)

    def submit(self, states: Sequence[CountingState], controls: Sequence[Controls]) -> None:
        self.batches.append(len(states))
        self.clock.now_ms += self.step_ms
        super().submit(states, controls)

    def render(self, state: CountingState, controls: Controls) -> WorldFrame:
        if state.seed in self.broken:
            raise RuntimeError(f"seed {state.seed} is broken")
        state.steps += 1
        state.walked += controls.action[1]
        pose, now = Pose(position=(0.0, 1.6, -state.walked)), self.clock.now_ms
        return WorldFrame(counting_frame(state), pose, now - self.step_ms / 2, now, controls.tag)

    def save(self, state: CountingState) -> bytes:
        return json.dumps(asdict(state)).encode()

    def load(self, data: bytes) -> CountingState:
        try:
            return CountingState(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise SnapshotError("damaged", expected="JSON", got=str(error)) from error


def counting_frame(state: CountingState) -> bytes:
    said = f"{state.theme} {state.seed} {state.steps} {state.walked:.3f}".encode()
    return said.ljust(i420_bytes(SPEC.width, SPEC.height), b".")


def held(seq: int, *keys: str, pointer: tuple[float, float] = (0.0, 0.0)) -> ControllerState:
    return ControllerState(sequence=seq, time=seq * 16.0, keys=keys, pointer=pointer)
