"""A loaded process forks the one that works: what ends it, what starts it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_HOST = """
import os, sys, time
from pathlib import Path
from worldbridge.runtime.process import Respawner

runs = Path({runs!r})

def work() -> int:
    with runs.open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    {work}

print("loaded", flush=True)
sys.exit(Respawner(work, frozenset([5])).run())
"""

Host = tuple["subprocess.Popen[str]", Callable[[int], list[int]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Host]]:
    """Starts a host with some work; gives it and a wait for the n-th fork's process id."""
    started: list[subprocess.Popen[str]] = []

    def begin(work: str) -> Host:
        runs = tmp_path / "runs"
        host = subprocess.Popen(
            [sys.executable, "-c", _HOST.format(runs=str(runs), work=work)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(host)

        def forks(count: int) -> list[int]:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                found = [int(x) for x in runs.read_text().split()] if runs.exists() else []
                if len(found) >= count:
                    return found
                time.sleep(0.02)
            raise AssertionError(f"no {count} forks: {host.poll()}")

        return host, forks

    yield begin
    for host in started:
        host.kill()
        host.communicate()


def _gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_fork_is_replaced_without_loading_again(start: Callable[[str], Host]) -> None:
    host, forks = start("time.sleep(60)")
    os.kill(forks(1)[0], signal.SIGKILL)
    assert len(set(forks(2))) == 2
    host.terminate()
    out, err = host.communicate(timeout=10)
    assert out == "loaded\n"
    assert "was killed by SIGKILL; starting it again in 0.2 s" in err
    assert host.returncode == 0


@pytest.mark.parametrize("code", [0, 1, 5])
def test_the_exit_code_of_a_first_fork_that_ends_is_handed_on(
    start: Callable[[str], Host], code: int
) -> None:
    host, forks = start(f"return {code}")
    assert host.wait(timeout=20) == code
    assert len(forks(1)) == 1


def test_an_exception_is_told_and_ends_with_code_1(start: Callable[[str], Host]) -> None:
    host, _ = start("raise RuntimeError('lost')")
    _, err = host.communicate(timeout=20)
    assert host.returncode == 1
    assert "RuntimeError: lost" in err


def test_hangup_replaces_the_fork_at_once(start: Callable[[str], Host]) -> None:
    host, forks = start("time.sleep(60)")
    first = forks(1)[0]
    host.send_signal(signal.SIGHUP)
    forks(2)
    _until(lambda: _gone(first))
    assert host.poll() is None


def test_the_fork_ends_with_a_host_that_is_killed(start: Callable[[str], Host]) -> None:
    host, forks = start("time.sleep(60)")
    pid = forks(1)[0]
    time.sleep(0.2)
    host.kill()
    _until(lambda: _gone(pid))


def test_termination_reaches_the_fork_which_may_finish(start: Callable[[str], Host]) -> None:
    work = """
    import signal
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    while not told:
        time.sleep(0.01)
    print("saved", flush=True)
    return 0"""
    host, forks = start(work)
    forks(1)
    time.sleep(0.3)
    host.terminate()
    out, _ = host.communicate(timeout=10)
    assert out == "loaded\nsaved\n"
    assert host.returncode == 0
