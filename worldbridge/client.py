"""Play from Python: `async with connect(url) as client: async for frame in client: ...`"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import websockets

from worldbridge.bridge.protocol import (
    Answer,
    Bye,
    ClientMessage,
    Error,
    Frame,
    FrameHeader,
    Hello,
    Input,
    Offer,
    Ping,
    Pong,
    ProtocolError,
    Snapshot,
    Start,
    Status,
    Video,
    Welcome,
    decode_server,
    encode,
)
from worldbridge.errors import StartError
from worldbridge.latency import ClockOffset
from worldbridge.rtc import Picture, VideoLink

__all__ = ["Client", "ShownFrame", "connect", "now_ms", "session_url"]

_FAST_PINGS: Final = 6  # so that the clocks are matched before the first frame
_FAST_PING_SECONDS: Final = 0.08
_PING_SECONDS: Final = 0.5
_CONNECT_SECONDS: Final = 10.0
_REPEATED: Final = 4  # snapshots per packet: what one packet loses, the next one brings


def now_ms() -> float:
    """The client's clock, in milliseconds."""
    return time.monotonic() * 1000.0


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """A frame, and when it was here (client ms). `jpeg` is None on the WebRTC path."""

    header: FrameHeader
    received: float
    jpeg: bytes | None
    picture: Picture | None


def session_url(url: str) -> str:
    """ws://HOST:PORT/session for http://HOST:PORT. Raises StartError for anything else."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise StartError(
            "this is no address of a server",
            expected="http://HOST:PORT or https://HOST:PORT",
            got=repr(url),
            remedy="copy the address from the server's ready line",
        )
    path = parts.path.rstrip("/").removesuffix("/session")
    return urlunsplit((scheme, parts.netloc, f"{path}/session", "", ""))


class Client:
    """One session on a server. Iterate over it for frames: the newest, older ones are dropped."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._newest: ShownFrame | None = None
        self._arrived = asyncio.Event()
        self._ended: StartError | None = None
        self._greeted: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self._recent: deque[Snapshot] = deque(maxlen=_REPEATED)
        self._video: VideoLink | None = None
        self._seq = 0
        self.clock = ClockOffset()
        self.state = "connecting"
        self.welcome: Welcome | None = None
        self.overtaken = 0
        """Frames that a newer one replaced before anyone took them."""

    # --- what a program does ---------------------------------------------------------------------

    async def play(
        self,
        keys: tuple[str, ...] = (),
        *,
        axes: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        buttons: int = 0,
        pointer: tuple[float, float] = (0.0, 0.0),
    ) -> Snapshot:
        """Send the controller's whole state, as held from now on; call it at least 4 times a
        second, because controls that went silent are let go."""
        snapshot = Snapshot(self._seq, now_ms(), axes, buttons, keys, pointer)
        self._seq += 1
        self._recent.appendleft(snapshot)
        message = encode(Input(tuple(self._recent)))
        if self._video is None or not self._video.send_input(message):
            await self._socket.send(message)
        return snapshot

    async def restart(self, theme: str | None = None, seed: int | None = None) -> None:
        """Begin anew, in another theme or with another seed if given."""
        await self._send(Start(theme, seed))

    def __aiter__(self) -> AsyncIterator[ShownFrame]:
        return self._frames()

    async def _frames(self) -> AsyncIterator[ShownFrame]:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._ended is not None:
                raise self._ended
            if self._newest is not None:
                frame, self._newest = self._newest, None
                yield frame

    # --- what the connection does ----------------------------------------------------------------

    async def greet(self, hello: Hello) -> Welcome:
        """Raises StartError when the server does not let this client in."""
        await self._send(hello)
        self.welcome = welcome = await self._greeted
        if hello.video == "webrtc":
            self._video = VideoLink(self._receive, self._shown)
            await self._send(Offer(await self._video.offer()))
        return welcome

    async def read(self) -> None:
        try:
            async for data in self._socket:
                if isinstance(data, bytes):
                    self._receive(data)
            self._end(StartError("the server closed the connection", remedy="see its log"))
        except websockets.ConnectionClosed as error:
            reason = error.rcvd.reason if error.rcvd else "the connection broke"
            self._end(StartError("the connection was lost", got=reason, remedy="connect again"))
        except ProtocolError as error:
            self._end(StartError("the server sent something unknown", got=str(error)))

    async def ping(self) -> None:
        for count in range(10**9):
            await self._send(Ping(now_ms()))
            await asyncio.sleep(_FAST_PING_SECONDS if count < _FAST_PINGS else _PING_SECONDS)

    async def close(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            await self._send(Bye())
        if self._video is not None:
            await self._video.close()

    async def _send(self, message: ClientMessage) -> None:
        await self._socket.send(encode(message))

    def _receive(self, data: bytes) -> None:
        received = now_ms()
        match decode_server(data):
            case Frame(header, jpeg) if jpeg is not None:
                self._offer(ShownFrame(header, received, jpeg, None))
            case Frame(header) if self._video is not None:
                self._video.announced(header)
            case Pong(sent, server_time):
                self.clock.pong(sent, received, server_time)
            case Welcome() as welcome if not self._greeted.done():
                self._greeted.set_result(welcome)
            case Status(state):
                self.state = state
            case Answer(sdp) if self._video is not None:
                self._video.answer(sdp)
            case Error() as error if error.fatal:
                self._end(_refusal(error))

    def _shown(self, header: FrameHeader, received: float, picture: Picture) -> None:
        self._offer(ShownFrame(header, received, None, picture))

    def _offer(self, frame: ShownFrame) -> None:
        self.overtaken += self._newest is not None
        self._newest = frame
        self._arrived.set()

    def _end(self, reason: StartError) -> None:
        if self._ended is None:
            self._ended = reason
        if not self._greeted.done():
            self._greeted.set_exception(self._ended)
        self._arrived.set()


def _refusal(error: Error) -> StartError:
    return StartError(
        f"{error.code}: {error.message}",
        expected=error.expected,
        got=error.got,
        remedy=error.remedy,
    )


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    theme: str | None = None,
    seed: int | None = None,
    video: Video = "jpeg",
    token: str | None = None,
    name: str = "python",
) -> AsyncIterator[Client]:
    """A session on the server at `url`, from the first welcome to the last goodbye.

    Raises:
        StartError: nobody answers there, or the server does not let this client in.
    """
    address = session_url(url)
    try:
        socket = await websockets.connect(
            address, max_size=None, open_timeout=_CONNECT_SECONDS, compression=None
        )
    except (OSError, TimeoutError, websockets.InvalidHandshake, websockets.InvalidURI) as error:
        raise StartError(
            "no server answers at this address",
            expected=f"a WebSocket at {address}",
            got=str(error) or type(error).__name__,
            remedy="start one with worldbridge serve, and copy the address from its ready line",
        ) from error
    client = Client(socket)
    reading = asyncio.create_task(client.read())
    pinging = asyncio.create_task(_quietly(client.ping()))
    try:
        async with socket:
            await client.greet(
                Hello(client=name, theme=theme, seed=seed, video=video, token=token)
            )
            yield client
            await client.close()
    finally:
        reading.cancel()
        pinging.cancel()


async def _quietly(pings: Coroutine[None, None, None]) -> None:
    """A connection that is gone is told by whoever reads it."""
    with contextlib.suppress(websockets.ConnectionClosed):
        await pings
