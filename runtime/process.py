"""How processes hear that they should end, how they ended, and when to start them again."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from worldbridge.stderr import LossyStream

__all__ = [
    "Backoff",
    "Respawner",
    "StopSignal",
    "Wakeup",
    "describe_end",
    "die_with_parent",
    "one_thread",
]

_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Backoff:
    """Seconds to wait before the next start: doubling, and back to the first after a good run."""

    first: float = 0.2
    longest: float = 5.0
    good_run: float = 10.0
    _next: float = field(init=False)

    def __post_init__(self) -> None:
        self._next = self.first

    def after(self, ran_seconds: float) -> float:
        if ran_seconds >= self.good_run:
            self._next = self.first
        wait, self._next = self._next, min(self.longest, self._next * 2)
        return wait


def describe_end(code: int) -> str:
    """How a process ended, in words; negative codes are signals, as in `subprocess`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to end us when our parent ends (Linux only; elsewhere silence ends us).

    `parent` is its process id, if we know it from the parent itself. SIGKILL, because it also ends
    a process that is stuck: nobody is left to save anything for.
    """
    if sys.platform != "linux":
        return
    parent = parent or os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died in between, so the kernel does not signal us any more
        sys.exit(0)


class Wakeup:
    """An event that a poller can wait for: `set` on any thread makes `fileno()` readable."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def set(self) -> None:
        with suppress(OSError):  # full, so it is set; or closed, so nobody waits
            self._writer.send(b"\0")

    def clear(self) -> None:
        with suppress(BlockingIOError):
            self._reader.recv(4096)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class StopSignal(Wakeup):
    """SIGTERM and SIGINT as something that a poller can wait for.

    Before `arm` they end the process at once (there is nothing to save while a world loads);
    afterwards they set `stopped` and wake the poller.
    """

    def __init__(self) -> None:
        super().__init__()
        self._armed = False
        self.stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def arm(self) -> None:
        self._armed = True

    def close(self) -> None:
        self._armed = False
        super().close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._armed:
            sys.exit(0)
        if not self.stopped:
            self.stopped = True
            self.set()


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
            # Asked to end, or unable to begin: the parent process decides what follows.
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
        if self._stopping or self._replacing:  # a signal came before the child was there
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
            if isinstance(sys.stderr, LossyStream):
                sys.stderr.drain()
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block of many small operations on one thread of PyTorch.

    A second thread would only be waited for, and would be missing where frames are encoded and
    shown on the same processor.
    """
    import torch  # here, as processes without PyTorch use this module

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
