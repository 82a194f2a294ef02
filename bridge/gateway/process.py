"""The gateway process: sockets, signals, logging, and the report that it listens."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Protocol

import uvicorn
import zmq

from worldbridge.bridge.config import GatewayConfig, load_certificate
from worldbridge.bridge.gateway.http import (
    MAX_WEBSOCKET_MESSAGE,
    AbortableWebSocket,
    BehindProxies,
    build_app,
)
from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.limits import ConnectionTable, LimitedHttp, descriptors
from worldbridge.bridge.gateway.origin import OriginGuard
from worldbridge.bridge.gateway.zmtp import zeromq_server
from worldbridge.errors import ConfigError
from worldbridge.settings import HEALTH_VARIABLE, WORKER_ANSWERS, WORKER_SILENT
from worldbridge.stderr import protect_stderr, start_logging

log = logging.getLogger(__name__)

EXIT_PORT_IN_USE: Final = 3
_BACKLOG: Final = 128
# What the kernel may hold of one client's frames: without limits it takes megabytes, and a slow
# client then sees frames that are seconds old. 128 KiB are two large frames.
_SEND_BUFFER: Final = 128 * 1024
_UNSENT: Final = 16 * 1024
_RENEW_S: Final = 60.0
_SWITCH_INTERVAL_S: Final = 0.0005  # the encoding thread must not hold the event loop up


class TransportPort(Protocol):
    """A transport that listens on a port of its own, beside HTTP."""

    clients: str  # whose port it is, as an error says it
    option: str  # that chooses the port
    address: tuple[str, int]

    def bind(self) -> str:
        """Listen and return the address as bound. Raises OSError, zmq.ZMQError."""
        ...

    async def run(self) -> None:
        """Serve until cancelled."""
        ...


_Maker = Callable[[Gateway, GatewayConfig, ConnectionTable], TransportPort | None]
PORTS: Final[Sequence[_Maker]] = (zeromq_server,)  # each makes its port if the settings ask for it


class ListenError(Exception):
    """The address cannot be listened on; the text says what to do."""


def run_gateway(config: GatewayConfig) -> None:
    """Serve until SIGTERM or SIGINT. Exits with code 3 if the address cannot be listened on."""
    import uvloop

    protect_stderr(plain=True)
    start_logging("gateway", config.log_level, config.log_format)
    for name in ("uvicorn.error", "aioice", "aiortc"):  # they log addresses and queries
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        uvloop.run(serve(config))
    except ListenError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(EXIT_PORT_IN_USE)


async def serve(config: GatewayConfig) -> None:
    """Serve until a signal comes or the task is cancelled. Raises ListenError and ConfigError."""
    load_certificate(config)
    listener = _listener(config)
    gateway = Gateway(config, f"worldbridge {_version()}")
    try:
        gateway.bind()
    except zmq.ZMQError as error:
        listener.close()
        raise ListenError(
            f"cannot listen for the worker: expected a free ZeroMQ address, got "
            f"{config.endpoint} ({error}); stop the other server or choose another endpoint"
        ) from error
    # a page loads its files over a few connections beside the one of its session
    most = min(config.max_clients * 4, descriptors())
    table = ConnectionTable(most, max(1, most // 2))
    ports = [port for make in PORTS if (port := make(gateway, config, table)) is not None]
    try:
        addresses = {port.clients.lower(): _bind_port(port) for port in ports}
    except ListenError:
        listener.close()
        raise
    server = _Server(_uvicorn_config(config, gateway, table))
    server.config.load()
    work = asyncio.create_task(_run(gateway, ports))
    work.add_done_callback(lambda _: server.stop())  # without the gateway nothing is served
    gc.collect()
    gc.freeze()  # what is loaded stays: no collection walks through it between two frames
    _stop_on_signal(server)
    _answer_health(gateway)
    _report(config, listener, addresses)
    if server.config.ssl is not None:
        gateway.spawn(_renew_certificate(config, server.config.ssl))
    try:
        await server.serve(sockets=[listener])
    finally:
        work.cancel()
        await asyncio.wait([work])
        listener.close()
    if not work.cancelled():
        work.result()  # raises what ended the gateway


def _bind_port(port: TransportPort) -> str:
    try:
        return port.bind()
    except (OSError, zmq.ZMQError) as error:
        host, number = port.address
        raise ListenError(
            f"cannot listen for {port.clients} clients: expected an address of this machine with a "
            f"free port, got {host}:{number} ({error}); choose another {port.option}"
        ) from error


async def _run(gateway: Gateway, ports: Sequence[TransportPort]) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(gateway.run())
        for port in ports:
            tasks.create_task(port.run())


def _uvicorn_config(
    config: GatewayConfig, gateway: Gateway, table: ConnectionTable
) -> uvicorn.Config:
    guard = OriginGuard(config.host, config.allow_hosts, config.allow_origins)
    limits = {"table": table}
    return uvicorn.Config(
        BehindProxies(build_app(gateway, guard), config.trusted_proxies),
        http=type("Http", (LimitedHttp,), limits),
        ws=type("WebSocket", (AbortableWebSocket,), limits),
        ws_max_size=MAX_WEBSOCKET_MESSAGE,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # clients ping us, by a message that also measures the clocks
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # `BehindProxies` reads them
        timeout_graceful_shutdown=1,
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
        ssl_keyfile_password="",
    )


async def _renew_certificate(config: GatewayConfig, context: ssl.SSLContext) -> None:
    """Read the certificate again whenever its file changes: it is renewed every few weeks."""
    assert config.tls_cert is not None
    read = _changed_s(config.tls_cert)
    while True:
        await asyncio.sleep(_RENEW_S)
        changed = _changed_s(config.tls_cert)
        if changed in (read, None):
            continue
        read = changed
        try:
            load_certificate(config, context)
            log.info("the certificate was read again")
        except ConfigError as error:  # the old one goes on
            log.warning("%s", error)


def _changed_s(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


class _Server(uvicorn.Server):
    """Leaves the signals to us: its own handling ends the process before we are done."""

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _stop_on_signal(server: _Server) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # only a main thread can have handlers; elsewhere the task is cancelled instead
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(number, server.stop)


def _answer_health(gateway: Gateway) -> None:
    """Answer the supervisor's questions in the event loop: one that hangs does not answer."""
    name = os.environ.get(HEALTH_VARIABLE)
    if name is None:
        return
    link = socket.socket(fileno=int(name))
    link.setblocking(False)
    loop = asyncio.get_running_loop()

    def answer() -> None:
        try:
            if not link.recv(4096):  # the supervisor is gone, and we end with it
                loop.remove_reader(link)
                return
            link.send(WORKER_SILENT if gateway.worlds.link.worker_silent else WORKER_ANSWERS)
        except BlockingIOError:
            pass  # it has answers enough

    loop.add_reader(link, answer)


def _listener(config: GatewayConfig) -> socket.socket:
    """Return the listening socket. Accepted connections inherit its options."""
    if config.listen_fd is not None:
        listener = socket.socket(fileno=config.listen_fd)
    else:
        listener = _bind(config.host, config.port)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    return listener


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"cannot listen on {host}:{port}: expected an address of this machine with a free "
            f"port, got {error.strerror or error}; stop the other program, or choose another "
            f"port (0 takes a free one)"
        ) from error
    return listener


def _report(config: GatewayConfig, listener: socket.socket, addresses: Mapping[str, str]) -> None:
    host, port = listener.getsockname()[:2]
    scheme = "http" if config.tls_cert is None else "https"
    url = f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"
    log.info("listening on %s", " and ".join((url, *addresses.values())))
    if config.ready_fd is not None:
        with os.fdopen(config.ready_fd, "w") as pipe:
            report = {"host": host, "port": port, "url": url, "zeromq": None, **addresses}
            pipe.write(json.dumps(report) + "\n")


def _version() -> str:
    try:
        return version("worldbridge")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
