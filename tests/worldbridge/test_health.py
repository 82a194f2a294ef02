"""A child that hangs, not one that is busy, is found and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from worldbridge import health
from worldbridge.bridge.config import GatewayConfig
from worldbridge.children import Child, ChildSpec
from worldbridge.errors import ChildError, RestartBudgetError
from worldbridge.health import (
    Watchdog,
    cpu_seconds,
    forgets_forks,
    forks_of,
    is_runnable,
    notify_systemd,
    reap_strangers,
)
from worldbridge.settings import TOKEN_VARIABLE
from worldbridge.supervisor import warnings_of

ANSWERS = """
import os, socket
link = socket.socket(fileno=int(os.environ["WORLDBRIDGE_HEALTH_FD"]))
while link.recv(1):
    link.send(b".")
"""


def _first_hang(watchdog: Watchdog, cpu: list[float | None], answers: list[bool]) -> float | None:
    for number, (used, answered) in enumerate(zip(cpu, answers, strict=True)):
        if watchdog.hangs(100 + number * 0.5, answered, used):
            return number * 0.5
    return None


def test_a_process_that_does_nothing_hangs_early() -> None:
    assert _first_hang(Watchdog(3.0), [1.0] * 20, [True] * 5 + [False] * 15) == 5.5


def test_one_that_waits_for_a_core_has_longer() -> None:
    watchdog, starved = Watchdog(3.0, 30.0), is_runnable(os.getpid())
    assert starved, "this process runs"
    found = [watchdog.hangs(100 + n * 0.5, n == 0, 1.0, starved) for n in range(100)]
    assert found.index(True) == 61
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        deadline = time.monotonic() + 60
        while is_runnable(sleeper.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_busy_process_has_longer() -> None:
    busy = [n * 0.4 for n in range(100)]
    assert _first_hang(Watchdog(3.0, 30.0), busy, [True] + [False] * 99) == 30.5


def test_without_cpu_times_only_the_long_time_counts() -> None:
    assert _first_hang(Watchdog(3.0, 10.0), [None] * 40, [True] + [False] * 39) == 10.5


def test_a_pause_of_the_whole_machine_is_nobodys_fault() -> None:
    watchdog = Watchdog(3.0)
    assert not watchdog.hangs(100.0, True, 1.0)
    assert not watchdog.hangs(160.0, False, 1.0)
    assert not watchdog.hangs(160.5, True, 1.0)


def test_a_parent_that_leaves_its_ended_fork_unreaped_is_noticed() -> None:
    script = (
        "import os, sys; pid = os.fork() or os._exit(sys.stdin.read() and 0); os.waitpid(pid, 0)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        deadline = time.monotonic() + 30
        while not forks_of(parent.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent.send_signal(signal.SIGSTOP)
        assert not forgets_forks(parent.pid), "its fork works"
        parent.stdin.close()
        while not forgets_forks(parent.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent.send_signal(signal.SIGCONT)
        parent.wait(30)
    assert not forgets_forks(parent.pid) and not forgets_forks(None)


def test_cpu_seconds_grow_with_work() -> None:
    before = cpu_seconds(os.getpid())
    sum(n * n for n in range(1_000_000))
    after = cpu_seconds(os.getpid())
    assert before is not None and after is not None and after > before
    assert cpu_seconds(2**22 + 1) is None


async def _until(condition: object, seconds: float = 30.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_stopped_child_prints_its_stacks_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "an_answering_child.py").write_text(ANSWERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said: list[str] = []
    child = Child(ChildSpec("gateway", ["an_answering_child"], asked=True), said.append)
    child.proven = True
    running = asyncio.create_task(child.keep_running())
    await _until(lambda: child.ask())
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    await asyncio.sleep(0.2)
    child.ask()
    await asyncio.sleep(0.2)
    assert child.ask() == b""
    await child.kill_hung([first], "does not answer")
    await _until(lambda: child.pid not in (None, first) and child.ask())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "gateway was killed by SIGABRT" in said[2]
    assert "an_answering_child.py" in capfd.readouterr().err, "where it stood still"


async def test_a_child_that_ends_again_and_again_ends_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_dying_child.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("worldbridge.children._MOST_STARTS", 2)
    child = Child(ChildSpec("worker", ["a_dying_child"]), lambda text: None)
    child.proven = True
    with pytest.raises(RestartBudgetError) as caught:
        await child.keep_running()
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_that_the_server_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = "@worldbridge-test-notify" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify_systemd("READY=1")
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("name", ["worker", "gateway"])
async def test_the_gateway_alone_gets_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code = f"import os, sys\nsys.exit(2 if os.environ.get({TOKEN_VARIABLE!r}) else 4)"
    (tmp_path / "a_curious_child.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(TOKEN_VARIABLE, "open sesame")
    secret = {TOKEN_VARIABLE: "open sesame"} if name == "gateway" else {}
    with pytest.raises(ChildError) as caught:
        await Child(ChildSpec(name, ["a_curious_child"], secret), lambda text: None).keep_running()
    assert caught.value.exit_code == (2 if name == "gateway" else 4)


def test_the_first_process_of_a_container_reaps_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, stranger = (subprocess.Popen(["true"]) for _ in range(2))
    deadline = time.monotonic() + 60
    while any(
        "(zombie)" not in Path(f"/proc/{child.pid}/status").read_text()
        for child in (ours, stranger)
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    reap_strangers({ours.pid, None})
    assert stranger.pid in forks_of(os.getpid()), "only the first process does that"
    monkeypatch.setattr(health, "_FIRST_PROCESS", os.getpid())
    reap_strangers({ours.pid, None})
    left = forks_of(os.getpid())
    assert stranger.pid not in left and ours.pid in left
    assert ours.wait() == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, []),
        ({"host": "::1", "token": "twelve chars"}, []),
        ({"host": "localhost", "token": "short"}, ["found by trying"]),
        (
            {"host": "0.0.0.0", "allow_anonymous": "on"},
            ["ANYONE who reaches 0.0.0.0 can play", "nothing is encrypted"],
        ),
        ({"trusted_proxies": ("127.0.0.1",)}, ["whom the proxy lets through"]),
        ({"host": "192.0.2.1", "token": "twelve chars"}, ["nothing is encrypted"]),
        ({"host": "play.example.org", "token": "x"}, ["found by trying", "nothing is encrypted"]),
    ],
)
def test_what_an_operator_should_know(settings: dict[str, Any], said: list[str]) -> None:
    found = warnings_of(GatewayConfig(**settings))
    assert len(found) == len(said), found
    assert all(part in line for part, line in zip(said, found, strict=True)), found
