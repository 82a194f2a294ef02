"""The core plays on a real server, with the network thread of the engine layer."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.engines.test_bad_input import CASES as BAD
from tests.engines.test_bad_input import bad_server
from tests.engines.unreal.native import Build, compiler, has_openssl, run
from tests.support.client_server import LAST, MODES, Played, check_session, client_server, play_all
from tests.support.server import Server, serving

pytestmark = [pytest.mark.e2e, pytest.mark.serial]
FPS = 60  # of the procedural world; a busy machine makes fewer


def replay(build: Build, url: str) -> dict[str, Any]:
    command = [str(build("player")), f"{url}/session", "0", "0", "", str(LAST)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout and not done.stderr, f"{done.stdout}{done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def replayed(build: Build) -> dict[str, Played]:
    build("player")  # before the threads need it
    return play_all(partial(replay, build), html=True)


@pytest.mark.parametrize("kind", BAD)
def test_what_a_server_must_not_send_is_an_error(build: Build, kind: str) -> None:
    with bad_server(kind) as server:
        report = replay(build, server.url)
    assert report["error"] == BAD[kind] and report["remedy"]


def test_frames_of_another_size_are_shown(build: Build) -> None:
    with bad_server("size") as server:
        report = replay(build, server.url)
    assert report["error"] == "" and len(set(report["hashes"])) == 2


@pytest.mark.parametrize("mode", MODES)
def test_the_core_shows_every_frame(replayed: dict[str, Played], mode: str) -> None:
    report, server = replayed[mode]
    assert report["error"] == ""
    check_session(server, report["hashes"])


def test_a_web_page_instead_of_a_session_is_an_error(replayed: dict[str, Played]) -> None:
    report, _ = replayed["html"]
    assert (report["state"], report["error"], report["shown"]) == ("error", "unreachable", 0)


@contextmanager
def tls_proxy(target: str, folder: Path) -> Iterator[tuple[int, Path]]:
    """Serve the address ws://HOST:PORT by TLS; return the port and the file of the certificate."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    alternatives = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subject = ["-subj", "/CN=localhost", "-addext", alternatives, "-days", "2"]
    new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    run(compiler("openssl"), *new, *subject)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    host, port = target.removeprefix("ws://").split(":")
    loop = asyncio.new_event_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, before), copy(behind, writer))

    server = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1], certificate
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def test_tls_shows_every_frame_and_refuses_a_certificate_that_is_not_trusted(
    build: Build, tmp_path: Path
) -> None:
    if not has_openssl(compiler("g++", "clang++")):
        pytest.skip("no headers of OpenSSL on this machine (on Debian: libssl-dev)")
    player = str(build("player"))
    with client_server("segments") as server, tls_proxy(server.url, tmp_path) as (port, trusted):
        command = [player, f"wss://127.0.0.1:{port}", "0", "0", "", str(LAST)]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=120)
        report = json.loads(refused.stdout)
        assert report["error"] == "unreachable" and "certificate" in report["got"], report
        done = subprocess.run([*command, trusted], capture_output=True, text=True, timeout=120)
        report = json.loads(done.stdout)
        assert report["error"] == "" and not done.stderr, f"{report}{done.stderr}"
        check_session(server, report["hashes"])


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
        # It waits 200 ms at most; a busy machine may wake it later.
        assert measured["leave_ms"] < 2000

        # The only seat is free again: the next player gets it.
        assert play(build, server, "0.2", "0", token)["state"] == "playing"
