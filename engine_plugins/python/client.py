"""A client over one WebSocket: controls up, JPEG frames down, newest first, and it comes back.

    async with connect("http://127.0.0.1:8080") as client:
        client.steer(keys=("KeyW",))
        frame = await client.frame()
        picture = frame.rgb()          # uint8 [height, width, 3]

A world begins from what the caller renders: `connect(url, pictures=screenshot)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import simplejpeg
import websockets
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket

from worldbridge.bridge.errors import (
    BAD_PICTURE,
    CLIENT_TOO_SLOW,
    ERROR_CODES,
    INTERNAL,
    SESSION_EXPIRED,
    WORKER_LOST,
    BridgeError,
)
from worldbridge.bridge.media.latest import LatestValue
from worldbridge.bridge.protocol import (
    MAX_SERVER_MESSAGE,
    SNAPSHOTS_PER_INPUT,
    Bye,
    ClientMessage,
    ControllerState,
    Error,
    Frame,
    FrameHeader,
    FrameShown,
    Hello,
    Input,
    Ping,
    Pong,
    Pose,
    Role,
    Start,
    Status,
    Welcome,
    decode_server,
    encode,
)
from worldbridge.engine_plugins.python.prompt_frames import Pictures, as_files
from worldbridge.engine_plugins.python.timing import Arrival, ClockOffset

FAST_PINGS: Final = 8  # right after connecting, so that the clocks are matched early
FAST_PING_S: Final = 0.05
PING_S: Final = 0.5
SILENCE_S: Final = 4.0  # a server that answers no ping for so long is gone
FIRST_RETRY_S: Final = 0.2
LONGEST_RETRY_S: Final = 5.0

# After these errors another attempt can succeed.
_PASSING: Final = frozenset({SESSION_EXPIRED, WORKER_LOST, CLIENT_TOO_SLOW, INTERNAL})


def now_ms() -> float:
    """The client's clock in milliseconds."""
    return time.perf_counter() * 1000.0


def session_url(url: str) -> str:
    """The WebSocket address of a server. Raises ValueError for what is no http or ws address."""
    parts = urlsplit(url)
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if parts.scheme not in schemes or not parts.netloc:
        raise ValueError(f"expected an address such as http://127.0.0.1:8080, got {url!r}")
    path = parts.path.rstrip("/").removesuffix("/session") + "/session"
    return urlunsplit((schemes[parts.scheme], parts.netloc, path, "", ""))


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """A frame as it came; it is decoded when somebody looks at it."""

    header: FrameHeader
    jpeg: bytes
    received_ms: float

    def rgb(self) -> NDArray[np.uint8]:
        """The picture, uint8 [height, width, 3]."""
        picture: NDArray[np.uint8] = simplejpeg.decode_jpeg(self.jpeg, "RGB")
        return picture


