"""The example programs, as processes against a gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.bridge.conftest import Rig, RigMaker, eventually

EXAMPLES = Path(__file__).parents[2] / "examples"


async def run(program: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / program),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 100)
    return process.returncode, out.decode(), errors.decode()


async def test_the_agent_explores(rig: Rig) -> None:
    pytest.importorskip("gymnasium", reason="needs gymnasium (the extra `gym`)")
    worker = await rig.worker()
    code, out, errors = await run("agent.py", rig.url, "--steps", "20")
    assert code == 0, errors
    result = json.loads(out)
    assert result["steps"] == 20 and result["episodes"] == 1 and result["interruptions"] == 0
    assert result["metres"] >= 19  # the fake world moves one metre per frame
    await eventually(lambda: not worker.worlds)  # it left its seat


@pytest.mark.parametrize(("limit", "expected"), [("100000", 0), ("0", 1)])
async def test_the_latency_bot_fails_above_its_limit(rig: Rig, limit: str, expected: int) -> None:
    await rig.worker()
    code, out, errors = await run("latency_bot.py", rig.url, "--seconds", "1", "--limit-ms", limit)
    assert code == expected, errors
    assert json.loads(out)["input_to_photon_ms"]["p95"] > 0


async def test_the_latency_bot_says_why_nothing_was_measured(rig: Rig) -> None:
    await rig.worker()
    code, out, errors = await run("latency_bot.py", rig.url.replace("http", "https"))
    assert (code, out) == (1, "") and "does not speak TLS" in errors


async def test_the_zeromq_client_plays_without_worldbridge(make_rig: RigMaker) -> None:
    rig = await make_rig(zmq_port=0)
    worker = await rig.worker()
    code, out, errors = await run("zeromq_client.py", rig.zeromq, "--frames", "20")
    assert code == 0, errors
    assert out.startswith("20 frames in") and "(64, 128, 3)" in out
    await eventually(lambda: not worker.worlds)
    assert "import worldbridge" not in (EXAMPLES / "zeromq_client.py").read_text()
