"""Attackers of a server, in a process of their own: `python -m tests.hostile.attacks PORT NAME S`.

Each attack runs in four connections, or with four connections at a time, as fast as it can.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgpack

from worldbridge.bridge.protocol import Bye, ControllerState, Hello, Input, Ping, Start, encode
from worldbridge.engine_plugins.python import connect

ATTACKERS: Final = 4
IDLE: Final = 600  # connections
Attack = Callable[[int, float], Awaitable[None]]  # (port, deadline)

_TEXT, _BINARY, _CONTINUATION, _PING = 0x1, 0x2, 0x0, 0x9


def frame(data: bytes, opcode: int = _BINARY, final: bool = True) -> bytes:
    """A masked WebSocket frame; the mask is zero, so the bytes stay as they are."""
    head = bytes([(0x80 if final else 0) | opcode])
    size = len(data)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += b"\xfe" + size.to_bytes(2)
    else:
        head += b"\xff" + size.to_bytes(8)
    return head + bytes(4) + data


async def websocket(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket to the session endpoint, without any library in the way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        "GET /session HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    )
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def _drain(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


def flood(*first: bytes, then: bytes, reads: bool = True) -> Attack:
    """Send `first`, then `then` again and again; connect again when the server cuts the line."""

    async def attack(port: int, deadline: float) -> None:
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                reader, writer = await websocket(port)
                drain = asyncio.create_task(_drain(reader)) if reads else None
                try:
                    for data in first:
                        writer.write(data)
                    while time.monotonic() < deadline and not writer.is_closing():
                        writer.write(then)
                        async with asyncio.timeout(1.0):
                            await writer.drain()
                        await asyncio.sleep(0)
                finally:
                    writer.transport.abort()
                    if drain is not None:
                        drain.cancel()
            await asyncio.sleep(0)

    return attack


async def idle_connections(port: int, deadline: float) -> None:
    """Open connections that never finish a request."""
    opened: list[asyncio.StreamWriter] = []
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /session HTTP/1.1\r\nHo")
            opened.append(writer)
        if len(opened) >= IDLE // ATTACKERS:
            opened.pop(0).transport.abort()
            await asyncio.sleep(0.001)
    for writer in opened:
        writer.transport.abort()


async def half_sent(port: int, deadline: float) -> None:
    """Announce messages of megabytes and send all but their end, before any hello."""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            _, writer = await websocket(port)
            whole = frame(bytes(250_000))
            writer.write(whole[:-1])
            async with asyncio.timeout(1.0):
                await writer.drain()
            await asyncio.sleep(0.01)
            writer.transport.abort()


async def requests(port: int, deadline: float) -> None:
    """Ask for paths with escapes for a terminal, each of which may cost a line of the log."""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"GET /\x1b]0;pwned\x07?token=x HTTP/1.1\r\nHost: evil.example\r\n\r\n" * 8
            )
            await reader.read(1 << 16)
            writer.transport.abort()


_JUNK = msgpack.packb({"type": "ping", "time": 1.0, "x": [[{}] * 1000] * 60})
_PLAY = (frame(encode(Hello())), frame(encode(Start())))
_STATE = ControllerState(2**40, 1.0)


async def honest_players(port: int, deadline: float) -> None:
    """Play as anybody may: a world has to draw for four players more."""
    async with connect(f"http://127.0.0.1:{port}") as player:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                while True:
                    await player.frame()


def burn(port: int, deadline: float) -> None:
    """Use a core, without a connection."""
    while time.monotonic() < deadline:
        pass


# What is no attack, but takes the machine's time as well.
BURNERS, PLAYERS = "four busy processes", "four more players"

ATTACKS: Final[dict[str, Attack]] = {
    "idle connections": idle_connections,
    "half-sent messages": half_sent,
    "requests with escapes": requests,
    "junk before hello": flood(then=frame(_JUNK)),
    "junk of a player": flood(*_PLAY, then=frame(_JUNK)),
    "empty fragments": flood(frame(b"", final=False), then=frame(b"", _CONTINUATION, False) * 4000),
    "control frames": flood(then=frame(b"", _PING) * 4000),
    "text": flood(then=frame(b"hello " * 100, _TEXT) * 20),
    "starts": flood(*_PLAY, then=frame(encode(Start(seed=1))) * 50),
    "input": flood(*_PLAY, then=frame(encode(Input((_STATE,)))) * 200),
    "hello and bye": flood(then=frame(encode(Hello())) + frame(encode(Bye()))),
    "nothing is read": flood(*_PLAY, then=frame(encode(Ping(1.0))) * 10, reads=False),
}


async def main() -> None:
    port, name, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    deadline = time.monotonic() + seconds
    if name == BURNERS:
        processes = [multiprocessing.Process(target=burn, args=(port, deadline)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            await asyncio.to_thread(process.join)
        return
    attack = honest_players if name == PLAYERS else ATTACKS[name]
    await asyncio.gather(*(attack(port, deadline) for _ in range(ATTACKERS)))


if __name__ == "__main__":
    asyncio.run(main())
