"""A server that replays a recorded session to one client, in awkward pieces, over raw TCP."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

VALID = Path(__file__).parents[3] / "engine_plugins" / "fixtures" / "valid"
BINARY, CONTINUATION, CLOSE, PING, PONG = 2, 0, 8, 9, 10
FRAMES = 200
MODES = ("whole", "fragments", "segments", "pings", "unfinished", "stall", "restart")


def _message(name: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads((VALID / f"{name}.json").read_text())["message"]
    return message


def _welcome() -> bytes:
    seat = {"state": "seated"}
    return msgspec.msgpack.encode(
        _message("server_welcome_queued") | {"seat": seat, "started": True}
    )


def _frame(number: int) -> bytes:
    message = _message("server_frame")
    header = message["header"] | {"frame": number, "input_sequence": number - 1}
    # the largest need lengths of 64 bits
    image = b"\xff\xd8" + bytes(70_000 if number % 50 == 49 else 3000 + 40 * (number % 100))
    return msgspec.msgpack.encode(message | {"header": header, "image": image, "depth": None})


class Replay:
    """Serves one session; what the client sent is in `received`."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.received: list[dict[str, Any]] = []
        self.pongs: list[bytes] = []
        self.connections = 0
        self._sending = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()

    def run(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                with client, suppress(ConnectionError):
                    self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _shake(client)
        threading.Thread(target=self._listen, args=(client,), daemon=True).start()
        while sum(message["type"] == "hello" for message in self.received) < self.connections:
            time.sleep(0.005)
        self._send(client, _welcome())
        self._send(client, msgspec.msgpack.encode({"type": "status", "state": "playing"}))
        first = self.connections == 1
        time.sleep(0.3)  # a frame right after the welcome may belong to the world before
        for number in range(FRAMES):
            if first and number == 10 and self.mode == "restart":
                client.sendall(_head(CLOSE, 2) + struct.pack(">H", 1012))
                return
            if first and number == 10 and self.mode in ("unfinished", "stall"):
                if self.mode == "unfinished":
                    client.sendall(_head(BINARY, 4000, last=False) + bytes(4000))
                time.sleep(6)
                return
            self._send(client, _frame(number + 1000 * self.connections))
            time.sleep(0.01)

    def _send(self, client: socket.socket, message: bytes) -> None:
        if self.mode in ("fragments", "pings"):
            parts = [message[i : i + 700] for i in range(0, len(message), 700)]
            for index, part in enumerate(parts):
                opcode = CONTINUATION if index else BINARY
                client.sendall(_head(opcode, len(part), last=index == len(parts) - 1) + part)
                if self.mode == "pings":
                    client.sendall(_head(PING, 5) + b"still")
            return
        data = _head(BINARY, len(message)) + message
        with self._sending:
            self._send_pieces(client, data)

    def _send_pieces(self, client: socket.socket, data: bytes) -> None:
        step = 100 if self.mode == "segments" else len(data)
        for start in range(0, len(data), step):
            client.sendall(data[start : start + step])

    def _listen(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError), client.makefile("rb") as stream:
            while True:
                opcode, data = _read(stream)
                if opcode == PONG:
                    self.pongs.append(data)
                elif opcode == BINARY:
                    self._answer(client, msgspec.msgpack.decode(data))

    def _answer(self, client: socket.socket, message: dict[str, Any]) -> None:
        self.received.append(message)
        if message["type"] == "ping" and self.mode == "whole":
            pong = {"type": "pong", "time": message["time"], "server_time": 1.0}
            self._send(client, msgspec.msgpack.encode(pong))


@contextmanager
def replaying(mode: str) -> Iterator[Replay]:
    """Run a replay server on a free port."""
    replay = Replay(mode)
    threading.Thread(target=replay.run, daemon=True).start()
    try:
        yield replay
    finally:
        replay.close()


def _head(opcode: int, length: int, *, last: bool = True) -> bytes:
    first = (0x80 if last else 0) | opcode
    if length < 126:
        return struct.pack(">BB", first, length)
    if length < 65536:
        return struct.pack(">BBH", first, 126, length)
    return struct.pack(">BBQ", first, 127, length)


def _exactly(stream: Any, count: int) -> bytes:
    data: bytes = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _read(stream: Any) -> tuple[int, bytes]:
    first, second = _exactly(stream, 2)
    assert second & 0x80, "a client has to mask"
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", _exactly(stream, 2))
    mask = _exactly(stream, 4)
    data = bytes(b ^ mask[i & 3] for i, b in enumerate(_exactly(stream, length)))
    return first & 0x0F, data


def _shake(client: socket.socket) -> None:
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        request += client.recv(1)
    key = request.lower().split(b"sec-websocket-key: ")[1].split(b"\r\n")[0]
    key = request[request.lower().index(key) :][: len(key)]
    magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key + magic, usedforsecurity=False).digest())
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