class Client:
    """Use `connect`. All methods belong to the event loop that the client was made on."""

    def __init__(self, url: str, hello: Hello) -> None:
        self.welcome: Welcome | None = None
        self.status = Status("loading", "connecting")
        self.clock = ClockOffset()
        self.reconnects = 0
        self.refusal: BridgeError | None = None  # why the newest `start` was not done
        self._url = session_url(url)
        self._hello = hello
        self._frames: LatestValue[ReceivedFrame | Exception] = LatestValue()
        self._recent: deque[ControllerState] = deque(maxlen=SNAPSHOTS_PER_INPUT)
        self._seq = 0
        self._socket: ClientConnection | None = None
        self._writes: asyncio.Queue[bytes] = asyncio.Queue(64)
        self._error: Exception | None = None
        self._heard_ms = now_ms()

    # --- playing ------------------------------------------------------------------------------

    def steer(
        self,
        *,
        axes: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        buttons: int = 0,
        keys: Sequence[str] = (),
        pointer: tuple[float, float] = (0.0, 0.0),
        pose: Pose | None = None,
    ) -> ControllerState:
        """Send what the controller holds now; `pointer` counts all pixels moved so far.

        Send at least every 200 ms: a controller that is silent for 250 ms is released.
        """
        snapshot = ControllerState(self._seq, now_ms(), axes, buttons, tuple(keys), pointer, pose)
        self._seq += 1
        self._recent.appendleft(snapshot)
        self._send(Input(tuple(self._recent)))
        return snapshot

    def start(
        self, theme: str | None = None, seed: int | None = None, pictures: Pictures | None = None
    ) -> None:
        """Begin anew, with another theme, seed or pictures (see `as_files`) if given.

        An empty list of pictures goes back to the theme's own beginning. What the server refuses is
        in `refusal` afterwards, and the world goes on as it was.
        """
        files = None if pictures is None else as_files(pictures)
        self.refusal = None
        self._send(Start(theme, seed, files))

    async def frame(self) -> ReceivedFrame:
        """The newest frame that was not taken yet. Raises BridgeError if the server refused us."""
        if self._error is not None:
            raise self._error
        arrived = await self._frames.get()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    @property
    def frames_skipped(self) -> int:
        """Frames that arrived but were replaced by newer ones before anybody took them."""
        return self._frames.dropped

    def report(self, frame: ReceivedFrame, shown_ms: float) -> Arrival | None:
        """Tell the server when a frame was shown; None while the clocks are not matched."""
        offset = self.clock.offset_ms
        self._send(FrameShown(frame.header.frame, frame.received_ms, shown_ms, offset))
        if offset is None:
            return None
        return Arrival(frame.header, frame.received_ms, shown_ms, offset)

    def _send(self, message: ClientMessage) -> None:
        """Never waits: while the network is behind, old controls are worth nothing."""
        if self._socket is not None and not self._writes.full():
            self._writes.put_nowait(encode(message))

    # --- the connection -----------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and connect again whenever the connection is lost. Ends with a fatal error."""
        wait = FIRST_RETRY_S
        while True:
            try:
                await self._converse()
            except BridgeError as error:
                if error.code not in _PASSING:
                    return self._give_up(error)
                if error.code == SESSION_EXPIRED:
                    self._hello = replace(self._hello, resume=None)
            except websockets.InvalidHandshake as error:
                return self._give_up(error)
            except (OSError, EOFError, TimeoutError, websockets.ConnectionClosed):
                pass
            wait = FIRST_RETRY_S if self.status.state == "playing" else wait
            self.status = Status("reconnecting", "the connection was lost")
            self.reconnects += 1
            await asyncio.sleep(wait)
            wait = min(LONGEST_RETRY_S, wait * 2)

    def _give_up(self, error: Exception) -> None:
        self._error = error
        self._frames.put(error)

    async def _converse(self) -> None:
        """One connection from hello to its end, which always is an exception."""
        async with open_websocket(
            self._url,
            compression=None,
            max_size=MAX_SERVER_MESSAGE,
            max_queue=4,
            ping_interval=None,
            proxy=None,
            open_timeout=5,
            close_timeout=1,
        ) as socket:
            hello = self._hello
            if hello.resume is not None:  # the server still has them
                hello = replace(hello, pictures=None)
            await socket.send(encode(hello))
            self._writes = asyncio.Queue(64)
            self._socket, self._heard_ms = socket, now_ms()
            helpers = [asyncio.create_task(w) for w in (self._write(socket), self._ping(socket))]
            try:
                while True:
                    data = await socket.recv()
                    self._handle(data if isinstance(data, bytes) else data.encode())
            finally:
                self._socket = None
                for task in helpers:
                    task.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            await socket.send(await self._writes.get())

    async def _ping(self, socket: ClientConnection) -> None:
        count = 0
        while now_ms() - self._heard_ms < SILENCE_S * 1000:
            self._send(Ping(now_ms()))
            count += 1
            await asyncio.sleep(FAST_PING_S if count < FAST_PINGS else PING_S)
        await socket.close()

    def _handle(self, data: bytes) -> None:
        received = self._heard_ms = now_ms()
        match decode_server(data):
            case Frame(header, jpeg) if jpeg is not None:
                self._frames.put(ReceivedFrame(header, jpeg, received))
            case Pong(sent, server):
                self.clock.add(sent, received, server)
            case Status() as status:
                self.status = status
            case Welcome() as welcome:
                self.welcome = welcome
                self._check_pictures(welcome)
                self._hello = replace(self._hello, resume=welcome.resume or None)
            case Error() as error if error.fatal:
                code = error.code if error.code in ERROR_CODES else INTERNAL
                raise BridgeError(code, error.message, error.expected, error.got, error.remedy)
            case Error() as error:
                code = error.code if error.code in ERROR_CODES else INTERNAL
                self.refusal = BridgeError(
                    code, error.message, error.expected, error.got, error.remedy
                )

    def _check_pictures(self, welcome: Welcome) -> None:
        """An older server passes over pictures without a word."""
        if self._hello.pictures and welcome.role == "player" and not welcome.spec.takes_pictures:
            raise BridgeError(
                BAD_PICTURE,
                "this server cannot begin a world with pictures",
                "a world whose spec has takes_pictures",
                f"the world {welcome.spec.name!r} of {welcome.server}",
                "Leave `pictures` out, or update the server.",
            )

    async def close(self) -> None:
        """Leave for good: the seat is free for the next player at once."""
        if self._socket is not None:
            with contextlib.suppress(websockets.ConnectionClosed, TimeoutError):
                async with asyncio.timeout(1):
                    await self._socket.send(encode(Bye()))


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    theme: str | None = None,
    seed: int | None = None,
    world: str | None = None,
    watch: bool = False,
    token: str | None = None,
    resume: str | None = None,
    name: str = "python",
    pictures: Pictures | None = None,
) -> AsyncIterator[Client]:
    """Play at `url`, or only `watch`; leaving the block frees the seat.

    `pictures` are what the world begins with instead of its theme: a screenshot, or up to nine
    frames, oldest first (see `as_files`).
    A lost connection is taken up again with growing pauses, in the same world if that is still
    there. A refusal of the server raises BridgeError from `Client.frame`.
    """
    role: Role = "spectator" if watch else "player"
    files = None if pictures is None else as_files(pictures)
    hello = Hello(name, role, world, theme, seed, "jpeg", resume, token, pictures=files)
    client = Client(url, hello)
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        await client.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
