"""The core plays on a real server, with the network thread of the engine layer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engines.unreal.native import Build
from tests.support.client_server import LAST, MODES, Played, check_session, play_all
from tests.support.server import Server, serving

pytestmark = [pytest.mark.e2e, pytest.mark.serial]
FPS = 60  # of the procedural world; a busy machine makes fewer


@pytest.fixture(scope="module")
def replayed(build: Build) -> dict[str, Played]:
    player = str(build("player"))

    def play(url: str) -> dict[str, Any]:
        command = [player, f"{url}/session", "0", "0", "", str(LAST)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.stdout and not done.stderr, f"{done.stdout}{done.stderr}"
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    return play_all(play, html=True)


@pytest.mark.parametrize("mode", MODES)
def test_the_core_shows_every_frame(replayed: dict[str, Played], mode: str) -> None:
    report, server = replayed[mode]
    assert report["error"] == ""
    check_session(server, report["hashes"])


def test_a_web_page_instead_of_a_session_is_an_error(replayed: dict[str, Played]) -> None:
    report, _ = replayed["html"]
    assert (report["state"], report["error"], report["shown"]) == ("error", "unreachable", 0)


def play(build: Build, server: Server, *arguments: str) -> dict[str, Any]:
    """Return what the console player measured."""
    address = server.url.replace("http://", "ws://") + "/session"
    command = [str(build("player")), address, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout and not done.stderr, f"{done.stdout}{done.stderr}{server.output()}"
    measured: dict[str, Any] = json.loads(done.stdout)
    print(measured)
    return measured


def test_plays_walks_shows_the_newest_frame_and_leaves(build: Build, tmp_path: Path) -> None:
    token = "open sesame"
    options = ("--world", "procedural", "--seats", "1", "--fps", str(FPS), "--token", token)
    with serving(tmp_path / "log", *options) as server:
        refused = play(build, server, "1")
        assert (refused["state"], refused["error"]) == ("error", "unauthorized")

        # The main loop stalls for a second: the network goes on, and the newest frame is shown.
        measured = play(build, server, "3", "1", token)
        assert measured["state"] == "playing" and measured["error"] == ""
        assert measured["images"] == measured["shown"] >= 30 and measured["ordered"]
        made = measured["last_frame"] - measured["first_frame"] + 1
        assert measured["shown"] > 0.5 * (made - FPS), "frames were lost outside the stall"
        # The age is measured across two clocks whose offset is an estimate: it may be below zero.
        assert -50 < measured["stall_age_ms"] < 900, "not the newest frame after the stall"
        assert measured["answered"] > 0 and measured["walked_m"] > 0.5
        assert measured["round_trip_ms"] > 0 and measured["latency_ms"] > -50
        assert measured["leave_ms"] < 500

        # The only seat is free again: the next player gets it.
        assert play(build, server, "0.2", "0", token)["state"] == "playing"
