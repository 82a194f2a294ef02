"""A client: controls up, frames down, by WebSocket, WebRTC or ZeroMQ. It reconnects by itself.

    async with connect("http://127.0.0.1:8080") as client:
        client.steer(keys=("KeyW",))
        frame = await client.frame()
        pixels = frame.rgb()           # uint8 [height, width, 3]

    with connect("http://127.0.0.1:8080") as player:  # the same without an event loop
        frame = player.step(keys=("KeyW",))           # the first frame that answers it

A world starts from what the caller renders: `connect(url, prompt_frames=screenshot)`.
`connect("tcp://127.0.0.1:5555")` plays by ZeroMQ: frames come as uncompressed pixels.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

import numpy as np
import websockets
from numpy.typing import ArrayLike, NDArray

from worldbridge.bridge.media import LatestValue
from worldbridge.bridge.protocol import (
    STATES_PER_INPUT,
    BridgeError,
    Bye,
    ClientMessage,
    Codec,
    ControllerState,
    Credit,
    Error,
    Event,
    Frame,
    FrameHeader,
    FrameShown,
    HandOver,
    Hello,
    Input,
    Observe,
    Ping,
    Pong,
    Pose,
    RequestControl,
    Role,
    ServerMessage,
    Start,
    Status,
    Welcome,
    decode_client,
    encode,
    known_code,
)
from worldbridge.engine_plugins.python.faults import ConnectError, Interruption, final_fault
from worldbridge.engine_plugins.python.images import H264Decoder, decode
from worldbridge.engine_plugins.python.links import Address, Link, open_link
from worldbridge.engine_plugins.python.observations import observation_of
from worldbridge.engine_plugins.python.player import Player
from worldbridge.engine_plugins.python.prompt_frames import (
    Metres,
    PromptDepth,
    PromptFrames,
    as_files,
    depth_in_parts,
    in_parts,
)
from worldbridge.engine_plugins.python.timing import Arrival, ClockOffset
from worldbridge.errors import StructuredError

if TYPE_CHECKING:
    from worldbridge.engine_plugins.python.webrtc import MediaRelay

FAST_PINGS: Final = 8  # right after connecting, so that the clocks are matched early
FAST_PING_S: Final = 0.05
PING_S: Final = 0.5
SILENCE_S: Final = 4.0  # a server that answers no ping for this long is gone
AWAY_MS: Final = 50.0  # between two takes of a frame: the caller may have held the loop up
CATCH_UP_S: Final = 0.004  # to read what waits in the socket
CREDIT: Final = 2  # frames that may be on their way by ZeroMQ
UPLOAD_S: Final = 60.0  # the same while prompt frames are on their way, in front of the pings
MAX_QUEUED: Final = 64  # messages; beyond them controls are dropped
FIRST_RETRY_S: Final = 0.2
LONGEST_RETRY_S: Final = 5.0

# After these errors another attempt can succeed.
_PASSING: Final = frozenset({"session_expired", "worker_lost", "client_too_slow", "internal"})


def now_ms() -> float:
    """Return the client's clock in milliseconds."""
    return time.perf_counter() * 1000.0


