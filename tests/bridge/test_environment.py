"""The Gymnasium environment: Gymnasium's own checks, seeds, truncation, and what was lost."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from tests.bridge.conftest import Rig
from tests.support.fake_worker import SPEC
from worldbridge.bridge.protocol import BridgeError, ControlSpec, RestartSession

gymnasium = pytest.importorskip("gymnasium", reason="needs gymnasium (the extra `gym`)")
from gymnasium.utils.env_checker import check_env  # noqa: E402

from worldbridge.engine_plugins.python import Interruption  # noqa: E402
from worldbridge.engine_plugins.python.environment import ENVIRONMENT_ID, WorldEnv, controller_of  # noqa: E402


async def off_loop(test: Callable[[], None]) -> None:
    """Run blocking code beside the gateway of this event loop."""
    await asyncio.to_thread(test)


async def test_gymnasium_finds_no_fault(rig: Rig) -> None:
    await rig.worker()

    def check() -> None:
        env = gymnasium.make(ENVIRONMENT_ID, url=rig.url, disable_env_checker=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(env.unwrapped)
        env.close()

    await off_loop(check)


async def test_seeds_decide_the_world_and_steps_are_limited(rig: Rig) -> None:
    worker = await rig.worker()

    def play() -> None:
        env = gymnasium.make(ENVIRONMENT_ID, url=rig.url, max_episode_steps=2)
        seeds = [env.reset(seed=5)[1]["seed"], env.reset()[1]["seed"]]
        again = [env.reset(seed=5)[1]["seed"], env.reset()[1]["seed"]]
        assert seeds == again and seeds[0] == 5 != seeds[1]
        pixels, _, _, truncated, info = env.step(np.zeros(2, np.float32))
        assert pixels.shape == (SPEC.height, SPEC.width, 3) and not truncated
        assert info["interruptions"] == [] and info["position"][0] == info["frame"]
        assert env.step(np.zeros(2, np.float32))[3]
        with pytest.raises(BridgeError, match="unknown_theme"):
            env.reset(options={"theme": "narnia"})
        env.close()

    await off_loop(play)
    seen = [message.seed for message in worker.of(RestartSession)]  # type: ignore[attr-defined]
    assert seen[0] == seen[2] == 5 and seen[1] == seen[3]


async def test_a_reset_waits_for_its_world_however_many_there_were(rig: Rig) -> None:
    worker = await rig.worker()

    def play() -> None:
        env = WorldEnv(rig.url)
        for count in range(1, 8):  # more than the gateway forwards at once
            env.reset(seed=count)
            seeds = [message.seed for message in worker.of(RestartSession)]  # type: ignore[attr-defined]
            assert seeds[-1] == count, f"reset {count} returned a frame of an older world"
        env.close()

    await off_loop(play)


async def test_a_lost_world_truncates_the_episode(rig: Rig) -> None:
    await rig.worker()

    def play() -> None:
        env = WorldEnv(rig.url, reward=lambda pixels, header: header.frame / 2)
        env.reset(seed=1)
        client = env._player._client
        for keeps_seat in (True, False):
            if not keeps_seat:
                client._hello = client._hello.replace(resume=None)  # as after an expired seat
            assert client._link is not None
            env._player._on_loop(client._link.abort)
            lost: list[Interruption] = []
            while not lost:
                _, reward, _, truncated, info = env.step(np.zeros(2, np.float32))
                assert reward == info["frame"] / 2
                lost = info["interruptions"]
            assert [loss.same_world for loss in lost] == [keeps_seat]
            assert truncated is not keeps_seat
        env.close()

    await off_loop(play)


def test_actions_become_what_a_controller_holds() -> None:
    schema = (
        ControlSpec("forward", "axis", (-1.0, 1.0), ("KeyS",), ("KeyW",), 1, True),
        ControlSpec("turn", "axis", (-2.0, 2.0), ("KeyA",), ("KeyD",)),
        ControlSpec("jump", "button", (0.0, 1.0), (), ("Space",)),
    )
    held = controller_of(schema, np.float32([1, -1.5, 0.75]))
    assert held == {"axes": [0, -1, 0, 0], "keys": ["KeyA", "Space"]}
    assert controller_of(schema, np.float32([0, 0.9, 0])) == {"axes": [0.0] * 4, "keys": []}
    for wrong in (np.zeros(2), np.array([0, 0, np.nan])):
        with pytest.raises(ValueError, match="expected 3 finite values"):
            controller_of(schema, wrong)
