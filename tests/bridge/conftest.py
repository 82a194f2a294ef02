"""A real gateway on a free port, in the test's own event loop, and raw clients for it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.fake_worker import SPEC, FakeWorker
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.process import serve
from worldbridge.bridge.protocol import (
    ClientMessage,
    Hello,
    Ping,
    ServerMessage,
    Start,
    Welcome,
    decode_server,
    encode,
)
from worldbridge.engine_plugins.python.prompt_frames import in_parts

Message = TypeVar("Message")
PATIENCE_S = 20.0  # only a broken server, or a very busy machine, needs it


class RawClient:
    """A WebSocket and the protocol, nothing clever. Pings only while it is asked for something."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._welcome: Welcome | None = None

    @property
    def welcome(self) -> Welcome:
        assert self._welcome is not None, "only clients of `Rig.play` were welcomed already"
        return self._welcome

    async def send(self, message: ClientMessage | bytes | str) -> None:
        data = message if isinstance(message, bytes | str) else encode(message)
        await self.socket.send(data)

    async def start(self, start: Start, files: Sequence[bytes] = ()) -> None:
        for part in in_parts(files):
            await self.send(part)
        await self.send(start.replace(prompt_frames=len(files)) if files else start)

    async def next(self) -> ServerMessage:
        data = await asyncio.wait_for(self.socket.recv(), PATIENCE_S)
        assert isinstance(data, bytes)
        return decode_server(data)

    async def keep_reading(self) -> None:
        """Ping and read until cancelled, as a page does all the time."""
        while True:
            with suppress(AssertionError):
                await self.until(Welcome)

    async def until(
        self, kind: type[Message], wanted: Callable[[Message], bool] = lambda message: True
    ) -> Message:
        """The next message of a kind; others are passed over."""
        deadline, pinged = time.monotonic() + PATIENCE_S, 0.0
        while time.monotonic() < deadline:
            if time.monotonic() - pinged > 0.3:
                pinged = time.monotonic()
                with suppress(ConnectionClosed):  # what came before the end can still be read
                    await self.send(Ping(pinged))
            message = await self.next()
            if isinstance(message, kind) and wanted(message):
                return message
        raise AssertionError(f"no {kind.__name__} came within {PATIENCE_S} s")


class Rig:
    """The gateway under test, its worker, and whatever the test connects."""

    def __init__(self, stack: AsyncExitStack, address: dict[str, Any], endpoint: str) -> None:
        self._stack = stack
        self.port: int = address["port"]
        self.url: str = address["url"]
        self.zeromq: str = address["zeromq"]
        self.endpoint = endpoint

    async def worker(self, *, ready: bool = True, **options: Any) -> FakeWorker:
        worker = FakeWorker(self.endpoint, **options)
        self._stack.push_async_callback(worker.stop)
        if ready:
            await worker.ready()
        return worker

    async def raw(self, **options: Any) -> RawClient:
        url = f"ws://127.0.0.1:{self.port}/session"
        connection = connect(
            url,
            compression=None,
            proxy=None,
            max_size=None,
            ping_interval=None,
            close_timeout=0.5,
            **options,
        )
        return RawClient(await self._stack.enter_async_context(connection))

    async def greet(self, hello: Hello | None = None) -> RawClient:
        """Return a client that said hello."""
        client = await self.raw()
        await client.send(hello or Hello("test"))
        return client

    async def play(
        self, start: Start | None = None, hello: Hello | None = None, files: Sequence[bytes] = ()
    ) -> RawClient:
        """Return a client whose world was started; `welcome` is what it received."""
        client = await self.greet(hello)
        client._welcome = await client.until(Welcome)
        await client.start(start or Start(), files)
        return client


RigMaker = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make_rig(tmp_path: Path) -> AsyncIterator[RigMaker]:
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Rig:
            endpoint = options.pop("endpoint", f"ipc://{tmp_path}/link")
            reader, writer = os.pipe()
            config = GatewayConfig(endpoint=endpoint, port=0, ready_fd=writer, **options)
            task = asyncio.create_task(serve(config))

            async def stop() -> None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            stack.push_async_callback(stop)
            with os.fdopen(reader) as pipe:
                address = json.loads(await asyncio.to_thread(pipe.readline))
            return Rig(stack, address, endpoint)

        yield make


@pytest.fixture
async def rig(make_rig: RigMaker) -> Rig:
    return await make_rig()


async def eventually(check: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not check():
        assert time.monotonic() < deadline, f"still not so after {patience_s} s"
        await asyncio.sleep(0.01)


__all__ = ["SPEC", "RawClient", "Rig", "RigMaker", "eventually"]
