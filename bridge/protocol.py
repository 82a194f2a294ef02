"""Every message between client, gateway and worker, as a dataclass; bytes to messages and back.

Pure: no sockets, no clocks. `docs/protocol.md` describes the same for authors of clients.

Times named `t_*` and `server_time` are milliseconds of the server's monotonic clock; `time`,
`input_time`, `received` and `shown` are milliseconds of the client's own clock.
Coordinates: right-handed, +Y up, -Z forward, metres, quaternions (x, y, z, w).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Self, TypeVar

import msgpack

from worldbridge.bridge.errors import (
    BAD_PICTURE,
    ERROR_CODES,
    INVALID_INPUT,
    MESSAGE_TOO_LARGE,
    UNKNOWN_TYPE,
    VERSION_MISMATCH,
    BridgeError,
    ProtocolError,
)
from worldbridge.bridge.fields import Buffer, Fields, cut_out, show, unpack_binaries, unpack_map
from worldbridge.settings import MAX_PROMPT_FRAMES

__all__ = [
    "PROTOCOL_VERSION",
    "BridgeError",
    "ProtocolError",
    "Buffer",
    "Role",
    "Video",
    "State",
    "WorldKind",
    "Pose",
    "ControllerState",
    "WorldSpec",
    "Seats",
    "FrameHeader",
    "PromptFrames",
    "Hello",
    "Start",
    "Input",
    "Ping",
    "Offer",
    "FrameShown",
    "StatsRequest",
    "Bye",
    "ClientMessage",
    "Welcome",
    "Status",
    "Frame",
    "Error",
    "Pong",
    "Answer",
    "Stats",
    "ServerMessage",
    "OpenSession",
    "SessionInput",
    "RestartSession",
    "CloseSession",
    "FrameAck",
    "ShiftPhase",
    "WorkerPing",
    "Shutdown",
    "GatewayMessage",
    "Loading",
    "Ready",
    "Opened",
    "Failed",
    "RawFrame",
    "SessionSnapshot",
    "WorkerPong",
    "WorkerStats",
    "WorkerMessage",
    "Message",
    "encode",
    "encode_parts",
    "decode_client",
    "decode_server",
    "decode_gateway",
    "decode_worker",
    "i420_bytes",
]

PROTOCOL_VERSION: Final = 1

MAX_CLIENT_MESSAGE: Final = 64 * 1024
MAX_PICTURE_MESSAGE: Final = 8 * 1024 * 1024  # a hello or start with pictures
MAX_SERVER_MESSAGE: Final = 8 * 1024 * 1024
MAX_SNAPSHOT: Final = 16 * 1024 * 1024
MAX_PAYLOAD: Final = 64 * 1024 * 1024

SNAPSHOTS_PER_INPUT: Final = 4
AXES: Final = 4
BUTTONS: Final = 17
MAX_KEYS: Final = 16
MAX_KEY_LENGTH: Final = 24
MAX_NAME: Final = 64
MAX_TOKEN: Final = 256
MAX_TEXT: Final = 2000
MAX_SDP: Final = 60_000
MAX_METRES: Final = 1e6
MAX_PIXELS: Final = 1e12
MAX_MS: Final = 1e15
MAX_SEED: Final = 2**53 - 1
MAX_SIDE: Final = 8192

Role = Literal["player", "spectator"]
Video = Literal["webrtc", "jpeg"]
State = Literal["loading", "playing", "reconnecting"]
WorldKind = Literal["ar", "procedural"]
ROLES: Final[tuple[Role, ...]] = ("player", "spectator")
VIDEOS: Final[tuple[Video, ...]] = ("webrtc", "jpeg")
STATES: Final[tuple[State, ...]] = ("loading", "playing", "reconnecting")
KINDS: Final[tuple[WorldKind, ...]] = ("ar", "procedural")

Vec3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


def i420_bytes(width: int, height: int) -> int:
    """Size of one planar YUV 4:2:0 picture: Y [height, width], then U and V at half size."""
    return width * height * 3 // 2


# --- parts of messages ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pose:
    """A camera: position in metres, rotation (x, y, z, w), vertical field of view in degrees."""

    position: Vec3 = (0.0, 0.0, 0.0)
    rotation: Quaternion = (0.0, 0.0, 0.0, 1.0)
    fov_y: float = 50.0

    @classmethod
    def read(cls, f: Fields) -> Self:
        x, y, z = f.numbers("position", 3, -MAX_METRES, MAX_METRES)
        a, b, c, d = f.numbers("rotation", 4, -1.01, 1.01)
        if not 0.98 <= a * a + b * b + c * c + d * d <= 1.02:
            f.refuse("rotation", "a unit quaternion (x, y, z, w)", [a, b, c, d])
        return cls((x, y, z), (a, b, c, d), f.number("fov_y", 1.0, 179.0))


@dataclass(frozen=True, slots=True)
class ControllerState:
    """The full state of one controller at one moment; absent fields mean "nothing held".

    `axes` is [leftX, leftY, rightX, rightY], `buttons` has bit i for W3C button i, `keys` holds
    `KeyboardEvent.code` strings, `pointer` counts pixels moved since the session began.
    """

    seq: int
    time: float
    axes: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    buttons: int = 0
    keys: tuple[str, ...] = ()
    pointer: tuple[float, float] = (0.0, 0.0)
    pose: Pose | None = None

    @classmethod
    def read(cls, f: Fields) -> Self:
        a, b, c, d = f.numbers("axes", AXES, -1.0, 1.0) if f.has("axes") else (0.0,) * AXES
        x, y = f.numbers("pointer", 2, -MAX_PIXELS, MAX_PIXELS) if f.has("pointer") else (0.0, 0.0)
        return cls(
            seq=f.integer("seq"),
            time=f.number("time", -MAX_MS, MAX_MS),
            axes=(a, b, c, d),
            buttons=f.integer("buttons", 0, 2**BUTTONS - 1) if f.has("buttons") else 0,
            keys=f.texts("keys", MAX_KEYS, MAX_KEY_LENGTH) if f.has("keys") else (),
            pointer=(x, y),
            pose=f.maybe("pose", lambda: Pose.read(f.child("pose"))),
        )


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """What a world looks like from outside: picture size in pixels, rate, themes, controls.

    `takes_pictures` is how many pictures it can begin with; 0: none.
    """

    name: str
    title: str
    width: int
    height: int
    fps: float
    frames_per_latent: int
    themes: tuple[str, ...]
    action_schema: tuple[str, ...]
    context_frames: int
    kind: WorldKind
    takes_pictures: int = 0
    conditionings: tuple[str, ...] = ()  # what it is told besides: "actions", "camera", "text"

    @classmethod
    def read(cls, f: Fields) -> Self:
        spec = cls(
            name=f.text("name", MAX_NAME),
            title=f.text("title", MAX_TEXT),
            width=f.integer("width", 2, MAX_SIDE),
            height=f.integer("height", 2, MAX_SIDE),
            fps=f.number("fps", 0.1, 1000.0),
            frames_per_latent=f.integer("frames_per_latent", 1, 64),
            themes=f.texts("themes", 256, MAX_NAME),
            action_schema=f.texts("action_schema", 64, MAX_NAME),
            context_frames=f.integer("context_frames", 0, 1_000_000),
            kind=f.choice("kind", KINDS),
            takes_pictures=f.maybe(
                "takes_pictures", lambda: f.integer("takes_pictures", 0, MAX_PROMPT_FRAMES)
            )
            or 0,
            conditionings=f.texts("conditionings", 16, MAX_NAME) if f.has("conditionings") else (),
        )
        if spec.width % 2 or spec.height % 2:  # I420 halves both sides for its colour planes
            f.refuse("width", "an even width and height", [spec.width, spec.height])
        return spec


@dataclass(frozen=True, slots=True)
class Seats:
    used: int
    total: int

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.integer("used"), f.integer("total"))


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """What is known about one frame: the input it answers, the camera, the time of each leg.

    The worker fills everything up to `t_pixels`; the gateway adds `t_gateway`, `t_encoded`,
    `t_sent`, `rtp` and the drops of this client. `input_seq` is -1 when no input was applied.
    """

    frame: int
    input_seq: int
    input_time: float
    t_input: float
    t_latch: float
    t_tokens: float
    t_pixels: float
    pose: Pose
    t_gateway: float = 0.0
    t_encoded: float = 0.0
    t_sent: float = 0.0
    rtp: int | None = None
    dropped: int = 0
    batch: int = 1

    @classmethod
    def read(cls, f: Fields) -> Self:
        def ms(key: str) -> float:
            return f.number(key, -MAX_MS, MAX_MS)

        return cls(
            frame=f.integer("frame"),
            input_seq=f.integer("input_seq", -1),
            input_time=ms("input_time"),
            t_input=ms("t_input"),
            t_latch=ms("t_latch"),
            t_tokens=ms("t_tokens"),
            t_pixels=ms("t_pixels"),
            pose=Pose.read(f.child("pose")),
            t_gateway=ms("t_gateway"),
            t_encoded=ms("t_encoded"),
            t_sent=ms("t_sent"),
            rtp=f.maybe("rtp", lambda: f.integer("rtp", 0, 2**32 - 1)),
            dropped=f.integer("dropped"),
            batch=f.integer("batch", 1),
        )


@dataclass(frozen=True, slots=True)
class PromptFrames:
    """Decoded pictures, oldest first: `rgb` is uint8 [count, height, width, 3]."""

    count: int
    height: int
    width: int
    rgb: bytes

    @classmethod
    def read(cls, f: Fields) -> Self:
        pictures = cls(
            count=f.integer("count", 1, MAX_PROMPT_FRAMES),
            height=f.integer("height", 1, MAX_SIDE),
            width=f.integer("width", 1, MAX_SIDE),
            rgb=f.binary("rgb", MAX_PAYLOAD),
        )
        size = pictures.count * pictures.height * pictures.width * 3
        if len(pictures.rgb) != size:
            f.refuse("rgb", f"{size} bytes", f"{len(pictures.rgb)} bytes")
        return pictures


# --- client -> gateway ------------------------------------------------------------------------


def _read_pictures(f: Fields) -> tuple[bytes, ...] | None:
    strict = Fields(f.raw(), code=BAD_PICTURE)
    return strict.maybe("pictures", lambda: strict.binaries("pictures", MAX_PROMPT_FRAMES))


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a client; with `resume` it takes an earlier session over.

    `pictures` are files (PNG, JPEG, WebP) that the world begins with, oldest first. None of them,
    an empty tuple, refuses those that the server may have for players who ask for none.
    """

    TYPE: ClassVar[str] = "hello"
    client: str = ""
    role: Role = "player"
    world: str | None = None
    theme: str | None = None
    seed: int | None = None
    video: Video = "jpeg"
    resume: str | None = None
    token: str | None = None
    version: int = PROTOCOL_VERSION
    pictures: tuple[bytes, ...] | None = None

    @classmethod
    def read(cls, f: Fields) -> Self:
        # first of all: the other fields may mean something else in another version
        version = f.integer("version")
        if version != PROTOCOL_VERSION:
            raise ProtocolError(
                VERSION_MISMATCH,
                "client and server speak different versions of the protocol",
                f"version {PROTOCOL_VERSION}",
                f"version {version}",
                "Update the older of the two.",
            )
        return cls(
            client=f.text("client", MAX_NAME),
            role=f.choice("role", ROLES),
            world=f.maybe("world", lambda: f.text("world", MAX_NAME)),
            theme=f.maybe("theme", lambda: f.text("theme", MAX_NAME)),
            seed=f.maybe("seed", lambda: f.integer("seed", 0, MAX_SEED)),
            video=f.choice("video", VIDEOS),
            resume=f.maybe("resume", lambda: f.text("resume", MAX_TOKEN)),
            token=f.maybe("token", lambda: f.text("token", MAX_TOKEN)),
            pictures=_read_pictures(f),
        )


