"""The world with a spatial memory, served and played by a client's camera."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.guided.test_world_training import NET, SMALL
from tests.support.server import Server, serving
from worldbridge.bridge.protocol import Pose
from worldbridge.engine_plugins.python import connect
from worldbridge.models.guided.checkpoint import save_guided_world
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.transformer import VideoTransformer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


async def test_an_engines_frame_is_shown_where_it_was_rendered(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "world"
    save_guided_world(
        folder, GuidedTokenizer(replace(SMALL, height=64, width=96)), VideoTransformer(NET)
    )
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 220
    depth = np.full((40, 60), 2.0)
    depth[:, :20] = np.inf
    pose = Pose((7.0, 1.6, 7.0))
    with serving(tmp_path / "log", "--world", str(folder), "--seats", "1") as server:
        async with connect(server.url, theme="zoo", seed=1) as client, asyncio.timeout(240):
            await client.frame()
            client.observe(red, depth, pose, fresh=True)
            for _ in range(2000):
                client.steer(pose=pose)
                right = (await client.frame()).rgb()[8:-8, 40:-4].astype(int)
                if right[..., 0].min() > 150 and right[..., 1:].max() < 90:
                    break
            else:
                raise AssertionError("the engine's frame was not shown")
            assert client.refusal is None


async def test_a_prompt_frame_starts_a_world_with_its_depth(tmp_path: Path) -> None:
    """The estimate of an untrained network is elsewhere."""
    torch.manual_seed(0)
    folder = tmp_path / "world"
    sizes = replace(SMALL, height=64, width=96)
    save_guided_world(folder, GuidedTokenizer(sizes), VideoTransformer(NET))
    frame = np.full((128, 192, 3), 200, np.uint8)
    metres = np.full((64, 96), 7.25, np.float32)
    with serving(tmp_path / "log", "--world", str(folder), "--seats", "1") as server:
        playing = connect(
            server.url, theme="zoo", prompt_frames=frame, prompt_depth=metres, depth=True
        )
        async with playing as client, asyncio.timeout(240):
            while (depth := (await client.frame()).depth()) is None:
                pass
            assert np.allclose(depth, 7.25, atol=0.01)
            assert client.refusal is None
            client.start(prompt_frames=frame, prompt_depth=np.ones((64, 20)))
            while client.refusal is None:
                await client.frame()
            assert client.refusal.code == "bad_prompt_frame"
            assert "another shape" in client.refusal.message


async def test_a_world_without_memory_refuses_an_engines_frame(procedural: Server) -> None:
    async with connect(procedural.url) as client, asyncio.timeout(120):
        await client.frame()
        client.observe(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8)), Pose())
        while client.refusal is None:
            await client.frame()
        assert client.refusal.code == "unsupported"
        assert "observations" in client.refusal.expected
        await client.frame()


async def test_a_client_leads_the_camera_of_a_world_with_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "world"
    sizes = replace(SMALL, height=64, width=96)
    save_guided_world(folder, GuidedTokenizer(sizes), VideoTransformer(NET))
    with serving(tmp_path / "log", "--world", str(folder), "--seats", "1") as server:
        async with connect(server.url, theme="zoo", seed=1) as client, asyncio.timeout(120):
            first = (await client.frame()).header.camera
            client.steer(pose=Pose((7.0, 0.0, 7.0)))
            await client.frame()
            for _ in range(400):
                client.steer(pose=Pose((7.5, 0.0, 7.0)))
                frame = await client.frame()
                moved = np.subtract(frame.header.camera.position, first.position)
                if abs(float(np.linalg.norm(moved)) - 0.5) < 1e-3:
                    break
            else:
                raise AssertionError(f"the camera stayed at {frame.header.camera}")
        assert server.process.poll() is None
