"""The Godot addon in a real Godot: its core on the fixtures, and its node on a real server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import test_card
from tests.support.client_server import LAST, MODES, check_session, client_server
from tests.support.proxy import proxy_to
from tests.support.server import Server, serving

ROOT = Path(__file__).parents[3]
PROJECT = ROOT / "engine_plugins" / "godot"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldbridge" / "godot"

STOP_MS = 2000  # it waits 100 ms at most; a busy machine may wake it later

pytestmark = [pytest.mark.e2e, pytest.mark.serial]


def find_godot() -> str | None:
    """Return a Godot 4: of $GODOT, of the PATH, or the one that build.sh sets up."""
    for name in (os.environ.get("GODOT"), "godot4", "godot", str(CACHE / "run-godot")):
        if name and (binary := shutil.which(name)):
            version = subprocess.run(
                [binary, "--headless", "--version"], capture_output=True, text=True, timeout=30
            )
            if version.returncode == 0 and version.stdout.startswith("4."):
                return binary
    return None


@pytest.fixture(scope="module")
def godot() -> str:
    binary = find_godot()
    if binary is None:
        pytest.skip(
            "no Godot 4 found: run tests/engines/godot/setup.sh, or set GODOT=/path/to/godot"
        )
    return binary


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project: Godot writes into the folder it runs in."""
    copy = tmp_path_factory.mktemp("godot") / "project"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".godot"))
    return copy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    options = ["--world", "procedural", "--seats", "1", "--fps", "60", "--zmq-port", "0"]
    with serving(log, *options) as running:
        yield running


def command(godot: str, project: Path, *options: str) -> list[str]:
    script = ["--script", "res://demo/console_player.gd"]
    return [godot, "--headless", "--path", str(project), *script, "--", *options]


def report(printed: str) -> Any:
    assert "SCRIPT ERROR" not in printed, printed
    lines = [line for line in printed.splitlines() if line.startswith("REPORT ")]
    assert len(lines) == 1, printed
    return json.loads(lines[0].removeprefix("REPORT "))


def play(godot: str, project: Path, *options: str) -> dict[str, Any]:
    result = subprocess.run(
        command(godot, project, *options), capture_output=True, text=True, timeout=150
    )
    played: dict[str, Any] = report(result.stdout + result.stderr)
    return played


