"""`worldbridge serve` as a process: one ready line, clean ends, clear refusals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.models.test_convert_conditioning import source as checkpoint
from tests.support.server import Server, alive, serving
from worldbridge.bridge.protocol import BridgeError
from worldbridge.engine_plugins.python import connect
from worldbridge.engine_plugins.python.timing import SPANS
from worldbridge.models.checkpoint import EMBEDDED_WORLD
from worldbridge.models.convert import convert

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CLI = [sys.executable, "-m", "worldbridge"]


def _refused(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "serve", "--port", "0", *arguments], capture_output=True, text=True, timeout=200
    )


def _ended(pids: list[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def test_stops_in_order_on_sigterm_and_prints_one_line(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--world", "procedural") as server:
        children = [server.child("gateway"), server.child("worker")]
        assert all(alive(pid) for pid in children)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert _ended(children, 0.5), "a child outlived the supervisor"
        assert server.process.stdout is not None
        assert server.process.stdout.read() == "", "stdout carries the ready line alone"


@contextlib.contextmanager
def _hangup_ends_children() -> Iterator[None]:
    """Start processes as a terminal does: under nohup they would ignore SIGHUP, as these tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_generated_token_opens_the_server_and_a_closed_terminal_ends_it(
    tmp_path: Path,
) -> None:
    with (
        _hangup_ends_children(),
        serving(tmp_path / "log", "--world", "procedural", "--token", "auto") as server,
    ):
        server.wait_for("#token=")
        [token] = re.findall(r"open http://\S+/#token=(\S+)", server.output())
        assert len(token) >= 16
        async with connect(server.url, token=token) as friend, asyncio.timeout(60):
            await friend.frame()
        children = [server.child("gateway"), server.child("worker")]
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(60) == 0
        assert _ended(children), "a child outlived the supervisor"


def test_children_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--world", "procedural") as server:
        children = [server.child("gateway"), server.child("worker")]
        server.process.kill()
        server.process.wait()
        assert _ended(children), "a child outlived the supervisor"


def test_a_port_in_use_is_reported_before_anything_loads() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [*CLI, "serve", "--world", "procedural", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert result.returncode == 3
    assert result.stdout == ""
    [line] = result.stderr.strip().splitlines()
    assert port in line and "--port 0" in line


def test_other_machines_are_not_served_without_a_token() -> None:
    result = _refused("--world", "procedural", "--host", "0.0.0.0")
    assert result.returncode == 2 and result.stdout == ""
    assert "--token auto" in result.stderr and "--allow-anonymous" in result.stderr


def test_an_unknown_world_is_reported() -> None:
    result = _refused("--world", "atlantis")
    assert result.returncode == 4, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert "atlantis" in last and "procedural" in last
    assert "Traceback" not in result.stderr


def test_a_missing_gpu_is_reported() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = _refused("--world", "procedural", "--device", "cuda")
    assert result.returncode == 2, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert "no GPU" in last and "--device cpu" in last
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ("procedural", "expected a converted Cosmos world, got one that is rendered"),
        ("embedded", "expected a converted Cosmos world, got one with a token grid"),
        ("converted", "got the device cpu; add --device cuda"),
    ],
)
def test_missing_weight_types_are_reported(tmp_path: Path, world: str, said: str) -> None:
    if world == "converted":
        source = checkpoint(tmp_path / "source", condition_dim=8)
        world = str(convert(source, tmp_path / "mine", name="mine"))
    result = _refused("--world", world, "--weight-dtype", "fp8")
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert said in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("world", "pixels", "said"),
    [
        ("procedural", "compiled", "got one that is rendered"),
        ("embedded", "compiled", "got one with a token grid"),
        ("embedded", "fast", "expected eager, compiled, or a folder made by"),
        ("converted", "compiled", "got the device cpu; add --device cuda"),
    ],
)
def test_an_unknown_detokenizer_is_reported(
    tmp_path: Path, world: str, pixels: str, said: str
) -> None:
    if world == "converted":
        source = checkpoint(tmp_path / "source", condition_dim=8)
        world = str(convert(source, tmp_path / "mine", name="mine"))
    result = _refused("--world", world, "--detokenizer", pixels)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("harm", ["altered", "truncated", "missing"])
