"""Whether the children work: the state over plain HTTP, answers over a pipe, and a watchdog."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = [
    "Health",
    "Watchdog",
    "ask_health",
    "ask_max_prompt_frames",
    "ask_themes",
    "cpu_seconds",
    "forgets_forks",
    "forks_of",
    "is_runnable",
    "notify_systemd",
    "reap_strangers",
]

_TIMEOUT_SECONDS: Final = 2.0
_FIRST_PROCESS: Final = 1
_LATE_SECONDS: Final = 1.5  # between two looks: then it was us who did not run
_BUSY_SECONDS: Final = 0.02  # of CPU between two looks
_MAX_BYTES: Final = 1 << 20
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Watchdog:
    """Tell a process that hangs from one that is busy. Pure: times come from the caller.

    Args:
        idle_s: how long it may not answer while it uses no CPU: it is stopped, or stuck.
        busy_s: how long it may not answer at all.
    """

    def __init__(self, idle_s: float, busy_s: float = 30.0) -> None:
        self._idle_s = idle_s
        self._busy_s = busy_s
        self._looked = self._heard = self._worked = 0.0
        self._cpu: float | None = None

    def hangs(self, now: float, answers: bool, cpu: float | None, runnable: bool = False) -> bool:
        """Return whether the process should be replaced.

        Args:
            now: seconds; call it about twice a second.
            answers: whether it answered since the last call.
            cpu: the seconds of CPU that it has used, None where that is unknown.
            runnable: whether it would compute if the machine were less busy.
        """
        paused, self._looked = now - self._looked > _LATE_SECONDS, now
        before, self._cpu = self._cpu, cpu
        if answers or paused:
            self._heard = self._worked = now
        elif runnable or cpu is None or before is None or abs(cpu - before) >= _BUSY_SECONDS:
            self._worked = now
        hangs = now - self._heard > self._busy_s or now - self._worked > self._idle_s
        if hangs:
            self._heard = self._worked = now  # its successor has as much time
        return hangs


def forks_of(pid: int) -> list[int]:
    """Return the process ids of a process's children; none where the kernel does not list them."""
    try:
        return [int(name) for name in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []


def _state(pid: int) -> str:
    """Return the letter of a process's state as in proc_pid_stat(5), "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def forgets_forks(pid: int | None) -> bool:
    """Whether the parent of a worker left its ended fork unreaped, or is stopped without one."""
    if pid is None:
        return False
    states = [_state(fork) for fork in forks_of(pid)]
    return all(state == "Z" for state in states) and (bool(states) or _state(pid) in ("T", "t"))


def is_runnable(pid: int | None) -> bool:
    """Whether the main thread of a process or of one of its children runs or waits for a core."""
    return pid is not None and any(_state(each) == "R" for each in [pid, *forks_of(pid)])


def reap_strangers(ours: set[int | None]) -> None:
    """As the first process of a container, let go of ended processes that lost their own parent."""
    if os.getpid() != _FIRST_PROCESS:
        return
    for pid in forks_of(os.getpid()):
        if pid not in ours:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def cpu_seconds(pid: int | None) -> float | None:
    """Return the CPU time of a process and its descendants, None where that is unknown."""
    if pid is None:
        return None
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        own = (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return own + sum(cpu_seconds(child) or 0.0 for child in forks_of(pid))


def notify_systemd(state: str) -> None:
    """Send a line such as READY=1 to systemd, if it started us and waits for it (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] in ("/", "@"):
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as link,
        ):
            link.sendto(state.encode(), address.replace("@", "\0", 1))


@dataclass(frozen=True, slots=True)
class Health:
    ready: bool
    detail: str
    progress: float | None


async def ask_health(host: str, port: int, tls: bool = False) -> Health | None:
    """Return the state, or None without an answer. A wildcard address means this machine."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return _parse(await _get(host, port, "/health", tls))
    except (OSError, TimeoutError, ValueError, KeyError):
        return None


async def ask_themes(host: str, port: int, tls: bool = False) -> list[str]:
    """Return the themes of a ready gateway's world; none if it does not answer."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            worlds = json.loads(await _get(host, port, "/worlds", tls))
            return [str(theme) for world in worlds for theme in world["themes"]]
    except (OSError, TimeoutError, ValueError, KeyError):
        return []


async def ask_max_prompt_frames(host: str, port: int, tls: bool = False) -> int:
    """Return how many prompt frames a ready gateway's world takes; 0 if it does not answer."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            worlds = json.loads(await _get(host, port, "/worlds", tls))
            return max(int(world["max_prompt_frames"]) for world in worlds)
    except (OSError, TimeoutError, ValueError, KeyError):
        return 0


async def _get(host: str, port: int, path: str, tls: bool) -> bytes:
    """Return the body of a response, whatever its status."""
    context = None
    if tls:  # it is our own listening socket, whatever name the certificate has
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(_WILDCARDS.get(host, host), port, ssl=context)
    try:
        request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        response = await reader.read(_MAX_BYTES)
        while chunk := await reader.read(_MAX_BYTES):
            response += chunk
        return response.partition(b"\r\n\r\n")[2]
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _parse(body: bytes) -> Health:
    values: dict[str, Any] = json.loads(body)
    return Health(
        ready=bool(values["ready"]),
        detail=str(values.get("detail", "")),
        progress=values.get("progress"),
    )
