"""The server of the clients' tests: it replays one recorded session in awkward pieces.

The session is a series of test cards. Before them comes a warm-up card again and again, until the
client reports that it shows frames: right after a welcome a frame may belong to the world before.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import simplejpeg

from tests.support import test_card

VALID: Final = Path(__file__).parents[2] / "engine_plugins" / "fixtures" / "valid"
HTML: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n"
    b"Connection: close\r\n\r\n<html>"
)
BINARY, CONTINUATION, CLOSE, PING, PONG = 2, 0, 8, 9, 10

COUNT: Final = 24  # recorded frames; their test cards have the numbers from 0
LARGE: Final = 5  # its message needs a length of 64 bits
BREAK: Final = 8  # the frame before which a connection ends
WARM_UP: Final = 0xAAAA  # number of the warm-up card
LAST: Final = 9999  # number in the header of the last frame
SILENCE_S: Final = 15.0  # longer than a client waits for a silent server

MODES: Final = (
    "whole",  # a message, a WebSocket frame
    "fragments",  # WebSocket frames of 700 bytes
    "segments",  # TCP segments of 100 bytes
    "pings",  # fragments with a ping after each
    "unfinished",  # a message whose last fragment never comes, then silence
    "stall",  # silence
    "restart",  # the server closes, and goes on when the client is back
)
BREAKS: Final = ("unfinished", "stall", "restart")  # these need a second connection


def fnv1a(data: bytes) -> int:
    """Return the 32 bits of the FNV-1a hash, which the players of all languages print."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


@cache
def card(number: int) -> bytes:
    """Return a frame's image, a JPEG file."""
    image = test_card.jpeg(number)
    if number == LARGE:  # bytes after the end of an image are no part of it
        image += bytes(70_000)
    return image


@cache
def recorded() -> tuple[int, ...]:
    """Return the image hash of every recorded frame: what each client has to show."""
    return tuple(fnv1a(card(number)) for number in range(COUNT))


@cache
def _message(name: str) -> Mapping[str, Any]:
    message: dict[str, Any] = json.loads((VALID / f"{name}.json").read_text())["message"]
    return message


def _welcome(started: bool, conditionings: Sequence[str], version: int) -> bytes:
    fixture = _message("server_welcome_queued")
    world = {**fixture["world"], "conditionings": conditionings}
    seat = {"state": "seated"}
    fields = {"world": world, "seat": seat, "started": started, "version": version}
    return msgspec.msgpack.encode({**fixture, **fields})


def _recorded_session() -> list[Mapping[str, Any]]:
    return [{"image": card(number), "depth": None} for number in (WARM_UP, *range(COUNT))]


SMALL: Final = (160, 96)  # width and height of the frame after a change of size


@cache
def bad_session(kind: str) -> list[Mapping[str, Any]]:
    """Return a session with one bad message after the warm-up frame: cut, larger, codec or image.

    "size" is none: the frames become smaller.
    """
    warm_up = {"image": card(WARM_UP), "depth": None}
    whole = _frame(5, warm_up, 4)
    if kind == "size":
        pixels = np.full((SMALL[1], SMALL[0], 3), 90, np.uint8)
        image = simplejpeg.encode_jpeg(pixels, 90, colorspace="RGB")
        header = {"width": SMALL[0], "height": SMALL[1]}
        return [warm_up, {"header": header, "image": image, "depth": None}]
    bad: dict[str, Mapping[str, Any]] = {
        "cut": {"raw": whole[:-20]},
        # a map whose only value announces 4 GiB
        "larger": {"raw": b"\x81\xa4type\xdb\xff\xff\xff\xff" + b"frame"},
        "codec": {"raw": _frame(5, {**warm_up, "codec": "avif"}, 4)},
    }
    return [warm_up, bad[kind], warm_up]


def _frame(number: int, fields: Mapping[str, Any], answered: int) -> bytes:
    if "raw" in fields:
        raw: bytes = fields["raw"]
        return raw
    message = {**_message("server_frame"), **fields}
    counts = {"frame": number, "input_sequence": answered}
    message["header"] = _message("server_frame")["header"] | fields.get("header", {}) | counts
    return msgspec.msgpack.encode(message)


