"""A child process that is kept running: started, read from, started again when it ends.

`python -m worldbridge.children MODULE ARGS...` is what runs in the child: MODULE, tied to the
process that started it.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import resource
import runpy
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from worldbridge.errors import (
    EXIT_CONFIG,
    EXIT_UNKNOWN_WORLD,
    EXIT_WEIGHTS,
    ChildError,
    RestartBudgetError,
)
from worldbridge.runtime.process import Backoff, describe_end, die_with_parent
from worldbridge.settings import HEALTH_VARIABLE, TOKEN_VARIABLE
from worldbridge.stderr import LogFormat, escape, json_log_line, parse_log_line, protect_stderr

__all__ = ["Child", "ChildSpec"]

# Starting again does not change what is on the disk or on the command line.
_HOPELESS: Final = frozenset({EXIT_CONFIG, EXIT_UNKNOWN_WORLD, EXIT_WEIGHTS})
_STOP_SECONDS: Final = 5.0
_LAST_LINES: Final = 40
_STACKS_SECONDS: Final = 1.0  # to print where it hangs
_FIRST_ANSWER_SECONDS: Final = 30.0
_MOST_STARTS: Final = 10
_STARTS_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run: `python -m MODULE ARGS...`, with `sockets` left open in the child."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    sockets: Sequence[int] = ()
    asked: bool = False  # answers over the socket that WORLDBRIDGE_HEALTH_FD names
    log_format: LogFormat = "text"


class Child:
    """Keep one process running; call `died` each time it ends.

    The owner sets `proven` once the process has done its work for the first time. Before that, an
    end is a reason to give up; afterwards, a reason to start the process again.
    """

    def __init__(
        self, spec: ChildSpec, note: Callable[[str], None], died: Callable[[], None] = lambda: None
    ) -> None:
        self.spec = spec
        self.note = note
        self.died = died
        self.proven = False
        self._process: asyncio.subprocess.Process | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._health: socket.socket | None = None
        self._answered = False
        self._started = 0.0

    async def keep_running(self) -> None:
        """Run until cancelled. Raises ChildError when starting it again would not help."""
        backoff = Backoff()
        starts: deque[float] = deque(maxlen=_MOST_STARTS)
        while True:
            started = time.monotonic()
            if len(starts) == _MOST_STARTS and started - starts[0] < _STARTS_SECONDS:
                raise RestartBudgetError(self.spec.name, _MOST_STARTS, _STARTS_SECONDS)
            starts.append(started)
            code = await self._run_once()
            if code in _HOPELESS or not self.proven:
                raise ChildError(self.spec.name, code, list(self._last_lines))
            wait = backoff.after(time.monotonic() - started)
            self.note(f"{self.spec.name} {describe_end(code)}; starting it again in {wait:.1f} s")
            self.died()
            await asyncio.sleep(wait)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def ask(self) -> bytes | None:
        """Ask for a sign of life and return the answers since the last call.

        None: it has not answered for the first time yet, so it may still be loading.
        """
        if self._health is None:
            return None
        with suppress(OSError):  # full: it has enough to answer
            self._health.send(b"?")
        answers = b""
        with suppress(OSError):
            answers = self._health.recv(4096)
        self._answered = self._answered or bool(answers)
        loading = time.monotonic() - self._started < _FIRST_ANSWER_SECONDS
        return None if loading and not self._answered else answers

    async def kill_hung(self, pids: Sequence[int], why: str) -> None:
        """End processes of this child that hang: print their stacks, then kill them."""
        self.note(f"{self.spec.name} {why}; printing its stacks and replacing it")
        for number in (signal.SIGABRT, signal.SIGCONT):  # a stopped one has to run to print
            _signal_all(pids, number)
        await asyncio.sleep(_STACKS_SECONDS)
        _signal_all(pids, signal.SIGKILL)

    def renew(self) -> None:
        """Ask for a new start: the worker replaces its fork, others end and are started again."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def _run_once(self) -> int:
        self._last_lines.clear()
        _let_children_hear_hangup()
        # only the gateway's own settings hold the token: the worker reads foreign weights
        environment = {name: v for name, v in os.environ.items() if name != TOKEN_VARIABLE}
        environment |= {**self.spec.environment, "WORLDBRIDGE_PARENT": str(os.getpid())}
        sockets, theirs = [*self.spec.sockets], None
        if self.spec.asked:
            self._health, theirs = socket.socketpair()
            self._health.setblocking(False)
            sockets.append(theirs.fileno())
            environment[HEALTH_VARIABLE] = str(theirs.fileno())
        self._answered, self._started = False, time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "worldbridge.children",
            *self.spec.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,  # our own stdout carries the ready line alone
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            pass_fds=sockets,
            start_new_session=True,  # a terminal's Ctrl-C is for us; we stop the children in order
        )
        self._process = process
        if theirs is not None:
            theirs.close()
        self.note(f"{self.spec.name} started (process {process.pid})")
        relay = asyncio.create_task(self._relay(process))
        try:
            code = await process.wait()
            # Read its last lines, but not indefinitely: a grandchild may hold the pipe open.
            await asyncio.wait([relay], timeout=1.0)
            return code
        finally:
            self._process = None
            if self._health is not None:
                self._health.close()
                self._health = None
            relay.cancel()
            await _end(process)

    async def _relay(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than the stream's limit; the rest follows
                continue
            if not line:
                return
            text = escape(line.decode(errors="replace").rstrip())
            entry = parse_log_line(text) if self.spec.log_format == "json" else None
            self._last_lines.append(text if entry is None else str(entry["message"]))
            if entry is not None:
                shown = text
            elif text.startswith("{"):  # a structured error for ChildError, not for a person
                continue
            elif self.spec.log_format == "json":
                shown = json_log_line(self.spec.name, text)
            else:
                shown = f"{self.spec.name} | {text}"
            with suppress(OSError):  # whatever becomes of our log, the child is read
                sys.stderr.write(shown + "\n")
                sys.stderr.flush()


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _let_children_hear_hangup() -> None:
    """Ignore SIGHUP by a handler, if we ignore it.

    A child inherits SIG_IGN, which nohup sets, but a handler becomes the default in the child. So
    `renew` reaches it from its first moment.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the process to end; kill it if it does not."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def main() -> None:
    """Run the module that the command line names, until it or the parent process ends."""
    protect_stderr(plain=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    faulthandler.enable(file=2)  # SIGABRT ends a process that hangs, and prints where
    # Ctrl-C in a terminal reaches the whole group; the supervisor stops its children in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(int(os.environ["WORLDBRIDGE_PARENT"]))
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