def controller_axes(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Return four axes as the protocol has them. Raises ValueError for others than four numbers.

    Rounding beyond -1 or 1 is cut off; NumPy's numbers are taken as well.
    """
    axes = [float(value) for value in values]
    if len(axes) != 4 or any(axis != axis for axis in axes):
        raise ValueError(f"expected axes of four numbers from -1 to 1, got {values!r}")
    first, second, third, fourth = (max(-1.0, min(1.0, axis)) for axis in axes)
    return first, second, third, fourth


@dataclass(frozen=True, slots=True)
class ReceivedFrame:
    """A frame as it arrived: `image` is encoded as `codec` says, `rgb` decodes it."""

    header: FrameHeader
    image: bytes
    received_ms: float
    codec: Codec = "jpeg"
    steps: bytes | None = None
    step_m: float | None = None

    @overload
    def rgb(self) -> NDArray[np.uint8]: ...

    @overload
    def rgb(self, xp: Any) -> Any: ...

    def rgb(self, xp: Any = np) -> Any:
        """Return the pixels, uint8 [height, width, 3]; with `xp=cupy` as an array on the GPU."""
        return decode(self.image, self.codec, self.header.width, self.header.height, xp)

    @overload
    def depth(self) -> NDArray[np.float32] | None: ...

    @overload
    def depth(self, xp: Any) -> Any: ...

    def depth(self, xp: Any = np) -> Any:
        """Return the metres along the view's axis, float32 [height, width], inf in the sky.

        None unless `connect(depth=True)` and the world has depth. It begins a few frames after
        the connection. With `xp=cupy` the array is on the GPU.
        """
        if self.steps is None or self.step_m is None:
            return None
        steps = np.frombuffer(self.steps, "<u2").reshape(self.header.height, self.header.width)
        metres = xp.asarray(steps).astype(xp.float32) * xp.float32(self.step_m)
        return xp.where(metres == 0, xp.float32(xp.inf), metres)


class Client:
    """Use `connect`. All methods belong to the event loop that the client was made on."""

    def __init__(
        self,
        address: Address,
        hello: Hello,
        start: Start,
        files: tuple[bytes, ...] = (),
        depth: PromptDepth | None = None,
    ) -> None:
        self.welcome: Welcome | None = None
        self.status = Status("loading", "connecting")
        self.clock = ClockOffset()
        self.reconnects = 0
        self.refusal: BridgeError | None = None  # why the newest `start` was refused
        self.interruptions: deque[Interruption] = deque(maxlen=64)  # what was lost, oldest first
        self.events: deque[Event] = deque(maxlen=64)  # what the server reported, oldest first
        self._address = address
        self._hello = hello
        self._start = start  # what a new session begins with
        self._files, self._depth = files, depth
        self._playing = False  # a start was done
        self._frames: LatestValue[ReceivedFrame | Exception] = LatestValue()
        self._recent: deque[ControllerState] = deque(maxlen=STATES_PER_INPUT)
        self._sequence = 0
        self._link: Link | None = None
        self._writes: asyncio.Queue[bytes] = asyncio.Queue()
        self.error: StructuredError | None = None  # why the client gave up
        self._newest: FrameHeader | None = None  # of the frame that came last
        self._lost: tuple[str, float, int] | None = None  # reason, when, inputs unanswered
        self._same_world = True
        self._heard_ms = self._took_ms = now_ms()
        self._uploading = False

    # --- playing ------------------------------------------------------------------------------

    def steer(
        self,
        *,
        axes: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        buttons: int = 0,
        keys: Sequence[str] = (),
        pointer: tuple[float, float] = (0.0, 0.0),
        pose: Pose | None = None,
    ) -> ControllerState:
        """Send what the controller holds now; `pointer` counts all pixels moved so far.

        Send at least every 200 ms: a controller that is silent for 250 ms is released.
        What the server would refuse, and end the session for, is not sent: raises ValueError for
        axes that are not four numbers, otherwise BridgeError with the path of the field at fault.
        """
        state = ControllerState(
            self._sequence,
            now_ms(),
            controller_axes(axes),
            int(buttons),
            (keys,) if isinstance(keys, str) else tuple(keys),
            (float(pointer[0]), float(pointer[1])),
            pose,
        )
        decode_client(encode(Input((state,))))
        self._sequence += 1
        self._recent.appendleft(state)
        if self._writes.qsize() < MAX_QUEUED:  # while the network is behind, old controls are void
            self._send(Input(tuple(self._recent)))
        return state

    def observe(self, rgb: ArrayLike, depth: ArrayLike, pose: Pose, fresh: bool = False) -> None:
        """Give the world a frame that an engine rendered, once or with every frame.

        rgb uint8 [height, width, 3] and depth in metres [height, width], 0 or infinity where
        nothing was rendered: there the world continues the scene. `pose` is in the coordinates of
        `steer(pose=...)`. `fresh` forgets first what the world has drawn so far. What the server
        refuses is in `refusal`. Raises ValueError for arrays of other shapes.
        """
        self._send(Observe(observation_of(rgb, depth, pose, fresh)))

    def start(
        self,
        theme: str | None = None,
        seed: int | None = None,
        prompt_frames: PromptFrames | None = None,
        prompt_depth: Metres | None = None,
    ) -> None:
        """Restart, with another theme, seed or prompt frames (see `as_files`) if given.

        `prompt_depth` is that of the newest prompt frame (see `PromptDepth.of`). An empty list of
        prompt frames goes back to the theme. What the server refuses is in
        `refusal` afterwards, and the world continues as it was.
        """
        files = () if prompt_frames is None else as_files(prompt_frames)
        message = Start(theme, seed, None, None if prompt_frames is None else len(files))
        depth = None if prompt_depth is None or not files else PromptDepth.of(prompt_depth)
        self._send_start(message, files, depth)

    def _send_start(
        self, message: Start, files: tuple[bytes, ...], depth: PromptDepth | None
    ) -> None:
        self.refusal = None
        self._uploading = bool(files)
        for part in in_parts(files):
            self._send(part)
        if depth is not None:
            for depth_part in depth_in_parts(depth):
                self._send(depth_part)
        self._send(message)

    async def frame(self) -> ReceivedFrame:
        """Return the newest frame, waiting for one.

        Raises BridgeError if the server refused us, and ConnectError if it is no server of ours.
        """
        if self.error is not None:
            raise self.error
        if now_ms() - self._took_ms > AWAY_MS:  # what came meanwhile may be unread
            await asyncio.sleep(CATCH_UP_S)
        arrived = await self._frames.get()
        self._took_ms = now_ms()
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    @property
    def plays(self) -> bool:
        """Whether the client has the controls; a hand-over changes it."""
        return self.welcome is not None and self.welcome.role != "spectator"

    def request_control(self) -> None:
        """Ask, as a spectator, for the controls of the session."""
        self._send(RequestControl())

    def hand_over(self) -> None:
        """Give the controls to the spectator who asked first, and watch from now on.

        The event `control_requested` says that one asks; without one, `refusal` is set.
        """
        self._send(HandOver())

    @property
    def frames_skipped(self) -> int:
        """How many frames were replaced by newer ones before they were taken."""
        return self._frames.dropped

    def report(self, frame: ReceivedFrame, shown_ms: float) -> Arrival | None:
        """Report when a frame was shown. Returns None while the clocks are not matched."""
        offset = self.clock.offset_ms
        self._send(FrameShown(frame.header.frame, frame.received_ms, shown_ms, offset))
        if offset is None:
            return None
        return Arrival(frame.header, frame.received_ms, shown_ms, offset)

    def _send(self, message: ClientMessage) -> None:
        if self._link is not None:
            self._writes.put_nowait(encode(message))

    # --- the connection -----------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and reconnect whenever the connection is lost. Ends with a fatal error."""
        wait = FIRST_RETRY_S
        while True:
            reason = "the connection was lost"
            try:
                await self._converse()
            except BridgeError as error:
                if error.path == "welcome":  # a field of its own would be named
                    return self._give_up(_other_version(error))
                if error.code not in _PASSING:
                    return self._give_up(error)
                if error.code == "session_expired":
                    self._hello = self._hello.replace(resume=None)
                reason = error.message
            except ConnectError as error:
                return self._give_up(error)
            except (OSError, EOFError, TimeoutError, websockets.WebSocketException) as error:
                final = final_fault(self._address.url, error)
                if final is not None:
                    return self._give_up(final)
                reason = str(error) or reason
            wait = FIRST_RETRY_S if self.status.state == "playing" else wait
            self._interrupt(reason)
            self.status = Status("reconnecting", reason)
            self.reconnects += 1
            await asyncio.sleep(wait)
            wait = min(LONGEST_RETRY_S, wait * 2)

    def _interrupt(self, reason: str) -> None:
        """Remember a loss; the next frame completes its report."""
        if self._lost is None and self._newest is not None:
            unanswered = self._sequence - 1 - self._newest.input_sequence
            self._lost = (reason, now_ms(), unanswered)

    def _resumed(self, header: FrameHeader, received: float) -> None:
        """Report the loss that this frame ends, if there was one."""
        if self._lost is not None and self._newest is not None:
            reason, lost, unanswered = self._lost
            step = header.frame - self._newest.frame if self._same_world else 1
            report = Interruption(
                reason,
                (received - lost) / 1000,
                self._same_world,
                max(0, step - 1),
                max(0, 1 - step),
                unanswered,
            )
            self.interruptions.append(report)
        self._lost, self._same_world, self._newest = None, True, header

    def _give_up(self, error: StructuredError) -> None:
        self.error = error
        self._frames.put(error)

    async def _converse(self) -> None:
        """Hold one connection from hello to its end, which always is an exception."""
        async with open_link(self._address) as link:
            await link.send(encode(self._hello))
            self._writes, self._uploading = asyncio.Queue(), False
            self._link, self._heard_ms = link, now_ms()
            self._decoder = H264Decoder()
            helpers = [asyncio.create_task(w) for w in (self._write(link), self._ping(link))]
            try:
                while True:
                    self._handle(await link.receive())
            finally:
                self._link = None
                for task in helpers:
                    task.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    @property
    def _needs_credit(self) -> bool:
        video = "h264" in self._hello.codecs and not self._address.webrtc
        return self._address.is_zeromq or video

    async def _write(self, link: Link) -> None:
        while True:
            await link.send(await self._writes.get())

    async def _ping(self, link: Link) -> None:
        count = 0
        while now_ms() - self._heard_ms < 1000 * (UPLOAD_S if self._uploading else SILENCE_S):
            self._send(Ping(now_ms()))
            count += 1
            await asyncio.sleep(FAST_PING_S if count < FAST_PINGS else PING_S)
        link.abort()

    def _handle(self, message: ServerMessage) -> None:
        received = self._heard_ms = now_ms()
        match message:
            case Frame(header, image, codec, steps, step_m) if image is not None:
                self._resumed(header, received)
                if codec == "h264":
                    decoded = self._decoder.decode(image, header.width, header.height)
                    image, codec = decoded or b"", "i420"
                if image:
                    self._frames.put(
                        ReceivedFrame(header, image, received, codec or "jpeg", steps, step_m)
                    )
                if self._needs_credit:
                    self._send(Credit(1))
            case Pong(sent, server):
                self.clock.add(sent, received, server)
            case Status() as status:
                self.status, self._uploading = status, False
                self._playing = self._playing or status.state == "playing"
            case Event() as event:
                self.events.append(event)
                if event.name == "world_lost":
                    self._interrupt(event.detail or "the worker was lost")
                elif event.name == "world_reset":
                    self._same_world = False
            case Welcome() as welcome:
                before, self.welcome = self.welcome, welcome
                if before is not None and before.session != welcome.session:
                    self._same_world = False
                self._hello = self._hello.replace(resume=welcome.resume or None, role=welcome.role)
                if self._needs_credit:
                    self._send(Credit(CREDIT))
                if welcome.role != "spectator" and not welcome.started:
                    self._playing = False
                    self._send_start(self._start, self._files, self._depth)
            case Error() as error:
                self._refused(error)

    def _refused(self, error: Error) -> None:
        """Keep the refusal of a restart; raise any other."""
        refusal = BridgeError(
            known_code(error.code),
            error.message,
            error.expected,
            error.got,
            error.remedy,
            error.path,
        )
        if error.fatal or not self._playing:
            raise refusal
        self.refusal, self._uploading = refusal, False

    async def close(self) -> None:
        """Leave for good: the seat is free for the next player at once."""
        if self._link is not None:
            with contextlib.suppress(websockets.ConnectionClosed, OSError):
                async with asyncio.timeout(1):
                    await self._link.send(encode(Bye()))


def _other_version(error: BridgeError) -> BridgeError:
    """Return the error for a welcome of another protocol version."""
    return BridgeError(
        "version_mismatch",
        "client and server speak different versions of the protocol",
        error.expected,
        "another version",
        "Update the older of the two.",
        "welcome.version",
    )


class Connection:
    """What `connect` returns: enter it with `async with` for a Client, or with `with` for a Player.

    Leaving the block frees the seat.
    """

    def __init__(self, client: Callable[[], Client]) -> None:
        self._client = client
        self._player: Player | None = None
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Client:
        opening = contextlib.asynccontextmanager(self._open)()
        return await self._stack.enter_async_context(opening)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def __enter__(self) -> Player:
        self._player = Player(self._open)
        return self._player

    def __exit__(self, *_: object) -> None:
        if self._player is not None:
            self._player.close()

    async def _open(self) -> AsyncIterator[Client]:
        client = self._client()
        task = asyncio.create_task(client.run())
        try:
            yield client
        finally:
            await client.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def connect(
    url: str,
    *,
    theme: str | None = None,
    seed: int | None = None,
    world: str | None = None,
    watch: bool = False,
    token: str | None = None,
    resume: str | None = None,
    wait: bool = False,
    name: str = "python",
    prompt_frames: PromptFrames | None = None,
    prompt_depth: Metres | None = None,
    codec: Codec | None = None,
    depth: bool = False,
    transport: Literal["webrtc"] | None = None,
    media_relay: MediaRelay | None = None,
    key: str | Path | None = None,
    server_key: str | Path | None = None,
) -> Connection:
    """Play at `url`, or only `watch`; leaving the block frees the seat.

    `prompt_frames` are what the world starts from instead of its theme: a screenshot, or up to
    nine frames, oldest first (see `as_files`). `prompt_depth` is the depth of the newest in metres
    along the view's axis, float [height, width] (see `PromptDepth.of`); without it a world that
    needs depth estimates it.
    With `wait` a full server puts the player into its queue; `status` has the place in it.
    A lost connection is taken up again with growing pauses, in the same world if it still exists;
    `interruptions` says what was lost. A refusal of the server raises BridgeError from `frame`.
    With `depth` frames carry it, if the world has it and `codec` is no video.
    `codec` at a tcp:// address (ZeroMQ): `rgb` (the default), `bgra`, `i420`, `jpeg` or `h264`; by
    WebSocket: `jpeg` (the default) or `h264`. With the `transport` "webrtc" video comes as H.264 by
    WebRTC; `codec` is then left out. `media_relay` is for measurements: it returns the address by
    which to reach the server's UDP address (host, port). A ZeroMQ server with keys needs `key`, the
    file of the client's pair, and `server_key`, the server's public key or the file of it.
    Raises ValueError for another address or codec, and ConfigError for keys that cannot be read.
    """
    files = () if prompt_frames is None else as_files(prompt_frames)
    start = Start(theme, seed, None, None if prompt_frames is None else len(files))
    depth_file = None if prompt_depth is None or not files else PromptDepth.of(prompt_depth)
    role: Role = "spectator" if watch else "player"
    hello = Hello(name, role, token=token, resume=resume, world=world, wait=wait, depth=depth)
    address = Address.of(url, key, server_key, transport == "webrtc")
    if transport == "webrtc":
        if codec is not None or depth:
            raise ValueError("expected neither `codec` nor `depth` with the transport webrtc")
        hello = hello.replace(transports=("webrtc",), codecs=("h264",))
        address = replace(address, media_relay=media_relay)
    elif address.is_zeromq:
        hello = hello.replace(transports=("zeromq",), codecs=(codec or "rgb",))
    elif codec in (None, "jpeg", "h264"):
        hello = hello.replace(codecs=(codec or "jpeg",))
    else:
        raise ValueError(f"expected the codec jpeg or h264 by WebSocket, got {codec!r}")
    return Connection(lambda: Client(address, hello, start, files, depth_file))
