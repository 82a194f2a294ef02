"""A Gymnasium environment around a running server. Needs the extra `gym`.

import gymnasium
import worldbridge.engine_plugins.python.environment  # registers the id

env = gymnasium.make("worldbridge/World-v0", url="http://127.0.0.1:8080")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldbridge.bridge.protocol import ControlSpec, FrameHeader
from worldbridge.engine_plugins.python.client import ReceivedFrame, connect
from worldbridge.engine_plugins.python.faults import ConnectError
from worldbridge.engine_plugins.python.player import Player

__all__ = ["ENVIRONMENT_ID", "WorldEnv", "controller_of"]

ENVIRONMENT_ID: Final = "worldbridge/World-v0"
_SEEDS: Final = 2**31

Pixels = NDArray[np.uint8]
Reward = Callable[[Pixels, FrameHeader], float]


def controller_of(
    schema: Sequence[ControlSpec], action: NDArray[np.floating[Any]]
) -> dict[str, Any]:
    """Return what a controller holds for an action: `axes` and `keys`, as `steer` takes them.

    `action` has one value per control of `schema`, in its range. A control without an axis holds
    its first high key above the middle of the positive half, its first low key below that of the
    negative half. Raises ValueError for another shape or for NaN.
    """
    values = np.asarray(action, np.float64)
    if values.shape != (len(schema),) or not np.isfinite(values).all():
        raise ValueError(f"expected {len(schema)} finite values, got {action!r}")
    axes, keys = [0.0] * 4, []
    for control, value in zip(schema, values.tolist(), strict=True):
        low, high = control.range
        if control.default_axis is not None:
            share = value / max(abs(low), abs(high), 1e-9)
            axes[control.default_axis] = -share if control.inverted else share
        elif control.high_keys and value > high / 2:
            keys.append(control.high_keys[0])
        elif control.low_keys and value < low / 2:
            keys.append(control.low_keys[0])
    return {"axes": axes, "keys": keys}


class WorldEnv(gymnasium.Env[Pixels, NDArray[np.float32]]):
    """A world as an environment for agents.

    An observation is a frame, uint8 [height, width, 3]; an action has one float32 per control of
    the world's action schema. `step` returns the first frame that answers the action; the world
    runs in real time and holds the action until the next. An episode is truncated when the server
    lost its world; `gymnasium.make(..., max_episode_steps=n)` limits it as well.

    Args:
        url: a server's address.
        theme: as `options={"theme": ...}` of `reset`.
        world: refuse to play any world but this one.
        token: the server's secret, if it requires one.
        reward: computes the reward from a frame and its header; 0 without.
        patience_s: seconds to wait for a frame before TimeoutError, also through reconnects.
        render_mode: None or "rgb_array".

    Raises BridgeError if the server refuses, ConnectError if there is none of ours.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        theme: str | None = None,
        world: str | None = None,
        token: str | None = None,
        reward: Reward | None = None,
        patience_s: float = 60.0,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"expected render_mode None or 'rgb_array', got {render_mode!r}")
        self.render_mode = render_mode
        self._url, self._theme, self._reward, self._patience_s = url, theme, reward, patience_s
        self._connection = connect(url, theme=theme, world=world, token=token, name="gymnasium")
        self._player: Player = self._connection.__enter__()
        try:
            self.spec_of_world = self._player.world(patience_s)
        except BaseException:
            self.close()
            raise
        shown, schema = self.spec_of_world, self.spec_of_world.action_schema
        self.metadata = {**type(self).metadata, "render_fps": shown.fps}
        low, high = np.array([control.range for control in schema], np.float32).reshape(-1, 2).T
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        self.observation_space = spaces.Box(0, 255, (shown.height, shown.width, 3), np.uint8)
        self._pixels: Pixels | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Pixels, dict[str, Any]]:
        """Restart the world from `seed`; without one, from the next number of `np_random`.

        `options` may hold a `theme`. Raises BridgeError for a theme that the world lacks.
        """
        super().reset(seed=seed)
        chosen = seed if seed is not None else int(self.np_random.integers(_SEEDS))
        theme = (options or {}).get("theme", self._theme)
        frame = self._player.restart(theme, chosen, self._patience_s)
        lost = self._player.take_interruptions()
        return self._observe(frame), {**_info(frame), "seed": chosen, "interruptions": lost}

    def step(self, action: NDArray[np.float32]) -> tuple[Pixels, float, bool, bool, dict[str, Any]]:
        """Hold `action` and return the first frame that answers it.

        `info["interruptions"]` lists what lost connections cost since the last call.
        """
        held = controller_of(self.spec_of_world.action_schema, action)
        frame = self._player.step(self._patience_s, **held)
        pixels = self._observe(frame)
        lost = self._player.take_interruptions()
        truncated = any(not loss.same_world for loss in lost)
        reward = 0.0 if self._reward is None else float(self._reward(pixels, frame.header))
        return pixels, reward, False, truncated, {**_info(frame), "interruptions": lost}

    def _observe(self, frame: ReceivedFrame) -> Pixels:
        pixels = frame.rgb()
        if pixels.shape != self.observation_space.shape:
            raise ConnectError(
                "the server plays another world than before",
                expected=f"frames {self.observation_space.shape}",
                got=f"{pixels.shape}",
                remedy="Make the environment again.",
            )
        self._pixels = pixels
        return pixels.copy()

    def render(self) -> Pixels | None:  # type: ignore[override]
        """Return a copy of the newest observation; None unless `render_mode` is "rgb_array"."""
        if self.render_mode is None or self._pixels is None:
            return None
        return self._pixels.copy()

    def close(self) -> None:
        """Free the seat. May be called again."""
        self._player.close()


def _info(frame: ReceivedFrame) -> dict[str, Any]:
    header = frame.header
    return {
        "frame": header.frame,
        "position": np.array(header.camera.position),
        "orientation": np.array(header.camera.orientation),
    }


if ENVIRONMENT_ID not in gymnasium.registry:
    # Nondeterministic: a real-time server decides which frame is the first to answer.
    gymnasium.register(ENVIRONMENT_ID, entry_point=f"{__name__}:WorldEnv", nondeterministic=True)