def test_damaged_weights_are_reported(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "world"
    shutil.copytree(EMBEDDED_WORLD, folder)
    weights = folder / "transformer.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "missing":
        weights.unlink()
    else:
        weights.write_bytes(content if harm == "altered" else content[:5000])
    result = _refused("--world", str(folder))
    assert result.returncode == 5, result.stderr
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert "transformer.safetensors" in last and "restore the file" in last
    assert "Traceback" not in result.stderr


def test_a_theme_that_the_world_does_not_have_is_reported() -> None:
    result = _refused("--world", "procedural", "--theme", "moon")
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert "moon" in last and "city" in last


def test_the_page_and_its_parts_are_served(procedural: Server) -> None:
    with urllib.request.urlopen(procedural.url) as response:
        html = response.read().decode()
    assert response.headers["Content-Type"].startswith("text/html")
    assert "main.js" in html
    with urllib.request.urlopen(f"{procedural.url}/health") as response:
        health = json.load(response)
    assert health["ready"] is True and health["world"] == "procedural"


async def test_a_python_client_plays(procedural: Server) -> None:
    frames = []
    async with connect(procedural.url, theme="museum", seed=5) as client, asyncio.timeout(40):
        while len(frames) < 10 or frames[-1].header.input_sequence < 3:
            client.steer(keys=("ArrowLeft",))
            frames.append(await client.frame())
    numbers = [frame.header.frame for frame in frames]
    assert numbers == sorted(set(numbers)), "frames came twice or out of order"
    assert frames[0].header.camera.orientation != frames[-1].header.camera.orientation, (
        "it did not turn"
    )
    assert frames[-1].rgb().shape == (320, 512, 3)


async def test_a_full_server_says_so_and_the_others_play_on(procedural: Server) -> None:
    async with connect(procedural.url) as one, connect(procedural.url) as two, asyncio.timeout(40):
        await one.frame()
        await two.frame()
        async with connect(procedural.url) as three:
            with pytest.raises(BridgeError, match="no_free_seat"):
                await three.frame()
        await one.frame()


async def test_without_a_number_of_seats_the_machine_decides(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--world", "procedural") as server:
        said = re.search(r"(\d+) players at 30 frames/s", server.output())
        assert said, server.output()
        count = int(said[1])
        assert 1 <= count <= 4
        async with contextlib.AsyncExitStack() as stack, asyncio.timeout(60):
            for _ in range(count):
                player = await stack.enter_async_context(connect(server.url))
                await player.frame()
            with pytest.raises(BridgeError, match="no_free_seat"):
                await (await stack.enter_async_context(connect(server.url))).frame()


async def test_a_secret_is_asked_for_and_not_printed(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--world", "procedural", "--token", "open sesame") as server:
        async with asyncio.timeout(40):
            async with connect(server.url, token="wrong") as stranger:
                with pytest.raises(BridgeError, match="unauthorized"):
                    await stranger.frame()
            async with connect(server.url, token="open sesame") as friend:
                await friend.frame()
        for name in ("gateway", "worker"):
            assert b"sesame" not in Path(f"/proc/{server.child(name)}/cmdline").read_bytes()


def test_profile_prints_one_object(procedural: Server) -> None:
    result = subprocess.run(
        [*CLI, "profile", procedural.url, "--seconds", "3", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    [line] = result.stdout.splitlines()
    profile = json.loads(line)
    assert profile["frames_per_second"] > 1
    assert profile["dropped_frames"] >= 0
    total = profile["input_to_photon_ms"]
    assert 0 < total["p50"] <= total["p95"] <= total["p99"]
    assert set(profile["spans_ms"]) == set(SPANS)
    assert all(leg["p50"] <= leg["p95"] <= leg["p99"] for leg in profile["spans_ms"].values())


def test_profile_of_nobody_ends_with_one_line() -> None:
    result = subprocess.run(
        [*CLI, "profile", "http://127.0.0.1:9"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr


@pytest.mark.timeout(240)
async def test_every_line_of_a_structured_log_is_an_object(tmp_path: Path) -> None:
    options = ("--world", "procedural", "--seats", "1", "--log-format", "json")
    with serving(tmp_path / "server.log", *options) as server:
        async with connect(server.url) as client:
            await client.frame()
            assert client.welcome is not None
            session, resume = client.welcome.session, client.welcome.resume
        await asyncio.to_thread(server.wait_for, "a client left", 30.0)
    entries = [json.loads(line) for line in server.output().splitlines()]
    assert {entry["process"] for entry in entries} >= {"supervisor", "gateway"}
    assert all(entry["level"] and entry["time"] and entry["message"] for entry in entries)
    mine = [entry for entry in entries if entry.get("session") == session]
    assert any(entry["message"].startswith("a client joined") for entry in mine)
    assert resume not in server.output()
