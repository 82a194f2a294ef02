"""Explore a world: walk on, and turn away when walking no longer changes the frame.

    worldbridge serve --world procedural
    python examples/agent.py http://127.0.0.1:8080 --steps 600

Needs the extra `gym`. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random

import numpy as np
from numpy.typing import NDArray

from worldbridge.bridge.protocol import ControlSpec
from worldbridge.engine_plugins.python.environment import WorldEnv
from worldbridge.errors import StructuredError

BLOCKED = 1.5  # mean change of the frame, of 255, below which walking leads nowhere
TURN_STEPS = 20


class Explorer:
    """Chooses actions from the change between two observations."""

    def __init__(self, schema: tuple[ControlSpec, ...], seed: int = 0) -> None:
        self._index = {control.name: place for place, control in enumerate(schema)}
        if not {"forward", "yaw"} <= self._index.keys():
            raise SystemExit(f"expected a world with forward and yaw, got {list(self._index)}")
        self._random = random.Random(seed)
        self._before: NDArray[np.float32] | None = None
        self._turning, self._yaw = 0, 0.0

    def act(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return one value per control for an observation, uint8 [height, width, 3]."""
        small = pixels[::4, ::4].astype(np.float32)
        change = np.inf if self._before is None else float(np.abs(small - self._before).mean())
        self._before = small
        if self._turning == 0 and change < BLOCKED:
            self._turning, self._yaw = TURN_STEPS, self._random.choice((-0.7, 0.7))
        action = np.zeros(len(self._index), np.float32)
        if self._turning:
            self._turning -= 1
            action[self._index["yaw"]] = self._yaw
        else:
            action[self._index["forward"]] = 1.0
        return action


def explore(url: str, steps: int, seed: int) -> dict[str, float]:
    """Return how far the agent came in `steps` steps, and what it lost on the way."""
    env = WorldEnv(url)
    try:
        pixels, info = env.reset(seed=seed)
        agent = Explorer(env.spec_of_world.action_schema, seed)
        walked, position, interruptions, episodes = 0.0, info["position"], 0, 1
        for _ in range(steps):
            pixels, _, terminated, truncated, info = env.step(agent.act(pixels))
            interruptions += len(info["interruptions"])
            if terminated or truncated:
                pixels, info = env.reset()
                episodes += 1
            else:
                walked += float(np.linalg.norm(info["position"] - position))
            position = info["position"]
    finally:
        env.close()
    return {
        "steps": steps,
        "metres": round(walked, 2),
        "episodes": episodes,
        "interruptions": interruptions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        result = explore(options.url, options.steps, options.seed)
    except StructuredError as error:
        raise SystemExit(f"the world cannot be explored: {error}") from None
    print(json.dumps(result))


if __name__ == "__main__":
    main()