@dataclass(frozen=True, slots=True)
class Start:
    """Begin anew in the same session, with another theme, seed or pictures if given.

    Pictures stay like theme and seed; an empty tuple goes back to the theme's own beginning.
    """

    TYPE: ClassVar[str] = "start"
    theme: str | None = None
    seed: int | None = None
    pictures: tuple[bytes, ...] | None = None

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(
            theme=f.maybe("theme", lambda: f.text("theme", MAX_NAME)),
            seed=f.maybe("seed", lambda: f.integer("seed", 0, MAX_SEED)),
            pictures=_read_pictures(f),
        )


@dataclass(frozen=True, slots=True)
class Input:
    """The newest snapshots, newest first: repeating the last few makes lost packets harmless."""

    TYPE: ClassVar[str] = "input"
    snapshots: tuple[ControllerState, ...]

    @classmethod
    def read(cls, f: Fields) -> Self:
        strict = Fields(f.raw(), code=INVALID_INPUT)
        return cls(
            tuple(
                ControllerState.read(s)
                for s in strict.children("snapshots", 1, SNAPSHOTS_PER_INPUT)
            )
        )


@dataclass(frozen=True, slots=True)
class Ping:
    TYPE: ClassVar[str] = "ping"
    time: float

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.number("time", -MAX_MS, MAX_MS))


