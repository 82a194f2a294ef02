"""What carries a client's messages: a WebSocket, WebRTC beside it, or ZeroMQ."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

import websockets
import zmq
import zmq.asyncio
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from zmq.utils.monitor import parse_monitor_message

from worldbridge.bridge.protocol import (
    MAX_SERVER_MESSAGE,
    BridgeError,
    ServerMessage,
    decode_server,
)
from worldbridge.bridge.transports.zeromq import (
    KeyPair,
    client_options,
    from_parts,
    load_keys,
    load_public_key,
)
from worldbridge.engine_plugins.python.faults import ConnectError
from worldbridge.errors import StructuredError

if TYPE_CHECKING:
    from worldbridge.engine_plugins.python.webrtc import MediaRelay

__all__ = ["Address", "Link", "open_link", "session_url"]

_FAILED: Final = frozenset(
    {
        zmq.EVENT_HANDSHAKE_FAILED_AUTH,
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    }
)
_LAST_WORDS_S: Final = 0.05  # for what came before the end
_WATCHED: Final = frozenset({zmq.EVENT_CLOSED, zmq.EVENT_DISCONNECTED}) | _FAILED


def session_url(url: str) -> str:
    """Return the address to connect to. Raises ValueError unless it is of http, ws or tcp."""
    parts = urlsplit(url)
    if parts.scheme == "tcp" and parts.hostname and parts.port:
        return f"tcp://{parts.netloc}"
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if parts.scheme not in schemes or not parts.netloc:
        expected = "an address such as http://127.0.0.1:8080 or tcp://127.0.0.1:5555"
        raise ValueError(f"expected {expected}, got {url!r}")
    path = parts.path.rstrip("/").removesuffix("/session") + "/session"
    return urlunsplit((schemes[parts.scheme], parts.netloc, path, "", ""))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and the keys for it: both for a ZeroMQ server with keys, or none."""

    url: str
    keys: KeyPair | None = None
    server_key: bytes | None = None
    webrtc: bool = False
    media_relay: MediaRelay | None = None

    @classmethod
    def of(
        cls, url: str, key: str | Path | None, server_key: str | Path | None, webrtc: bool = False
    ) -> Address:
        """Read the keys. Raises ValueError for a wrong address, ConfigError for wrong keys."""
        if (key is None) != (server_key is None):
            raise ValueError("expected both `key` and `server_key`, or none of them")
        keys = None if key is None else load_keys(Path(key))
        server = None if server_key is None else load_public_key(server_key)
        address = cls(session_url(url), keys, server, webrtc)
        if webrtc and address.is_zeromq:
            raise ValueError(f"expected an http:// address for WebRTC, got {url!r}")
        if keys is not None and not address.is_zeromq:
            raise ValueError(f"expected a tcp:// address with keys, got {url!r}")
        return address

    @property
    def is_zeromq(self) -> bool:
        return self.url.startswith("tcp:")


class Link(Protocol):
    """One connection. All methods raise OSError or websockets.WebSocketException at its end."""

    async def send(self, data: bytes) -> None: ...
    async def receive(self) -> ServerMessage: ...
    def abort(self) -> None:
        """End the connection at once."""


@contextlib.asynccontextmanager
async def open_link(address: Address) -> AsyncIterator[Link]:
    """Connect, and close the connection at the end."""
    if address.is_zeromq:
        zeromq = _ZeroMqLink(address)
        try:
            yield zeromq
        finally:
            zeromq.destroy()
        return
    async with _WithoutDetours(
        address.url,
        compression=None,
        max_size=MAX_SERVER_MESSAGE,
        max_queue=4,
        ping_interval=None,
        proxy=None,
        open_timeout=5,
        close_timeout=1,
    ) as socket:
        if not address.webrtc:
            yield _WebSocketLink(socket)
            return
        from worldbridge.engine_plugins.python.webrtc import WebRtcLink  # aiortc is large

        link = WebRtcLink(socket, address.media_relay)
        try:
            yield link
        finally:
            await link.close()


class _WithoutDetours(open_websocket):
    """Follows no redirect to another host: the token is for the host that the caller named."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        if not isinstance(exc, websockets.InvalidStatus):
            return exc
        target = urlsplit(urljoin(self.uri, exc.response.headers.get("Location", "")))
        same = target.hostname == urlsplit(self.uri).hostname and target.scheme in ("ws", "wss")
        return super().process_redirect(exc) if same else exc


class _WebSocketLink:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, data: bytes) -> None:
        await self._socket.send(data)

    async def receive(self) -> ServerMessage:
        data = await self._socket.recv()
        return decode_server(data if isinstance(data, bytes) else data.encode())

    def abort(self) -> None:
        self._socket.transport.abort()


class _ZeroMqLink:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in client_options(address.keys, address.server_key).items():
            self._socket.setsockopt(option, value)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        monitor = self._socket.get_monitor_socket(sum(_WATCHED))
        self._watcher = asyncio.create_task(self._watch(monitor))
        self._socket.connect(address.url)

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        event = parse_monitor_message(await monitor.recv_multipart())["event"]
        self._end(_handshake_fault(self._address, event) if event in _FAILED else None)

    def _end(self, fault: StructuredError | None) -> None:
        if not self._ended.done():
            self._ended.set_exception(fault or ConnectionError("the connection was lost"))
            self._ended.exception()  # it is no surprise, also where nobody waits

    async def send(self, data: bytes) -> None:
        if self._ended.done():
            self._ended.result()
        await self._socket.send(data)

    async def receive(self) -> ServerMessage:
        arriving = asyncio.ensure_future(self._socket.recv_multipart())
        first: list[asyncio.Future[Any]] = [arriving, self._ended]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not arriving.done():
            await asyncio.wait([arriving], timeout=_LAST_WORDS_S)
        if not arriving.done():
            arriving.cancel()
            self._ended.result()
        return from_parts(await arriving)

    def abort(self) -> None:
        self._end(None)

    def destroy(self) -> None:
        self._watcher.cancel()
        self._socket.disable_monitor()
        self._context.destroy(linger=200)


def _handshake_fault(address: Address, event: int) -> StructuredError:
    if address.keys is None:
        return ConnectError(
            "what answers does not speak ZeroMQ without keys",
            expected=f"the ZeroMQ port of a worldbridge server at {address.url}",
            got="a handshake that failed",
            remedy="Use the address of the server's log (--zmq-port), or give `key` and "
            "`server_key` if the server was started with --zmq-keys.",
        )
    refused = event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    return BridgeError(
        "unauthorized",
        "the server refused the key" if refused else "the server has another key, or none",
        "a key of the server's --zmq-keys folder" if refused else "the server's own public key",
        f"the key {address.keys.name!r}",
        "Put the client's .key file into that folder."
        if refused
        else "Copy server.key from the server's --zmq-keys folder and pass it as `server_key`.",
    )
