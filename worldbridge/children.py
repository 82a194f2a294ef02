"""A child process that is kept running: started, listened to, started again when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from worldbridge.errors import EXIT_CONFIG, EXIT_UNKNOWN_WORLD, EXIT_WEIGHTS, ChildError
from worldbridge.runtime.process import Backoff, describe_end

__all__ = ["Child", "ChildSpec"]

# Starting again cannot change what is on the disk or on the command line.
_HOPELESS: Final = frozenset({EXIT_CONFIG, EXIT_UNKNOWN_WORLD, EXIT_WEIGHTS})
_STOP_SECONDS: Final = 5.0
_LAST_LINES: Final = 40


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """`arguments` follow `python -m worldbridge.child`; `sockets` stay open in the child."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    sockets: Sequence[int] = ()


class Child:
    """Keeps one process running; `died` is called after each death.

    `proven` is set by the owner once the process did its work for the first time: before that a
    death is a reason to give up, afterwards one to start it again.
    """

    def __init__(
        self, spec: ChildSpec, tell: Callable[[str], None], died: Callable[[], None] = lambda: None
    ) -> None:
        self.spec = spec
        self.tell = tell
        self.died = died
        self.proven = False
        self._process: asyncio.subprocess.Process | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)

    async def keep_running(self) -> None:
        """Runs until cancelled. Raises ChildError when starting it again would not help."""
        backoff = Backoff()
        while True:
            started = time.monotonic()
            code = await self._run_once()
            if code in _HOPELESS or not self.proven:
                raise ChildError(self.spec.name, code, list(self._last_lines))
            wait = backoff.after(time.monotonic() - started)
            self.tell(f"{self.spec.name} {describe_end(code)}; starting it again in {wait:.1f} s")
            self.died()
            await asyncio.sleep(wait)

    def renew(self) -> None:
        """Asks for a new start: the worker replaces its fork, others end and are started again."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    async def _run_once(self) -> int:
        self._last_lines.clear()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "worldbridge.child",
            *self.spec.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=2,  # our stderr: our stdout carries the ready line alone
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self.spec.environment, "WORLDBRIDGE_PARENT": str(os.getpid())},
            pass_fds=self.spec.sockets,
            start_new_session=True,  # a terminal's Ctrl-C is for us; we stop the children in order
        )
        self._process = process
        self.tell(f"{self.spec.name} started (process {process.pid})")
        relay = asyncio.create_task(self._relay(process))
        try:
            code = await process.wait()
            # Its last words; not for ever, as a process of its own making may hold the pipe open.
            await asyncio.wait([relay], timeout=1.0)
            return code
        finally:
            self._process = None
            relay.cancel()
            await _end(process)

    async def _relay(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # longer than the stream's limit; the rest follows
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            if not text.startswith("{"):  # an error for us to read, not for a person
                sys.stderr.write(f"{self.spec.name} | {text}\n")
                sys.stderr.flush()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Asks the process to end, and makes it end."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