@dataclass(frozen=True, slots=True)
class Offer:
    TYPE: ClassVar[str] = "offer"
    sdp: str

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.text("sdp", MAX_SDP))


@dataclass(frozen=True, slots=True)
class FrameShown:
    """A frame reached the screen: client-clock times, and `offset` = client - server clock.

    `refresh` is the period of the client's display in ms.
    """

    TYPE: ClassVar[str] = "shown"
    frame: int
    received: float
    shown: float
    offset: float | None = None
    refresh: float | None = None

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(
            frame=f.integer("frame"),
            received=f.number("received", -MAX_MS, MAX_MS),
            shown=f.number("shown", -MAX_MS, MAX_MS),
            offset=f.maybe("offset", lambda: f.number("offset", -MAX_MS, MAX_MS)),
            refresh=f.maybe("refresh", lambda: f.number("refresh", 1.0, 1000.0)),
        )


@dataclass(frozen=True, slots=True)
class StatsRequest:
    TYPE: ClassVar[str] = "stats"

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls()


@dataclass(frozen=True, slots=True)
class Bye:
    """Leave for good: the seat is free at once and the session cannot be resumed."""

    TYPE: ClassVar[str] = "bye"

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls()


# --- gateway -> client ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Welcome:
    TYPE: ClassVar[str] = "welcome"
    server: str
    session: str
    resume: str
    role: Role
    spec: WorldSpec
    seats: Seats
    version: int = PROTOCOL_VERSION

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(
            server=f.text("server", MAX_NAME),
            session=f.text("session", MAX_NAME),
            resume=f.text("resume", MAX_TOKEN),
            role=f.choice("role", ROLES),
            spec=WorldSpec.read(f.child("spec")),
            seats=Seats.read(f.child("seats")),
            version=f.integer("version", PROTOCOL_VERSION, PROTOCOL_VERSION),
        )


