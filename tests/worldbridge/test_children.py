"""Child processes: relayed, started again, given up; and how long to wait in between."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worldbridge.children import Child, ChildSpec
from worldbridge.errors import ChildError
from worldbridge.runtime.process import Backoff


def test_backoff_doubles_up_to_its_longest() -> None:
    backoff = Backoff(first=0.2, longest=5.0)
    waits = [backoff.after(0.1) for _ in range(8)]
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits[-1] == 5.0


def test_backoff_forgets_after_a_good_run() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0.0)
    assert backoff.after(backoff.good_run) == backoff.first


def _script(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """Puts a module where a child finds it; its name."""
    (folder / "a_test_child.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "a_test_child"


async def _until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["", "nohup"])
def hangup(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the server itself does when its terminal is closed; children inherit it."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
async def test_a_proven_child_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _script(tmp_path, monkeypatch, "import time; time.sleep(60)")
    said: list[str] = []
    deaths: list[int] = []
    child = Child(ChildSpec("worker", [module]), said.append, lambda: deaths.append(1))
    child.proven = True
    running = asyncio.create_task(child.keep_running())
    await _until(lambda: said)
    await asyncio.sleep(0.3)
    child.renew()
    await _until(lambda: len(said) == 3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "was killed by SIGHUP; starting it again in 0.2 s" in said[1]
    assert said[0].startswith("worker started") and said[2].startswith("worker started")
    assert deaths == [1]


async def test_a_child_that_never_worked_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _script(tmp_path, monkeypatch, "raise RuntimeError('no such luck')")
    child = Child(ChildSpec("worker", [module]), lambda text: None)
    with pytest.raises(ChildError, match="exit code 1") as caught:
        await child.keep_running()
    assert caught.value.exit_code == 1
    assert "no such luck" in caught.value.got


@pytest.mark.parametrize("code", [2, 4, 5])
async def test_a_hopeless_exit_code_ends_even_a_proven_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    line = '{"message": "there is no world x", "expected": "y", "got": "x"}'
    module = _script(
        tmp_path, monkeypatch, f"import sys; print('{line}', file=sys.stderr); sys.exit({code})"
    )
    child = Child(ChildSpec("worker", [module]), lambda text: None)
    child.proven = True
    with pytest.raises(ChildError, match="there is no world x: expected y, got x") as caught:
        await child.keep_running()
    assert caught.value.exit_code == code


async def test_output_is_relayed_with_the_childs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = _script(
        tmp_path, monkeypatch, "import sys; print('hello', file=sys.stderr); sys.exit(2)"
    )
    with pytest.raises(ChildError):
        await Child(ChildSpec("gateway", [module]), lambda text: None).keep_running()
    captured = capfd.readouterr()
    assert "gateway | hello" in captured.err
    assert captured.out == ""


def test_an_orphan_ends_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed outright; the kernel ends the child."""
    import os
    import signal
    import subprocess
    import time

    (tmp_path / "sleeper.py").write_text(
        "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    parent_code = (
        "import os, subprocess, sys\n"
        "os.environ['WORLDBRIDGE_PARENT'] = str(os.getpid())\n"
        "subprocess.run([sys.executable, '-m', 'worldbridge.children', 'sleeper'])\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    stat = Path(f"/proc/{child}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)