@asynccontextmanager
async def playing(godot: str, project: Path, *options: str) -> AsyncIterator[asyncio.StreamReader]:
    """Play beside the test; yields what is printed."""
    process = await asyncio.create_subprocess_exec(
        *command(godot, project, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
        await asyncio.wait_for(process.wait(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_the_core_passes_every_fixture(godot: str, project: Path) -> None:
    script = ["--script", str(Path(__file__).parent / "core_test.gd")]
    result = subprocess.run(
        [godot, "--headless", "--path", project, *script, "--", ROOT / "engine_plugins/fixtures"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    printed = result.stdout + result.stderr
    assert result.returncode == 0 and " FAILED 0" in printed, printed
    assert "SCRIPT ERROR" not in printed, printed
    assert int(printed.partition("CHECKS ")[2].split()[0]) > 1500


def test_every_replayed_frame_is_shown_as_it_was_sent(godot: str, project: Path) -> None:
    with ExitStack() as stack:
        # Godot 4.6 takes the payload of a ping between two fragments for a part of the message.
        servers = [stack.enter_context(client_server(mode, ping=b"")) for mode in (*MODES, "html")]
        script = ["--script", str(Path(__file__).parent / "replay_test.gd")]
        options = ["--", str(LAST), *(server.url for server in servers)]
        result = subprocess.run(
            [godot, "--headless", "--path", str(project), *script, *options],
            capture_output=True,
            text=True,
            timeout=120,
        )
        *reports, html = report(result.stdout + result.stderr)
        for server, played in zip(servers, reports, strict=False):
            assert played["faults"] == [], server.mode
            check_session(server, played["shown"])
            pixels = np.frombuffer(base64.b64decode(played["card"]), np.uint8)
            image = pixels.reshape(test_card.HEIGHT, test_card.WIDTH, 3)
            assert test_card.faults(image) == [], server.mode
        assert (html["shown"], html["faults"]) == ([], ["unreachable"])


def test_the_demo_scene_and_the_editor_plugin_load(godot: str, project: Path) -> None:
    for script in (
        "addons/worldbridge/plugin.gd",
        "demo/demo.gd",
        "demo/compositing.gd",
        "demo/street.gd",
    ):
        result = subprocess.run(
            [godot, "--headless", "--path", project, "--check-only", "--script", f"res://{script}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_frames_arrive_and_keys_steer(godot: str, project: Path, server: Server) -> None:
    result = play(
        godot, project, f"--server={server.url}", "--seconds=1", "--frames=40", "--hold=W"
    )
    (round_,) = result["rounds"]
    assert result["faults"] == []
    assert (round_["width"], round_["height"]) == (512, 320)
    print(f"{round_['shown_per_s']:.1f} of 60 frames/s shown")
    assert round_["moved_m"] > 0.3
    assert round_["answered"] > 0
    assert round_["stop_ms"] < STOP_MS


def test_a_world_with_depth_sends_it_to_who_asks(godot: str, project: Path, server: Server) -> None:
    address = f"--server={server.url}"
    (asked,) = play(godot, project, address, "--seconds=0.5", "--frames=20", "--depth=yes")[
        "rounds"
    ]
    # the eye is 1.6 m above the ground, the lowest row 25 degrees below the axis
    assert asked["metres"] == pytest.approx(1.6 / math.tan(math.radians(25)), rel=0.02)
    (silent,) = play(godot, project, address, "--seconds=0.1")["rounds"]
    assert "metres" not in silent


def test_a_world_starts_from_an_image(godot: str, project: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)  # noise: its file is larger than one message may be
    image = generator.integers(0, 256, (320, 512, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "start.png")
    with client_server("whole", started=False) as server:
        option = f"--prompt-frame={tmp_path / 'start.png'}"
        result = play(godot, project, f"--server={server.url}", "--seconds=0.1", option)
    assert result["faults"] == []
    (start,) = server.of("start")
    parts = server.of("prompt_frame")
    assert start["prompt_frames"] == 1 and len(parts) == parts[0]["parts"] > 1
    assert [part["part"] for part in parts] == list(range(len(parts)))
    sent = Image.open(io.BytesIO(b"".join(part["data"] for part in parts)))
    assert np.array_equal(np.asarray(sent.convert("RGB")), image)


def test_it_plays_by_zeromq(godot: str, project: Path, server: Server) -> None:
    address = re.findall(r"tcp://127\.0\.0\.1:\d+", server.output())[0]
    options = ["--seconds=1", "--hold=W", "--rounds=2", "--depth=yes"]
    result = play(godot, project, f"--server={address}", *options)
    print(f"by ZeroMQ: {result}")
    assert result["faults"] == []
    for round_ in result["rounds"]:
        assert (round_["width"], round_["height"]) == (512, 320)
        assert round_["metres"] == pytest.approx(1.6 / math.tan(math.radians(25)), rel=0.02)
        assert round_["answered"] > 0 and round_["moved_m"] > 0
        assert round_["stop_ms"] < STOP_MS


def test_a_scene_camera_goes_along(godot: str, project: Path, server: Server) -> None:
    """The server refuses a state whose camera is no pose, and then ends the session."""
    result = play(
        godot, project, f"--server={server.url}", "--seconds=0.5", "--frames=20", "--camera=yes"
    )
    assert result["faults"] == [] and "error" not in result["states"]
    assert result["rounds"][0]["answered"] > 0


def test_a_main_loop_that_stalls_gets_the_newest_frame(
    godot: str, project: Path, server: Server
) -> None:
    result = play(godot, project, f"--server={server.url}", "--seconds=0.5", "--stall=3")
    (round_,) = result["rounds"]
    assert "reconnecting" not in result["states"] and result["states"][-2:] == ["playing", "idle"]
    assert round_["after_stall"] - round_["before_stall"] > 2  # it skipped what was late


def test_stop_frees_the_only_seat_at_once(godot: str, project: Path, server: Server) -> None:
    result = play(godot, project, f"--server={server.url}", "--seconds=0.1", "--rounds=20")
    assert result["faults"] == []
    assert len(result["rounds"]) == 20 and all("width" in round_ for round_ in result["rounds"])
    assert max(round_["stop_ms"] for round_ in result["rounds"]) < STOP_MS


async def test_a_cut_network_is_mended(godot: str, project: Path, server: Server) -> None:
    async with proxy_to(server.port) as proxy:
        url = f"--server=127.0.0.1:{proxy.port}"
        async with playing(godot, project, url, "--seconds=2") as output:
            await asyncio.wait_for(output.readuntil(b"playing\n"), 30)
            proxy.cut()
            await asyncio.sleep(0.3)
            proxy.mend()
            result = report((await output.read()).decode())
    states = result["states"]
    assert "reconnecting" in states, result
    assert "playing" in states[states.index("reconnecting") :], result
    assert result["faults"] == []


@pytest.mark.parametrize("fault", ["cut", "freeze"])
async def test_stop_is_quick_while_the_server_is_gone(
    godot: str, project: Path, fault: str
) -> None:
    with client_server("whole") as server:
        async with proxy_to(int(server.url.rpartition(":")[2])) as proxy:
            url = f"--server=127.0.0.1:{proxy.port}"
            async with playing(godot, project, url, "--seconds=1.5") as output:
                await asyncio.wait_for(output.readuntil(b"playing\n"), 30)
                proxy.cut() if fault == "cut" else proxy.freeze()
                result = report((await output.read()).decode())
    (round_,) = result["rounds"]
    print(f"{fault}: stop took {round_['stop_ms']:.0f} ms")
    assert round_["stop_ms"] < STOP_MS and result["states"][-1] == "idle"


def test_a_refusal_has_the_servers_code_and_remedy(
    godot: str, project: Path, server: Server
) -> None:
    result = play(godot, project, f"--server={server.url}", "--theme=nonsense")
    (fault,) = result["faults"]
    assert fault["code"] == "unknown_theme" and "theme" in fault["remedy"]


@pytest.fixture(scope="module")
def screen() -> list[str]:
    """How a command is started under a virtual screen, in the tree of setup.sh."""
    if os.geteuid() != 0 or not (CACHE / "usr/bin/xvfb-run").exists():
        pytest.skip("no virtual screen: run tests/engines/godot/setup.sh as root")
    return ["chroot", str(CACHE), "xvfb-run", "-a", "-s", "-screen 0 1280x720x24"]


def test_a_warped_frame_is_near_the_true_one(screen: list[str], server: Server) -> None:
    work = CACHE / "tmp" / f"warp-{os.getpid()}"  # inside the tree that Godot is started in
    shutil.copytree(PROJECT, work, ignore=shutil.ignore_patterns(".godot"))
    try:
        shutil.copy(Path(__file__).parent / "warp_test.gd", work)
        inside = f"/tmp/{work.name}"
        options = ["--audio-driver", "Dummy", "--rendering-driver", "opengl3"]
        script = ["--script", f"{inside}/warp_test.gd", "--", server.url, inside]
        result = subprocess.run(
            [*screen, "godot", "--path", inside, *options, *script],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        shutil.rmtree(work)
    printed = result.stdout + result.stderr
    assert "WARP " in printed and "SCRIPT ERROR" not in printed, printed
    measured = json.loads(printed.partition("WARP ")[2].splitlines()[0])
    assert measured["turned_degrees"] > 3
    assert measured["psnr_warped"] > measured["psnr_unwarped"] + 6