class ClientServer:
    """Serves one session in a mode of MODES; what the client sent is in `received`.

    With `in_step` each recorded frame waits until the one before is reported as shown, so that a
    client that keeps only the newest frame shows every one. `session` replaces the test cards:
    the fields of each frame message, the first for warming up.
    """

    def __init__(
        self,
        mode: str,
        *,
        in_step: bool = True,
        ping: bytes = b"still",
        session: Sequence[Mapping[str, Any]] | None = None,
        started: bool = True,
        conditionings: Sequence[str] = ("actions", "camera", "text"),
        answers: bool = False,
        version: int = 2,
    ) -> None:
        self.mode = mode
        self._conditionings = conditionings
        self._version = version  # of the protocol, as the welcome says it
        self._answers = answers  # whether frames answer the newest state that came
        self._started = started  # whether the world runs already when the client comes
        self._warm_up, *self._session = session or _recorded_session()
        self.ping = ping  # what a ping between fragments carries
        self.in_step = in_step
        self.received: list[dict[str, Any]] = []
        self.pongs: list[bytes] = []
        self.connections = 0
        self._number = -1  # of the newest frame
        self._shown = -1  # the newest that the client reported
        self._silent = False
        self._news = threading.Condition()
        self._sending = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}"

    def types(self) -> list[str]:
        """Return the types of the received messages in order."""
        return [message["type"] for message in self.received]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the received messages of one type."""
        return [message for message in self.received if message["type"] == kind]

    def close(self) -> None:
        self._listener.close()

    def run(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connected, args=(client,), daemon=True).start()

    def _connected(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.mode == "html":
                _read_request(client)
                client.sendall(HTML)
                return
            _shake(client)
            self.connections += 1
            listener = threading.Thread(target=self._listen, args=(client,), daemon=True)
            listener.start()
            self._serve(client, self.connections)
            listener.join(60)  # until the client leaves

    def _serve(self, client: socket.socket, connection: int) -> None:
        self.wait(lambda: len(self.of("hello")) == connection, 30)
        self._silent = False
        self._shown = -1
        self._send(client, _welcome(self._started, self._conditionings, self._version))
        if not self._started:
            self.wait(lambda: bool(self.of("start")), 60)
        self._send(client, msgspec.msgpack.encode({"type": "status", "state": "playing"}))
        for _ in range(100):
            self._send(client, self._frame(self._next(), self._warm_up))
            if self.wait(lambda: self._shown >= 0, 0.1):
                break
        again = self.mode in BREAKS and connection > 1
        for index in range(BREAK if again else 0, len(self._session)):
            if index == BREAK and self.mode in BREAKS and not again:
                return self._break(client)
            number = LAST if index == len(self._session) - 1 else self._next()
            self._send(client, self._frame(number, self._session[index]))
            if self.in_step:
                self.wait(lambda at=number: self._shown >= at, 10)  # type: ignore[misc]
            else:
                time.sleep(0.02)

    def _frame(self, number: int, fields: Mapping[str, Any]) -> bytes:
        inputs = self.of("input") if self._answers else []
        newest = inputs[-1]["states"][0]["sequence"] if inputs else number - 1
        return _frame(number, fields, newest)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _break(self, client: socket.socket) -> None:
        if self.mode == "restart":
            client.sendall(_head(CLOSE, 2) + struct.pack(">H", 1012))
            client.shutdown(socket.SHUT_WR)
            return
        self._silent = True
        if self.mode == "unfinished":
            client.sendall(_head(BINARY, 4000, last=False) + bytes(4000))
        self.wait(lambda: self.connections > 1, SILENCE_S)

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Return whether a condition on what was received became true in time."""
        with self._news:
            return self._news.wait_for(condition, seconds)

    def _send(self, client: socket.socket, message: bytes) -> None:
        with self._sending:
            if self.mode not in ("fragments", "pings"):
                data = _head(BINARY, len(message)) + message
                step = 100 if self.mode == "segments" else len(data)
                for start in range(0, len(data), step):
                    client.sendall(data[start : start + step])
                return
            parts = [message[i : i + 700] for i in range(0, len(message), 700)]
            for index, part in enumerate(parts):
                opcode = CONTINUATION if index else BINARY
                client.sendall(_head(opcode, len(part), last=index == len(parts) - 1) + part)
                if self.mode == "pings":
                    client.sendall(_head(PING, len(self.ping)) + self.ping)

    def _listen(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError), client.makefile("rb") as stream:
            while True:
                opcode, data = _read(stream)
                if opcode == PONG:
                    self.pongs.append(data)
                elif opcode == BINARY:
                    self._heard(client, msgspec.msgpack.decode(data))
                elif opcode == CLOSE:
                    client.sendall(_head(CLOSE, len(data)) + data)
                    return

    def _heard(self, client: socket.socket, message: dict[str, Any]) -> None:
        with self._news:
            self.received.append(message)
            if message["type"] == "frame_shown":
                self._shown = max(self._shown, message["frame"])
            self._news.notify_all()
        if message["type"] == "ping" and not self._silent:
            pong = {"type": "pong", "time": message["time"], "server_time": 1.0}
            self._send(client, msgspec.msgpack.encode(pong))


