"""A real server in processes of its own, as a person would start it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 120.0  # a few on a quiet machine


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def child(self, name: str) -> int:
        """The process id of the newest child of that name."""
        return int(re.findall(rf"{name} (?:\| )?started \(process (\d+)\)", self.output())[-1])

    def kill(self, name: str) -> int:
        pid = self.child(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_for(self, pattern: str, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.output()):
            assert time.monotonic() < deadline, f"{pattern!r} not printed:\n{self.output()}"
            time.sleep(0.05)


@contextmanager
def serving(
    log: Path, *arguments: str, command: Sequence[str] = (sys.executable, "-m", "worldbridge")
) -> Iterator[Server]:
    """Starts `serve` on a free port, waits for its ready line, stops it at the end."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, "serve", "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=log.parent,
        )
    try:
        yield Server(_ready_url(process, log), process, log)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _ready_url(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], READY_SECONDS)
    line = process.stdout.readline() if readable else ""
    assert line.startswith("ready http://"), f"got {line!r}; it printed:\n{log.read_text()}"
    return line.removeprefix("ready ").strip()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