@dataclass(frozen=True, slots=True)
class Status:
    TYPE: ClassVar[str] = "status"
    state: State
    detail: str = ""
    progress: float | None = None

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(
            state=f.choice("state", STATES),
            detail=f.text("detail", MAX_TEXT),
            progress=f.maybe("progress", lambda: f.number("progress", 0.0, 1.0)),
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame for a client; `jpeg` is None when the picture travels as WebRTC video."""

    TYPE: ClassVar[str] = "frame"
    header: FrameHeader
    jpeg: bytes | None = None

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(
            header=FrameHeader.read(f.child("header")),
            jpeg=f.maybe("jpeg", lambda: f.binary("jpeg", MAX_SERVER_MESSAGE)),
        )


@dataclass(frozen=True, slots=True)
class Error:
    TYPE: ClassVar[str] = "error"
    code: str
    message: str
    expected: str = ""
    got: str = ""
    remedy: str = ""
    fatal: bool = True

    @classmethod
    def read(cls, f: Fields) -> Self:
        # a newer server may know more codes; a client must still be able to show them
        return cls(
            code=f.text("code", MAX_NAME),
            message=f.text("message", MAX_TEXT),
            expected=f.text("expected", MAX_TEXT),
            got=f.text("got", MAX_TEXT),
            remedy=f.text("remedy", MAX_TEXT),
            fatal=f.flag("fatal"),
        )

    @classmethod
    def of(cls, error: BridgeError, fatal: bool = True) -> Self:
        return cls(
            code=error.code,
            message=error.message[:MAX_TEXT],
            expected=error.expected[:MAX_TEXT],
            got=error.got[:MAX_TEXT],
            remedy=error.remedy[:MAX_TEXT],
            fatal=fatal,
        )


@dataclass(frozen=True, slots=True)
class Pong:
    TYPE: ClassVar[str] = "pong"
    time: float
    server_time: float

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.number("time", -MAX_MS, MAX_MS), f.number("server_time", -MAX_MS, MAX_MS))


@dataclass(frozen=True, slots=True)
class Answer:
    TYPE: ClassVar[str] = "answer"
    sdp: str

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.text("sdp", MAX_SDP))


@dataclass(frozen=True, slots=True)
class Stats:
    """Free-form numbers and texts; on the wire they stand beside `type`, not below a key."""

    TYPE: ClassVar[str] = "stats"
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls({key: value for key, value in f.raw().items() if key != "type"})


# --- gateway -> worker ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Start stepping a session: from `snapshot` if given, otherwise from theme, seed, pictures."""

    TYPE: ClassVar[str] = "open"
    session: str
    theme: str | None = None
    seed: int | None = None
    snapshot: bytes | None = None
    pictures: PromptFrames | None = None

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(
            session=f.text("session", MAX_NAME),
            theme=f.maybe("theme", lambda: f.text("theme", MAX_NAME)),
            seed=f.maybe("seed", lambda: f.integer("seed", 0, MAX_SEED)),
            snapshot=f.maybe("snapshot", lambda: f.binary("snapshot", MAX_SNAPSHOT)),
            pictures=f.maybe("pictures", lambda: PromptFrames.read(f.child("pictures"))),
        )


@dataclass(frozen=True, slots=True)
class SessionInput:
    """The newest controller state of a session; `t_input` is when the gateway received it."""

    TYPE: ClassVar[str] = "input"
    session: str
    snapshot: ControllerState
    t_input: float

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(
            session=f.text("session", MAX_NAME),
            snapshot=ControllerState.read(f.child("snapshot")),
            t_input=f.number("t_input", -MAX_MS, MAX_MS),
        )


@dataclass(frozen=True, slots=True)
class RestartSession:
    """Begin anew. Theme and seed stay if they are absent; without pictures there are none."""

    TYPE: ClassVar[str] = "start"
    session: str
    theme: str | None = None
    seed: int | None = None
    pictures: PromptFrames | None = None

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(
            session=f.text("session", MAX_NAME),
            theme=f.maybe("theme", lambda: f.text("theme", MAX_NAME)),
            seed=f.maybe("seed", lambda: f.integer("seed", 0, MAX_SEED)),
            pictures=f.maybe("pictures", lambda: PromptFrames.read(f.child("pictures"))),
        )


@dataclass(frozen=True, slots=True)
class CloseSession:
    TYPE: ClassVar[str] = "close"
    session: str

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.text("session", MAX_NAME))


