"""How processes hear that they should end, how they ended, and when to start them again."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

__all__ = ["Backoff", "StopSignal", "Wakeup", "describe_end", "die_with_parent"]

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
    if os.getppid() != parent:  # it died in between, so the kernel will not tell us any more
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
