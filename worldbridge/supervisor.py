"""`serve`: start the gateway and the worker, report their progress, keep both running.

The listening socket is made here and inherited by the gateway. So a port in use is found before
anything loads, and a gateway that is started again finds waiting clients in the backlog.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldbridge.bridge.config import GatewayConfig, is_loopback, load_certificate
from worldbridge.children import Child, ChildSpec
from worldbridge.cli.console import ProgressReporter
from worldbridge.config import ServerConfig, read_prompt_files
from worldbridge.errors import ConfigError, PortInUseError
from worldbridge.health import (
    Watchdog,
    ask_health,
    ask_max_prompt_frames,
    ask_themes,
    cpu_seconds,
    forgets_forks,
    forks_of,
    is_runnable,
    notify_systemd,
    reap_strangers,
)
from worldbridge.runtime.config import WorkerConfig
from worldbridge.settings import MAX_SOCKET_PATH, TOKEN_VARIABLE, WORKER_SILENT, to_json
from worldbridge.stderr import json_log_line, protect_stderr

__all__ = ["GENERATE_TOKEN", "listen", "run", "serve", "warnings_of"]

GENERATE_TOKEN = "auto"  # as a token: make one
MIN_TOKEN = 12  # characters that nobody finds by trying

_BACKLOG = 128
_POLL_SECONDS = 0.1
_LOOK_SECONDS = 0.5
_GATEWAY_IDLE_SECONDS = 3.0
_PARENT_IDLE_SECONDS = 6.0  # longer than it waits before it starts a worker again
_WORKER_IDLE_SECONDS = 1.0  # besides the time after which the gateway calls it silent


def run(config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises StartError."""
    import uvloop

    protect_stderr()
    uvloop.run(serve(config))