@dataclass(frozen=True, slots=True)
class FrameAck:
    """The gateway took this frame: the worker may send another one of the session."""

    TYPE: ClassVar[str] = "ack"
    session: str
    frame: int

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.text("session", MAX_NAME), f.integer("frame"))


@dataclass(frozen=True, slots=True)
class ShiftPhase:
    """The frames of this session should come `ms` later from now on, or earlier if negative."""

    TYPE: ClassVar[str] = "shift"
    session: str
    ms: float

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.text("session", MAX_NAME), f.number("ms", -1000.0, 1000.0))


@dataclass(frozen=True, slots=True)
class WorkerPing:
    TYPE: ClassVar[str] = "ping"
    t: float

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.number("t", -MAX_MS, MAX_MS))


@dataclass(frozen=True, slots=True)
class Shutdown:
    TYPE: ClassVar[str] = "shutdown"

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls()


# --- worker -> gateway ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loading:
    TYPE: ClassVar[str] = "loading"
    stage: str
    progress: float

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.text("stage", MAX_TEXT), f.number("progress", 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Ready:
    TYPE: ClassVar[str] = "ready"
    spec: WorldSpec
    seats: int
    mode: str = ""  # how tokens are decoded; empty where there are none

    @classmethod
    def read(cls, f: Fields) -> Self:
        mode = f.text("mode", MAX_NAME) if f.has("mode") else ""
        return cls(WorldSpec.read(f.child("spec")), f.integer("seats", 1, 4096), mode)


@dataclass(frozen=True, slots=True)
class Opened:
    TYPE: ClassVar[str] = "opened"
    session: str

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.text("session", MAX_NAME))


