"""ZeroMQ without keys in front of the gateway: one peer for each DEALER that connects.

The sockets are ours, not libzmq's: each connection has the limits of all others and can be cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.limits import REQUEST_WORK, ConnectionTable, Stopwatch, Throttle
from worldbridge.bridge.gateway.peer import CloseRequest, Peer
from worldbridge.bridge.gateway.zeromq import ZEROMQ, CurveServer, identity_refused
from worldbridge.bridge.protocol import CLIENT_LIMITS, MAX_CLIENT_MESSAGE, BridgeError, Buffer
from worldbridge.bridge.transports import zmtp
from worldbridge.bridge.transports.zeromq import to_parts
from worldbridge.clock import now_ms

log = logging.getLogger(__name__)

BATCH: Final = 32  # messages, after which others have their turn
HANDSHAKE_S: Final = 5.0
LINGER_S: Final = 1.0  # for a client to read why it was ended
MAX_COMMANDS: Final = 64  # of one connection per second
MAX_MESSAGE: Final = max(CLIENT_LIMITS.values()) + MAX_CLIENT_MESSAGE
_CHUNK: Final = 64 * 1024
_READ_WORK: Final = 50e-6  # seconds of reading a frame, and of a byte of it
_BYTE_WORK: Final = 1e-9
_BACKLOG: Final = 128
_ENDINGS: Final = (OSError, asyncio.IncompleteReadError, TimeoutError)


def zeromq_server(
    gateway: Gateway, config: GatewayConfig, table: ConnectionTable
) -> CurveServer | ZmtpServer | None:
    """Return the server of the ZeroMQ port, None without one. Raises ConfigError."""
    if config.zmq_port is None:
        return None
    if config.zmq_keys is None:
        return ZmtpServer(gateway, config, table)
    return CurveServer(gateway, config)


class ZmtpServer:
    """Serves ZeroMQ clients of this machine."""

    clients, option = "ZeroMQ", "--zmq-port"

    def __init__(self, gateway: Gateway, config: GatewayConfig, table: ConnectionTable) -> None:
        assert config.zmq_port is not None
        self._gateway = gateway
        self.address = config.zmq_host, config.zmq_port
        self._table = table
        self._listener: socket.socket | None = None
        self._open: set[asyncio.Transport] = set()

    def bind(self) -> str:
        """Listen and return the address as bound. Raises OSError."""
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        self._listener = socket.create_server(self.address, family=family, backlog=_BACKLOG)
        # what a connection has in memory before it is heard; inherited by those that are accepted
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        host, port = self._listener.getsockname()[:2]
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    async def run(self) -> None:
        """Serve until cancelled."""
        assert self._listener is not None, "bind first"
        server = await asyncio.start_server(self._serve, sock=self._listener, limit=_CHUNK)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            for transport in self._open:
                transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection from accept to end."""
        transport = cast(asyncio.Transport, writer.transport)
        address = str(transport.get_extra_info("peername", ("",))[0])
        self._table.add(transport, address)
        self._open.add(transport)
        try:
            pace = Throttle(self._table.turns, address)
            transport.pause_reading()
            await _turn(pace, writer)
            if transport.is_closing():
                return
            transport.resume_reading()
            async with asyncio.timeout(HANDSHAKE_S):
                identity = await _shake_hands(reader, writer)
            self._table.use(transport)
            await self._play(_Connection(reader, writer), pace, identity)
        except _ENDINGS:
            pass
        except BridgeError as error:
            log.info("refused a ZeroMQ client: %s", error)
            with contextlib.suppress(ConnectionError):
                _send(writer, [zmtp.error_command(str(error))])
        finally:
            self._table.remove(transport)
            self._open.discard(transport)
            writer.close()

    async def _play(self, connection: _Connection, pace: Throttle, identity: bytes) -> None:
        gateway = self._gateway
        peer = gateway.connect(connection.abort, lambda: connection.heard_ms, link=ZEROMQ)
        peer.address = pace.address
        writing = asyncio.create_task(connection.write(peer))
        try:
            if identity:
                gateway.fail(peer, identity_refused(identity))
            try:
                await self._read(connection, peer, pace)
            except BridgeError as error:
                gateway.fail(peer, error)
            await writing  # the error, if there was one
        finally:
            gateway.disconnect(peer)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await connection.ignore()

    async def _read(self, connection: _Connection, peer: Peer, pace: Throttle) -> None:
        """Hand on messages until the peer is ended. Raises BridgeError, OSError."""
        count = 0
        while peer.closing_since_ms is None:
            message = await connection.receive()
            watch = Stopwatch()
            if peer.closing_since_ms is None:
                self._gateway.receive(peer, message)
            watch.lap()
            work = _READ_WORK + len(message) * _BYTE_WORK + watch.fair
            await pace.spend(work, peer.greeted)
            count += 1
            if count % BATCH == 0:
                await asyncio.sleep(0)  # what was read already is taken without a pause