@contextmanager
def client_server(mode: str, **options: Any) -> Iterator[ClientServer]:
    """Run a ClientServer on a free port; mode "html": it is a web server that knows no session."""
    server = ClientServer(mode, **options)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        yield server
    finally:
        server.close()


Played = tuple[dict[str, Any], ClientServer]


def play_all(
    play: Callable[[str], dict[str, Any]], *, in_step: bool = True, html: bool = False
) -> dict[str, Played]:
    """Let a client play in every mode, side by side; with `html` in that mode, too.

    `play` takes an address and returns a report.
    """
    modes = (*MODES, "html") if html else MODES

    def one(mode: str) -> Played:
        with client_server(mode, in_step=in_step) as server:
            return play(server.url), server

    with ThreadPoolExecutor(len(modes)) as pool:
        return dict(zip(modes, pool.map(one, modes), strict=True))


def check_session(server: ClientServer, shown: Sequence[int]) -> None:
    """Assert that a client showed what was recorded, and sent what the protocol asks for.

    `shown`: the image hash of every frame in order, or the number on every test card.
    """
    numbers = WARM_UP in shown
    warm_up = WARM_UP if numbers else fnv1a(card(WARM_UP))
    frames = [frame for frame in shown if frame != warm_up]
    want = list(range(COUNT)) if numbers else list(recorded())
    assert frames == want, f"{server.mode}: frames {[want.index(f) for f in frames if f in want]}"
    server.wait(lambda: "bye" in server.types(), 10)
    kinds = set(server.types())
    assert kinds >= {"hello", "ping", "input", "frame_shown", "bye"}, kinds
    hellos = server.of("hello")
    again = server.mode in BREAKS
    assert len(hellos) == server.connections == (2 if again else 1)
    assert [hello["resume"] for hello in hellos] == [None, "resume-2"][: len(hellos)]
    sequences = [message["states"][0]["sequence"] for message in server.of("input")]
    # each connection counts for itself
    falls = sum(later <= earlier for earlier, later in pairwise(sequences))
    assert falls < server.connections, f"{server.mode}: {sequences}"
    if server.mode == "pings":
        assert len(server.pongs) > COUNT and set(server.pongs) == {server.ping}


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
    """Return a message, whose fragments are joined, or a control frame."""
    opcode, data, last = _read_frame(stream)
    while not last:
        _, more, last = _read_frame(stream)
        data += more
    return opcode, data


def _read_frame(stream: Any) -> tuple[int, bytes, bool]:
    first, second = _exactly(stream, 2)
    assert second & 0x80, "a client has to mask"
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", _exactly(stream, 2))
    elif length == 127:
        (length,) = struct.unpack(">Q", _exactly(stream, 8))
    mask = np.frombuffer(_exactly(stream, 4), np.uint8)
    data = np.frombuffer(_exactly(stream, length), np.uint8)
    return first & 0x0F, (data ^ np.resize(mask, length)).tobytes(), bool(first & 0x80)


def _read_request(client: socket.socket) -> bytes:
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        if not byte:
            raise EOFError
        request += byte
    return request


def _shake(client: socket.socket) -> None:
    request = _read_request(client)
    key = request.lower().split(b"sec-websocket-key: ")[1].split(b"\r\n")[0]
    key = request[request.lower().index(key) :][: len(key)]
    magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key + magic, usedforsecurity=False).digest())
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