@dataclass(frozen=True, slots=True)
class Failed:
    """A session could not be opened or broke; `code` is one of the protocol's error codes."""

    TYPE: ClassVar[str] = "failed"
    session: str
    code: str
    message: str
    expected: str = ""
    got: str = ""
    remedy: str = ""

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(
            session=f.text("session", MAX_NAME),
            code=f.choice("code", sorted(ERROR_CODES)),
            message=f.text("message", MAX_TEXT),
            expected=f.text("expected", MAX_TEXT),
            got=f.text("got", MAX_TEXT),
            remedy=f.text("remedy", MAX_TEXT),
        )


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A finished picture; `payload` is I420 (`i420_bytes` long) and travels in a second part."""

    TYPE: ClassVar[str] = "frame"
    session: str
    header: FrameHeader
    payload: Buffer

    @classmethod
    def read(cls, f: Fields, payload: Buffer) -> Self:
        return cls(f.text("session", MAX_NAME), FrameHeader.read(f.child("header")), payload)


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """All that is needed to go on with a session elsewhere; `payload` is the second part."""

    TYPE: ClassVar[str] = "snapshot"
    session: str
    payload: Buffer

    @classmethod
    def read(cls, f: Fields, payload: Buffer) -> Self:
        return cls(f.text("session", MAX_NAME), payload)


@dataclass(frozen=True, slots=True)
class WorkerPong:
    TYPE: ClassVar[str] = "pong"
    t: float

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls(f.number("t", -MAX_MS, MAX_MS))


@dataclass(frozen=True, slots=True)
class WorkerStats:
    TYPE: ClassVar[str] = "stats"
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, f: Fields) -> Self:
        return cls({key: value for key, value in f.raw().items() if key != "type"})


# --- bytes ------------------------------------------------------------------------------------

ClientMessage = Hello | Start | Input | Ping | Offer | FrameShown | StatsRequest | Bye
ServerMessage = Welcome | Status | Frame | Error | Pong | Answer | Stats
GatewayMessage = (
    OpenSession
    | SessionInput
    | RestartSession
    | CloseSession
    | FrameAck
    | ShiftPhase
    | WorkerPing
    | Shutdown
)
WorkerMessage = (
    Loading | Ready | Opened | Failed | RawFrame | SessionSnapshot | WorkerPong | WorkerStats
)
Message = ClientMessage | ServerMessage | GatewayMessage | WorkerMessage
Kind = TypeVar("Kind")

_CLIENT: Final[Mapping[str, type[ClientMessage]]] = {
    kind.TYPE: kind for kind in (Hello, Start, Input, Ping, Offer, FrameShown, StatsRequest, Bye)
}
_SERVER: Final[Mapping[str, type[ServerMessage]]] = {
    kind.TYPE: kind for kind in (Welcome, Status, Frame, Error, Pong, Answer, Stats)
}
_GATEWAY: Final[Mapping[str, type[GatewayMessage]]] = {
    kind.TYPE: kind
    for kind in (
        OpenSession,
        SessionInput,
        RestartSession,
        CloseSession,
        FrameAck,
        ShiftPhase,
        WorkerPing,
        Shutdown,
    )
}
_PlainWorkerMessage = Loading | Ready | Opened | Failed | WorkerPong | WorkerStats
_WORKER: Final[Mapping[str, type[_PlainWorkerMessage]]] = {
    kind.TYPE: kind for kind in (Loading, Ready, Opened, Failed, WorkerPong, WorkerStats)
}
_WORKER_PAYLOAD: Final[Mapping[str, type[RawFrame] | type[SessionSnapshot]]] = {
    kind.TYPE: kind for kind in (RawFrame, SessionSnapshot)
}


def encode(message: Message) -> bytes:
    """The msgpack map of a message, without a payload (see `encode_parts`)."""
    if isinstance(message, Stats | WorkerStats):
        body: dict[str, Any] = {**message.values, "type": message.TYPE}
    else:
        body = {"type": message.TYPE, **_to_map(message)}
    packed: bytes = msgpack.packb(body)
    return packed


def encode_parts(message: GatewayMessage | WorkerMessage) -> list[Buffer]:
    """The parts of a ZeroMQ message: the map, then the payload of a message that carries one."""
    if isinstance(message, RawFrame | SessionSnapshot):
        return [encode(message), message.payload]
    return [encode(message)]


def _to_map(value: Any) -> dict[str, Any]:
    # the slots of a dataclass are its fields
    return {name: _plain(getattr(value, name)) for name in value.__slots__ if name != "payload"}


def _plain(value: Any) -> Any:
    if isinstance(value, Pose | ControllerState | WorldSpec | Seats | FrameHeader | PromptFrames):
        return _to_map(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def decode_client(data: Buffer) -> ClientMessage:
    """A message that a client sent. Raises ProtocolError for any bytes that are not one."""
    if len(data) > MAX_CLIENT_MESSAGE:
        return _decode_with_pictures(data)
    f, kind = _open(data, MAX_CLIENT_MESSAGE, _CLIENT)
    return kind.read(f)


def _decode_with_pictures(data: Buffer) -> ClientMessage:
    """A hello or start of megabytes: without its pictures, it has to be as small as any."""
    if len(data) > MAX_PICTURE_MESSAGE:
        raise ProtocolError(
            MESSAGE_TOO_LARGE,
            "the message is too large",
            f"at most {MAX_PICTURE_MESSAGE} bytes with pictures, {MAX_CLIENT_MESSAGE} without",
            f"{len(data)} bytes",
            "Send smaller messages; JPEG makes pictures smaller.",
        )
    plain, packed = cut_out(data, "pictures") or (data, None)
    f, kind = _open(plain, MAX_CLIENT_MESSAGE, _CLIENT)
    if packed is None or not issubclass(kind, Hello | Start):
        raise ProtocolError(
            MESSAGE_TOO_LARGE,
            "the message is too large",
            f"at most {MAX_CLIENT_MESSAGE} bytes, unless it is a hello or start with pictures",
            f"{len(data)} bytes",
            "Send smaller messages.",
        )
    pictures = unpack_binaries(packed, MAX_PROMPT_FRAMES)
    if pictures is None:
        Fields({}, code=BAD_PICTURE).refuse(
            "pictures",
            f"a list of at most {MAX_PROMPT_FRAMES} byte strings",
            f"{len(packed)} bytes",
        )
    return kind.read(Fields({**f.raw(), "pictures": pictures}))


def decode_server(data: Buffer) -> ServerMessage:
    """A message that the gateway sent to a client. Raises ProtocolError."""
    f, kind = _open(data, MAX_SERVER_MESSAGE, _SERVER)
    return kind.read(f)


def decode_gateway(data: Buffer) -> GatewayMessage:
    """A message that the gateway sent to a worker. Raises ProtocolError."""
    f, kind = _open(data, MAX_PAYLOAD + MAX_CLIENT_MESSAGE, _GATEWAY)
    return kind.read(f)


def decode_worker(data: Buffer, payload: Buffer | None = None) -> WorkerMessage:
    """A message that a worker sent: the map and, for frames and snapshots, the second part.

    Raises ProtocolError, also for a payload that is missing, not wanted, or too large.
    """
    f, kind = _open(data, MAX_SERVER_MESSAGE, {**_WORKER, **_WORKER_PAYLOAD})
    if issubclass(kind, RawFrame | SessionSnapshot):
        if payload is None:
            f.refuse("payload", "a second part with the payload", None)
        if len(payload) > MAX_PAYLOAD:
            f.refuse("payload", f"at most {MAX_PAYLOAD} bytes", len(payload))
        return kind.read(f, payload)
    if payload is not None:
        f.refuse("payload", "no second part", len(payload))
    return kind.read(f)


def _open(data: Buffer, limit: int, kinds: Mapping[str, Kind]) -> tuple[Fields, Kind]:
    values = unpack_map(data, limit)
    name = values.get("type")
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ProtocolError(
            UNKNOWN_TYPE,
            "the message has an unknown type",
            "one of " + ", ".join(sorted(kinds)),
            show(name),
            "Check the `type` field against docs/protocol.md.",
        )
    return Fields(values), kind