class _Connection:
    """Frames in both directions."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._commands = (0.0, 0)  # when the current second began, commands since then
        self.heard_ms = now_ms()

    def abort(self) -> None:
        self._writer.transport.abort()

    async def receive(self) -> bytes:
        """Return the next message. Raises BridgeError, and OSError at the end."""
        while True:
            is_command, content = await _read_frame(self._reader, MAX_MESSAGE, self._hear)
            if not is_command:
                return content
            self._count_command()
            name, body = zmtp.split_command(content)
            if name == b"PING" and self._writer.transport.get_write_buffer_size() == 0:
                _send(self._writer, [zmtp.pong(body)])

    async def write(self, peer: Peer) -> None:
        """Write what waits for a client until the end. Raises OSError."""
        while not isinstance(message := await peer.next_message(), CloseRequest):
            peer.writing_since_ms = now_ms()
            _send(self._writer, zmtp.frames(to_parts(message)))
            await self._writer.drain()
            peer.writing_since_ms = None

    async def ignore(self) -> None:
        """Read on, slowly and without looking: a close while bytes wait would be a reset."""
        while await self._reader.read(_CHUNK):
            await asyncio.sleep(0.01)

    def _hear(self) -> None:
        self.heard_ms = now_ms()

    def _count_command(self) -> None:
        began, count = self._commands
        now = time.monotonic()
        self._commands = (began, count + 1) if now - began < 1.0 else (now, 1)
        if self._commands[1] > MAX_COMMANDS:
            most = f"at most {MAX_COMMANDS} per second"
            remedy = "Leave ZMQ_HEARTBEAT_IVL off, or at 100 ms and more."
            raise BridgeError("bad_message", "too many ZMTP commands", most, "more", remedy)


def _send(writer: asyncio.StreamWriter, data: Sequence[Buffer]) -> None:
    """Write. Raises OSError if the connection was cut; uvloop's own error is a RuntimeError."""
    if writer.transport.is_closing():
        raise ConnectionResetError("the connection was cut")
    writer.writelines(data)


async def _turn(pace: Throttle, writer: asyncio.StreamWriter) -> None:
    """Wait for a newcomer's turn, or for the end of its connection."""

    async def closed() -> None:
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    waits = [asyncio.create_task(pace.spend(REQUEST_WORK)), asyncio.create_task(closed())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waits[0].cancel()  # the other one ends with the connection


async def _shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Return the identity that a client chose, mostly empty. Raises BridgeError, OSError."""
    _send(writer, [zmtp.GREETING])
    zmtp.check_greeting(await reader.readexactly(zmtp.GREETING_SIZE))
    _send(writer, [zmtp.READY])
    is_command, content = await _read_frame(reader, zmtp.MAX_COMMAND)
    return zmtp.check_ready(*zmtp.split_command(content if is_command else b""))


async def _read_frame(
    reader: asyncio.StreamReader, most: int, heard: Callable[[], None] = lambda: None
) -> tuple[bool, bytes]:
    """Return whether a frame is a command, and its content. Raises BridgeError, OSError."""
    flags = (await reader.readexactly(1))[0]
    size = await reader.readexactly(8 if zmtp.is_long(flags) else 1)
    left = zmtp.frame_size(flags, size, most)
    heard()
    if left <= _CHUNK:
        return zmtp.is_command(flags), await reader.readexactly(left)
    content = bytearray()
    while len(content) < left:
        content += await reader.readexactly(min(_CHUNK, left - len(content)))
        heard()
    return zmtp.is_command(flags), bytes(content)