async def serve(config: ServerConfig) -> None:
    # an error is reported here, not to every player
    read_prompt_files("prompt-frame", config.gateway.prompt_frames)
    load_certificate(config.gateway)
    with listen(config.gateway.host, config.gateway.port) as listener, scratch_folder() as scratch:
        await Supervisor(config, listener, Path(scratch)).run()


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder of this server alone, whose path leaves room for the name of a socket.

    Folders for temporary files can lie deep; then another one is taken. Raises ConfigError.
    """
    room, error = MAX_SOCKET_PATH - len("/worker"), "none of them can be written"
    for parent in (None, os.environ.get("XDG_RUNTIME_DIR"), "/tmp"):
        try:
            folder = tempfile.TemporaryDirectory(prefix="worldbridge-", dir=parent or None)
        except OSError as refused:
            error = str(refused)
            continue
        if len(os.fsencode(folder.name)) <= room:
            return folder
        folder.cleanup()
        error = f"{folder.name}, which is too long for a Unix socket"
    raise ConfigError(
        "there is no folder for temporary files",
        expected="TMPDIR, XDG_RUNTIME_DIR or /tmp: a folder with a short path that can be written",
        got=error,
        remedy="set TMPDIR to such a folder",
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises PortInUseError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PortInUseError(host, port, error.strerror or str(error)) from error
    return listener


def warnings_of(config: GatewayConfig) -> list[str]:
    """Return what the operator should know before the server is reached from elsewhere."""
    found = []
    token = config.token
    if token is not None and len(token) < MIN_TOKEN:
        found.append(
            f"the token has {len(token)} characters and is soon found by trying; "
            f"take {MIN_TOKEN} or more, or --token {GENERATE_TOKEN}"
        )
    if token is None and not is_loopback(config.host):
        found.append(
            f"ANYONE who reaches {config.host} can play, as --allow-anonymous has it; "
            f"--token {GENERATE_TOKEN} asks for a secret"
        )
    elif token is None and (config.trusted_proxies or config.allow_hosts):
        found.append(
            f"anyone whom the proxy lets through can play; --token {GENERATE_TOKEN} asks for a "
            "secret"
        )
    if not is_loopback(config.host):
        if config.tls_cert is None:
            found.append(
                "nothing is encrypted on its way; take --tls-cert and --tls-key, or let a proxy "
                "end TLS in front (docs/security.md)"
            )
    return found


def gateway_spec(config: GatewayConfig) -> ChildSpec:
    """Run a gateway. Its token goes by the environment, which other users cannot read."""
    environment = {} if config.token is None else {TOKEN_VARIABLE: config.token}
    sockets = [] if config.listen_fd is None else [config.listen_fd]
    arguments = ["worldbridge.bridge", to_json(config)]
    environment |= _threads(1)
    return ChildSpec("gateway", arguments, environment, sockets, True, config.log_format)


def worker_spec(config: WorkerConfig) -> ChildSpec:
    """Run a worker."""
    arguments = ["worldbridge.runtime", to_json(config)]
    threads = _threads(config.model_threads)
    return ChildSpec("worker", arguments, threads, log_format=config.log_format)


def _threads(count: int) -> dict[str, str]:
    """Return the variables that numeric libraries read when they are loaded."""
    # A waiting thread spins for microseconds, as long as between two convolutions, and then leaves
    # the core to the process that encodes or shows the frame.
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count), "GOMP_SPINCOUNT": "20000"}


def _note_json(text: str) -> None:
    with suppress(OSError):  # as for any log, a full disk or a closed pipe ends nothing
        print(json_log_line("supervisor", text), file=sys.stderr, flush=True)


class Supervisor:
    def __init__(self, config: ServerConfig, listener: socket.socket, scratch: Path) -> None:
        endpoint = f"ipc://{scratch}/worker"
        self._host, self._port = listener.getsockname()[:2]
        gateway = replace(
            config.gateway,
            endpoint=endpoint,
            listen_fd=listener.fileno(),
            state_dir=str(self._state_folder(config.gateway.state_dir, scratch)),
        )
        # `scratch` is this server's alone: a worker notes there what its successors need
        worker = replace(config.worker, endpoint=endpoint, autotune_cache=str(scratch / "mode"))
        if gateway.token == GENERATE_TOKEN:
            gateway = replace(gateway, token=secrets.token_urlsafe(16))
        self._config = gateway
        self._tls = gateway.tls_cert is not None
        self._generated = gateway.token if config.gateway.token == GENERATE_TOKEN else None
        self._progress = ProgressReporter()
        note = self._progress.note if gateway.log_format == "text" else _note_json
        self._worker = Child(worker_spec(worker), note)
        # A new gateway knows no worker, and a worker announces itself only when it starts.
        self._gateway = Child(gateway_spec(gateway), note, self._worker.renew)
        self._stop = asyncio.Event()

    def _state_folder(self, chosen: str | None, scratch: Path) -> Path:
        """Return where the gateway keeps sessions: several servers may have the same `chosen`."""
        if chosen is None:
            return scratch / "sessions"
        folder = Path(chosen).absolute() / f"{self._host.replace(':', '_')}-{self._port}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "sessions cannot be kept there",
                expected="a folder that can be written",
                got=str(error),
                remedy="choose another folder for --state-dir, or leave it out",
            ) from error
        return folder

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        stops = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks to live on
            stops.append(signal.SIGHUP)  # the terminal was closed
        for number in stops:
            loop.add_signal_handler(number, self._stop.set)
        for warning in warnings_of(self._config):
            self._progress.note(f"note: {warning}")
        work = [
            self._gateway.keep_running(),
            self._worker.keep_running(),
            self._report_until_ready(),
            self._stop.wait(),
        ]
        try:
            await _first_to_end(work)
        finally:
            self._progress.close()

    async def _report_until_ready(self) -> None:
        """Print the ready line on stdout, then run until cancelled."""
        while True:
            health = await ask_health(self._host, self._port, self._tls)
            if health is not None:
                self._gateway.proven = True
                if self._config.log_format == "text":
                    self._progress.show(health.detail, health.progress)
                if health.ready and self._gateway.ask() is not None:
                    break
            await asyncio.sleep(_POLL_SECONDS)
        await self._check_theme()
        await self._check_prompt_frames()
        self._worker.proven = True
        self._progress.close()
        shown = f"[{self._host}]" if ":" in self._host else self._host
        url = f"{'https' if self._tls else 'http'}://{shown}:{self._port}"
        if self._generated is not None:
            self._progress.note(f"open {url}/#token={self._generated}")
        print(f"ready {url}", flush=True)
        notify_systemd("READY=1")
        await self._watch()

    async def _watch(self) -> None:
        """Replace a child that hangs. The gateway answers for itself and for the worker."""
        gateway, worker = Watchdog(_GATEWAY_IDLE_SECONDS), Watchdog(_WORKER_IDLE_SECONDS)
        parent = Watchdog(_PARENT_IDLE_SECONDS)
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            notify_systemd("WATCHDOG=1")
            reap_strangers({self._gateway.pid, self._worker.pid})
            answers, now = self._gateway.ask(), time.monotonic()
            pid = self._gateway.pid
            if (
                gateway.hangs(now, answers != b"", cpu_seconds(pid), is_runnable(pid))
                and pid is not None
            ):
                await self._gateway.kill_hung([pid], "does not answer")
            silent, pid = (answers or b"").endswith(WORKER_SILENT), self._worker.pid
            if (
                worker.hangs(now, not silent, cpu_seconds(pid), is_runnable(pid))
                and pid is not None
            ):
                # its parent holds the loaded world and starts the next one
                await self._worker.kill_hung(forks_of(pid) or [pid], "does not answer")
            forgets = forgets_forks(pid)
            if parent.hangs(now, not forgets, cpu_seconds(pid), is_runnable(pid)) and pid:
                await self._worker.kill_hung([pid], "does not start again")

    async def _check_theme(self) -> None:
        """Refuse an unknown theme here, before a player does; the themes are known only now."""
        wanted = self._config.theme
        themes = await ask_themes(self._host, self._port, self._tls) if wanted is not None else []
        if themes and wanted not in themes:
            raise ConfigError(
                "the world has no such theme",
                expected="one of " + ", ".join(themes),
                got=repr(wanted),
                remedy="choose one of these for --theme",
            )

    async def _check_prompt_frames(self) -> None:
        count = len(self._config.prompt_frames)
        most = await ask_max_prompt_frames(self._host, self._port, self._tls) if count else count
        if count > most:
            raise ConfigError(
                "the world cannot start from these prompt frames",
                expected=f"at most {most} times --prompt-frame" if most else "no --prompt-frame",
                got=f"{count}",
                remedy="leave some out" if most else "leave it out, or serve a generated world",
            )


async def _first_to_end(work: list[Coroutine[Any, Any, Any]]) -> None:
    """Run all. When one ends or raises, cancel the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
