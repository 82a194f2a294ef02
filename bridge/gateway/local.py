"""A client inside the gateway: other protocols join by it as clients of protocol 2.

It says hello, pings and reads like a client at the end of a WebSocket, so seats, tokens, limits and
events are the same for everyone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from worldbridge.bridge.gateway.hub import Gateway
from worldbridge.bridge.gateway.peer import CloseRequest
from worldbridge.bridge.protocol import (
    Answer,
    BridgeError,
    ClientMessage,
    Error,
    Hello,
    Ping,
    ServerMessage,
    Welcome,
    encode,
)
from worldbridge.bridge.protocol.errors import known_code
from worldbridge.clock import now_ms

__all__ = ["LocalClient"]

PING_S: Final = 0.5
Response = TypeVar("Response", Welcome, Answer)


class LocalClient:
    """One client of a gateway. `received` hears every message; `ended` hears once why it ended.

    Both are called on the event loop. The error is None for a client that left by itself.
    `address` is where it connects from.
    """

    def __init__(
        self,
        gateway: Gateway,
        address: str | None,
        received: Callable[[ServerMessage], None] = lambda message: None,
        ended: Callable[[BridgeError | None], None] = lambda error: None,
    ) -> None:
        self._gateway = gateway
        self._received = received
        self._ended = ended
        self._waiting: dict[type, asyncio.Future[ServerMessage]] = {}
        self._error: BridgeError | None = None
        self._open = True
        self.peer = gateway.connect(self.close)
        self.peer.address = address
        self._tasks = [gateway.spawn(self._read()), gateway.spawn(self._ping())]

    async def greet(self, hello: Hello, patience_s: float) -> Welcome:
        """Say hello and return the welcome. Raises BridgeError, TimeoutError (s)."""
        return await self.ask(hello, Welcome, patience_s)

    async def ask(
        self, message: ClientMessage, kind: type[Response], patience_s: float
    ) -> Response:
        """Send a message and return the next one of a kind.

        Raises:
            BridgeError: an error came first.
            TimeoutError: nothing came within `patience_s` seconds.
        """
        answer: asyncio.Future[ServerMessage] = asyncio.get_running_loop().create_future()
        self._waiting[kind] = answer
        try:
            self.send(message)
            found = await asyncio.wait_for(answer, patience_s)
        finally:
            self._waiting.pop(kind, None)
        assert isinstance(found, kind)
        return found

    def send(self, message: ClientMessage) -> None:
        """Send a message, unless this client ended."""
        if self._open:
            self._gateway.receive(self.peer, encode(message))

    def close(self) -> None:
        """End this client; its session is kept as that of a client that vanished."""
        if not self._open:
            return
        self._open = False
        for task in self._tasks:
            task.cancel()
        error = self._error or BridgeError("session_expired", "the client ended")
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
        self._gateway.disconnect(self.peer)
        self._ended(self._error)

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            self.send(Ping(now_ms()))

    async def _read(self) -> None:
        while not isinstance(message := await self.peer.next_message(), CloseRequest):
            self._take(message)
        self.close()

    def _take(self, message: ServerMessage) -> None:
        if isinstance(message, Error):
            code = known_code(message.code)
            error = BridgeError(
                code, message.message, message.expected, message.got, message.remedy, message.path
            )
            self._error = error if message.fatal else self._error
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)
        asked = self._waiting.get(type(message))
        if asked is not None and not asked.done():
            asked.set_result(message)
        self._received(message)
