"""The JavaScript client library plays in Node.js, without a browser and without a page."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tests.support.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

SCRIPT = Path(__file__).parents[1] / "web" / "play.mjs"


async def test_plays_in_node(procedural: Server) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    process = await asyncio.create_subprocess_exec(
        *(node, "--experimental-websocket", str(SCRIPT), procedural.url, "20"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    if b"bad option" in errors:
        pytest.skip("this version of node has no WebSocket")
    assert process.returncode == 0, errors.decode() + output.decode()
    played = json.loads(output)
    assert (played["theme"], played["seed"], played["world"]) == ("zoo", 3, "procedural")
    numbers = [frame["frame"] for frame in played["frames"]]
    assert numbers == sorted(set(numbers)) and len(numbers) == 20
    assert played["frames"][-1]["answers"] > 0, "no frame answers an input"
    assert all(frame["bytes"] > 500 for frame in played["frames"])
    assert played["latency"]["count"] > 0 and played["latency"]["p50"] > 0
