"""Converted worlds with a text, actions and cameras, played by the commands a person would type."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.test_convert import CLI, MODEL, TOKENIZER
from tests.support.server import serving
from worldbridge.bridge.protocol import Pose
from worldbridge.engine_plugins.python import connect
from worldbridge.models.convert.reference import reference_config
from worldbridge.models.convert.synthetic import write_checkpoint

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CONTEXT = {
    "input_vocab_rows": 64064,
    "begin_of_video_token": 64000,
    "apply_abs_pos_emb": True,
    "context_dim": 1024,
    "yarn": None,
    "video_latent_shape": [3, 2, 4],
}
ACTIONS = {
    "conditioning": "cross_attention",
    "condition_dim": 7,
    "camera": "pluecker",
    "actions": ["strafe", None, ["forward", -1.28], None, None, ["yaw", 0.7], None],
}


def _converted(folder: Path, **fields: object) -> Path:
    """A tiny 5B: cross-attention, absolute positions, a begin-of-video token; bfloat16."""
    source, world = folder / "source", folder / "world"
    described = {**MODEL, **CONTEXT, **fields}
    source.mkdir()
    write_checkpoint(source, reference_config(described))
    (source / "config.json").write_text(json.dumps(described))
    done = subprocess.run(
        [*CLI, "convert", str(source), "--tokenizer", str(TOKENIZER), "--out", str(world)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return world


async def test_actions_of_seven_numbers_and_a_clients_camera(tmp_path: Path) -> None:
    world = _converted(tmp_path, **ACTIONS)
    with serving(tmp_path / "log", "--world", str(world), "--seats", "1") as server:
        async with connect(server.url, theme="zoo", seed=1) as client, asyncio.timeout(120):
            first = (await client.frame()).header.camera
            assert client.welcome is not None
            assert client.welcome.world.conditionings == ("actions", "camera")
            assert [c.name for c in client.welcome.world.action_schema] == [
                "strafe",
                "forward",
                "yaw",
            ]
            at = Pose((7.0, 0.0, 7.0))
            for _ in range(400):
                client.steer(pose=at)
                frame = await client.frame()
                # an engine that has its own origin walks two metres to its right
                at = Pose((9.0, 0.0, 7.0))
                moved = np.subtract(frame.header.camera.position, first.position)
                if abs(float(np.linalg.norm(moved)) - 2.0) < 0.2:
                    break
            else:
                raise AssertionError(f"the camera stayed at {frame.header.camera}")
        assert server.process.poll() is None


async def test_a_text_from_a_file(tmp_path: Path) -> None:
    world = _converted(tmp_path)
    np.save(tmp_path / "prompt.npy", np.random.default_rng(0).normal(size=(9, 1024)))
    arguments = ("--world", str(world), "--seats", "1")
    prompt = ("--prompt-embeddings", str(tmp_path / "prompt.npy"))
    with serving(tmp_path / "log", *arguments, *prompt) as server:
        async with connect(server.url, theme="zoo", seed=1) as client, asyncio.timeout(120):
            frames = {(await client.frame()).rgb().tobytes() for _ in range(10)}
            assert client.welcome is not None
            assert client.welcome.world.conditionings == ("text",)
        assert len(frames) > 3


def test_a_prompt_that_does_not_fit_ends_with_one_line(tmp_path: Path) -> None:
    world = _converted(tmp_path)
    np.save(tmp_path / "prompt.npy", np.zeros((9, 512)))
    done = subprocess.run(
        [
            *CLI,
            "serve",
            "--port",
            "0",
            "--world",
            str(world),
            "--prompt-embeddings",
            str(tmp_path / "prompt.npy"),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2 and done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert "[1 to 512, 1024]" in last and "[9, 512]" in last and "Traceback" not in done.stderr
    done = subprocess.run(
        [
            *CLI,
            "serve",
            "--port",
            "0",
            "--world",
            "procedural",
            "--prompt-embeddings",
            str(tmp_path / "prompt.npy"),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert "takes no text" in done.stderr.strip().splitlines()[-1]
