"""ZeroMQ with keys in front of the gateway: a ROUTER of libzmq, and a peer for each DEALER.

A ROUTER cannot cut a connection. Clients that were refused or left are remembered, and what they
still send is not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.peer import CloseRequest, Link, Peer
from worldbridge.bridge.gateway.sessions import TaskSet
from worldbridge.bridge.protocol import BridgeError, Buffer, Error, ServerMessage, encode
from worldbridge.bridge.transports.zeromq import (
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    SERVER,
    ZAP_DOMAIN,
    accepted_keys,
    load_keys,
    server_options,
    to_parts,
)
from worldbridge.clock import now_ms
from worldbridge.errors import ConfigError

log = logging.getLogger(__name__)

BATCH: Final = 32  # messages, after which others have their turn
IGNORED_BATCH: Final = 8  # the same for messages that nobody looks at
RETRY_S: Final = 0.005
ZEROMQ: Final = Link(  # no codec costs much on the same machine
    "zeromq", {"zeromq": ("i420", "rgb", "bgra", "jpeg", "h264")}, by_credit=True, client_ranks=True
)
MAX_ENDED: Final = 4096  # clients that are remembered after their end


@dataclass(slots=True, eq=False)
class _Client:
    peer: Peer
    writer: asyncio.Task[None]


def identity_refused(identity: bytes) -> BridgeError:
    """Return the error of a client that chose its routing id."""
    return BridgeError(
        "bad_message",
        "the client chose its own identity",
        "no routing id: the server gives each connection one, so none is used twice",
        repr(identity[:32]),
        "Leave ZMQ_ROUTING_ID (ZMQ_IDENTITY) of the socket unset.",
    )


class CurveServer:
    """Serves the clients of one ROUTER that have a key of the folder `zmq_keys`.

    The keys count that are there when a client connects.
    """

    clients, option = "ZeroMQ", "--zmq-port"

    def __init__(self, gateway: Gateway, config: GatewayConfig) -> None:
        """Make the socket. Raises ConfigError if the keys cannot be read."""
        assert config.zmq_port is not None and config.zmq_keys is not None
        self._gateway = gateway
        self.address = config.zmq_host, config.zmq_port
        self._keys = Path(config.zmq_keys)
        pair = load_keys(self._keys / (SERVER + SECRET_SUFFIX))
        self._accepted: dict[bytes, str] = {}  # as of when the folder was read
        self._keys_read = -1
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in server_options(pair).items():
            self._socket.setsockopt(option, value)
        self._clients: dict[bytes, _Client] = {}
        self._ended: OrderedDict[bytes, None] = OrderedDict()
        self._tasks = TaskSet()

    def bind(self) -> str:
        """Listen and return the address as bound. Raises zmq.ZMQError."""
        host, ipv6 = self.address[0], ":" in self.address[0]
        self._socket.setsockopt(zmq.IPV6, int(ipv6))
        host = f"[{host}]" if ipv6 else host
        self._socket.bind(f"tcp://{host}:{self.address[1] or '*'}")
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def run(self) -> None:
        """Serve until cancelled."""
        authenticator = AsyncioAuthenticator(self._context)
        authenticator.start()
        authenticator.configure_curve_callback(ZAP_DOMAIN, self)
        try:
            await self._receive_forever()
        finally:
            await self._tasks.cancel()
            authenticator.stop()
            self._context.destroy(linger=200)

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether the client with this public key may connect, for the authenticator."""
        try:
            changed = self._keys.stat().st_mtime_ns
            if changed != self._keys_read:
                self._accepted, self._keys_read = accepted_keys(self._keys), changed
            name = self._accepted.get(key)
        except (ConfigError, OSError) as error:
            log.warning("nobody can connect by ZeroMQ: %s", error)
            return False
        if name is None:
            log.warning(
                "refused a ZeroMQ client: expected a key of %s, got another one; add its %s file "
                "to that folder if it may connect",
                self._keys,
                PUBLIC_SUFFIX,
            )
        return name is not None

    # --- receiving ----------------------------------------------------------------------------

    async def _receive_forever(self) -> None:
        taken = ignored = 0
        while True:
            parts = await self._socket.recv_multipart(copy=False)
            identity = parts[0].bytes
            chosen = not identity.startswith(b"\0")  # those that a ROUTER gives do
            if chosen:
                await self._refuse_identity(identity)
            if chosen or identity in self._ended:
                ignored += 1
                if ignored % IGNORED_BATCH == 0:  # no pause: others' messages wait behind them
                    await asyncio.sleep(0)
                continue
            self._receive(identity, parts[1:])
            taken += 1
            if taken % BATCH == 0:
                await asyncio.sleep(0)  # a receive that is done at once lets nobody else run

    def _receive(self, identity: bytes, parts: list[zmq.Frame]) -> None:
        client = self._clients.get(identity) or self._accept(identity, parts)
        if len(parts) == 1:
            self._gateway.receive(client.peer, parts[0].bytes)
            return
        text, got = "a message has too many parts or none", f"{len(parts)} parts"
        error = BridgeError("bad_message", text, "one part", got, "Send each message by itself.")
        self._gateway.fail(client.peer, error)

    def _accept(self, identity: bytes, parts: list[zmq.Frame]) -> _Client:
        peer = self._gateway.connect(lambda: self._end(identity), link=ZEROMQ)
        peer.address = str(parts[0].get("Peer-Address")) if parts else ""
        client = _Client(peer, self._tasks.spawn(self._write(identity, peer)))
        self._clients[identity] = client
        return client

    async def _refuse_identity(self, identity: bytes) -> None:
        error = identity_refused(identity)
        with contextlib.suppress(zmq.ZMQError):  # it is gone, or does not read
            await self._socket.send_multipart([identity, encode(Error.of(error))], zmq.NOBLOCK)

    def _end(self, identity: bytes) -> None:
        """Forget a client; what it still sends is ignored. May be called twice."""
        client = self._clients.pop(identity, None)
        if client is None:
            return
        self._ended[identity] = None
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
        self._gateway.disconnect(client.peer)
        client.writer.cancel()

    # --- sending ------------------------------------------------------------------------------

    async def _write(self, identity: bytes, peer: Peer) -> None:
        try:
            while not isinstance(message := await peer.next_message(), CloseRequest):
                peer.writing_since_ms = now_ms()
                await self._send(identity, message)
                peer.writing_since_ms = None
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:  # that one only says that the client is gone
                raise
        finally:
            self._end(identity)

    async def _send(self, identity: bytes, message: ServerMessage) -> None:
        """Send a message as soon as there is room. Raises zmq.ZMQError EHOSTUNREACH."""
        parts: list[Buffer] = [identity, *to_parts(message)]
        while True:
            try:
                await self._socket.send_multipart(parts, zmq.NOBLOCK)
                return
            except zmq.Again:  # the client does not read; `Peer.overdue` ends that
                await asyncio.sleep(RETRY_S)
