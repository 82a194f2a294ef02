"""A process that has loaded everything forks the one that works, and forks it again if it dies.

Importing PyTorch, reading weights and recording the decoder takes seconds; a fork takes
milliseconds and shares the memory. So a worker that crashes is back almost at once. The loaded
process never works itself: nothing that a session does can spoil it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from worldbridge.runtime.process import Backoff, describe_end, die_with_parent

__all__ = ["Respawner"]


class Respawner:
    """Runs `work` in a fork, and again in a new fork each time a signal or an error ended it.

    SIGTERM and SIGINT stop the fork and end `run`; SIGHUP replaces the fork by a new one.
    """

    def __init__(self, work: Callable[[], int], hopeless: frozenset[int] = frozenset()) -> None:
        self._work = work
        self._hopeless = hopeless
        self._child = 0
        self._stopping = False
        self._replacing = False

    def run(self) -> int:
        """The exit code of the last fork; 0 when it was stopped."""
        handlers = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._replace,
        }
        before = {number: signal.signal(number, call) for number, call in handlers.items()}
        try:
            return self._keep_running()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _keep_running(self) -> int:
        backoff, first = Backoff(), True
        while not self._stopping:
            began, self._replacing = time.monotonic(), False
            code = self._run_once()
            if self._stopping or code in self._hopeless:
                return max(code, 0)
            if self._replacing:
                continue
            # Told to end, or unable to begin: whoever started us knows what to make of it.
            if code == 0 or (first and code > 0):
                return code
            first = False
            wait = backoff.after(time.monotonic() - began)
            self._tell(f"{describe_end(code)}; starting it again in {wait:.1f} s")
            time.sleep(wait)
        return 0

    def _run_once(self) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        self._child = os.fork()
        if self._child == 0:
            self._become_worker()
        self._tell(f"started (process {self._child})")
        if self._stopping or self._replacing:  # a signal came before there was a child to tell
            self._end_child()
        code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        self._child = 0
        return code

    def _become_worker(self) -> None:
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            die_with_parent()
            code = self._work()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # what the loaded process registered for its own end is not for us

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        self._end_child()

    def _replace(self, number: int, frame: FrameType | None) -> None:
        self._replacing = True
        self._end_child()

    def _end_child(self) -> None:
        if self._child > 0:
            os.kill(self._child, signal.SIGTERM)

    def _tell(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
