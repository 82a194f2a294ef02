"""The parts that messages share, and the limits of the protocol.

Times named `t_*` and `server_time` are milliseconds of the server's monotonic clock; `time`,
`input_time`, `received` and `shown` are milliseconds of the client's own clock.
Coordinates: right-handed, +Y up, -Z forward, metres, quaternions (x, y, z, w).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from msgspec import Meta

from worldbridge.settings import MAX_PROMPT_FRAMES

__all__ = [
    "AXES",
    "BUTTONS",
    "DEPTH_SCALE",
    "MAX_CLIENT_MESSAGE",
    "MAX_CREDIT",
    "MAX_HELLO",
    "MAX_INPUT",
    "MAX_PART",
    "MAX_OBSERVATION",
    "MAX_OBSERVED_PIXELS",
    "MAX_PART_MESSAGE",
    "MAX_PAYLOAD",
    "MAX_PROMPT_BYTES",
    "MAX_PROMPT_FRAMES",
    "MAX_SAVED_SESSION",
    "MAX_SERVER_MESSAGE",
    "MAX_TEXT",
    "PROTOCOL_VERSION",
    "STATES_PER_INPUT",
    "Buffer",
    "Codec",
    "ControlSpec",
    "ControllerState",
    "FrameHeader",
    "IceServer",
    "Observation",
    "Pose",
    "PromptFrames",
    "Role",
    "Seat",
    "Seats",
    "State",
    "Transport",
    "WorldKind",
    "WorldSpec",
    "i420_bytes",
]

PROTOCOL_VERSION: Final = 2

MAX_HELLO: Final = 4 * 1024
MAX_INPUT: Final = 4 * 1024
MAX_CLIENT_MESSAGE: Final = 64 * 1024
MAX_PART: Final = 256 * 1024  # bytes of a file that one `prompt_frame` carries
MAX_PART_MESSAGE: Final = MAX_PART + 1024
MAX_OBSERVED_PIXELS: Final = 384 * 640  # of an engine's frame: 5 bytes each
MAX_OBSERVATION: Final = 5 * MAX_OBSERVED_PIXELS + 1024
MAX_PROMPT_BYTES: Final = 8 * 1024 * 1024  # all prompt frames of one start, as files
MAX_SERVER_MESSAGE: Final = 8 * 1024 * 1024
MAX_SAVED_SESSION: Final = 16 * 1024 * 1024
MAX_PAYLOAD: Final = 64 * 1024 * 1024
MAX_CREDIT: Final = 8  # frames
DEPTH_SCALE: Final = 0.001  # metres per step of a depth: 16 bits reach to 65 m

STATES_PER_INPUT: Final = 4
AXES: Final = 4
BUTTONS: Final = 17
MAX_TEXT: Final = 2000
MAX_SIDE: Final = 8192
MAX_INT: Final = 2**53 - 1  # the largest integer that a JavaScript client can hold

Role = Literal["player", "spectator", "engine"]
Transport = Literal["webrtc", "websocket", "zeromq"]
Codec = Literal["h264", "vp8", "jpeg", "rgb", "bgra", "i420"]
State = Literal["loading", "ready", "queued", "playing", "reconnecting"]
WorldKind = Literal["procedural", "autoregressive"]
Buffer = bytes | bytearray | memoryview

Name = Annotated[str, Meta(max_length=64)]
Token = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Sdp = Annotated[str, Meta(max_length=60_000)]
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Milliseconds = Annotated[float, Meta(ge=-1e15, le=1e15)]  # bounds refuse NaN as well
Metres = Annotated[float, Meta(ge=-1e6, le=1e6)]
Pixels = Annotated[float, Meta(ge=-1e12, le=1e12)]
Unit = Annotated[float, Meta(ge=-1.0, le=1.0)]
QuaternionPart = Annotated[float, Meta(ge=-1.01, le=1.01)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
PromptCount = Annotated[int, Meta(ge=0, le=MAX_PROMPT_FRAMES)]


def about(text: str) -> Meta:
    """Describe a field in docs/protocol.md."""
    return Meta(description=text)


def i420_bytes(width: int, height: int) -> int:
    """Return the size of a planar YUV 4:2:0 frame: Y [height, width], then U and V at half size."""
    return width * height * 3 // 2


class Record(msgspec.Struct, frozen=True):
    """A map with typed fields. `__post_init__` raises ValueError with what was expected."""

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain dictionaries, lists and values."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


class Pose(Record, frozen=True):
    """A camera."""

    position: Annotated[tuple[Metres, Metres, Metres], about("metres")] = (0.0, 0.0, 0.0)
    orientation: Annotated[
        tuple[QuaternionPart, QuaternionPart, QuaternionPart, QuaternionPart],
        about("unit quaternion (x, y, z, w) that turns the camera's axes into the world's"),
    ] = (0.0, 0.0, 0.0, 1.0)
    fov_y: Annotated[float, Meta(ge=1.0, le=179.0), about("vertical field of view in degrees")] = (
        50.0
    )

    def __post_init__(self) -> None:
        x, y, z, w = self.orientation
        square = x * x + y * y + z * z + w * w
        if not 0.9 <= square <= 1.1:
            raise ValueError("a camera whose orientation is a unit quaternion (x, y, z, w)")
        if abs(square - 1.0) > 1e-3:  # a client rounded it
            unit = tuple(part / math.sqrt(square) for part in self.orientation)
            msgspec.structs.force_setattr(self, "orientation", unit)


class ControllerState(Record, frozen=True):
    """The full state of one controller at one moment, never a change of it.

    What is absent is neutral.
    """

    sequence: Annotated[
        Count, about("grows with every state; one older than the newest seen is ignored")
    ]
    time: Annotated[
        Milliseconds,
        about("client time at which the controller was read; comes back with the frame"),
    ]
    axes: Annotated[
        tuple[Unit, Unit, Unit, Unit],
        about("left X, left Y, right X, right Y of the W3C standard gamepad; left Y -1 is forward"),
    ] = (0.0, 0.0, 0.0, 0.0)
    buttons: Annotated[
        int, Meta(ge=0, le=2**BUTTONS - 1), about("bit i is button i of the W3C standard gamepad")
    ] = 0
    keys: Annotated[
        tuple[Annotated[str, Meta(max_length=24)], ...],
        Meta(max_length=16),
        about("`KeyboardEvent.code` of the keys that are held: `KeyW`, `ArrowLeft`"),
    ] = ()
    pointer: Annotated[
        tuple[Pixels, Pixels],
        about(
            "pixels moved since the session began, +x right, +y down: a counter, so a lost "
            "packet loses nothing"
        ),
    ] = (0.0, 0.0)
    camera: Annotated[
        Pose | None, about("the client's camera; used by worlds with the conditioning `camera`")
    ] = None


class ControlSpec(Record, frozen=True):
    """One control of a world, described as data."""

    name: Annotated[Name, about("such as `forward` or `yaw`")]
    kind: Annotated[
        Literal["axis", "button", "look"], about("`look` turns the camera: also by the pointer")
    ]
    range: Annotated[tuple[float, float], about("the lowest and the highest value")] = (-1.0, 1.0)
    low_keys: Annotated[
        tuple[Name, ...],
        Meta(max_length=8),
        about("default keys (`KeyboardEvent.code`) for the lowest value"),
    ] = ()
    high_keys: Annotated[
        tuple[Name, ...], Meta(max_length=8), about("default keys for the highest value")
    ] = ()
    default_axis: Annotated[
        Annotated[int, Meta(ge=0, le=AXES - 1)] | None, about("index into `axes` of a state")
    ] = None
    inverted: Annotated[bool, about("whether the axis counts against the control")] = False


class WorldSpec(Record, frozen=True):
    """A world as seen from outside."""

    name: Name
    title: Text
    width: Annotated[int, Meta(ge=2, le=MAX_SIDE, multiple_of=2), about("pixels of a frame")]
    height: Annotated[int, Meta(ge=2, le=MAX_SIDE, multiple_of=2), about("pixels of a frame")]
    fps: Annotated[float, Meta(ge=0.1, le=1000.0), about("frames per second")]
    frames_per_latent: Annotated[int, Meta(ge=1, le=64), about("frames that are made together")]
    themes: Annotated[tuple[Name, ...], Meta(max_length=256)]
    action_schema: Annotated[
        tuple[ControlSpec, ...], Meta(max_length=64), about("the world's controls")
    ]
    context_latents: Annotated[
        int, Meta(ge=0, le=1_000_000), about("past latents that the model attends to")
    ]
    kind: WorldKind
    max_prompt_frames: Annotated[
        PromptCount, about("the most prompt frames that a session can start from; 0: none")
    ] = 0
    conditionings: Annotated[
        tuple[Name, ...],
        Meta(max_length=16),
        about(
            "what the model receives besides its own tokens: `actions`, `camera`, `text`, "
            "`observations`"
        ),
    ] = ()
    depth: Annotated[bool, about("whether frames can carry depth")] = False


class Seats(Record, frozen=True):
    """The seats of a server."""

    used: Annotated[Count, about("also those that are kept for vanished players")]
    total: Count


class Seat(Record, frozen=True):
    """A client's own place."""

    state: Annotated[
        Literal["seated", "queued", "watching"],
        about("`queued`: every seat is taken; a `status` follows whenever the place changes"),
    ]
    position: Annotated[Count | None, about("place in the queue, 0 is next")] = None
    expected_wait_s: Annotated[
        float | None, about("seconds, from how long seats were held so far; absent: unknown")
    ] = None


class IceServer(Record, frozen=True):
    """A STUN or TURN server, as `RTCIceServer` of WebRTC has it."""

    urls: Annotated[tuple[Text, ...], Meta(max_length=8)]
    username: Text | None = None
    credential: Text | None = None


class FrameHeader(Record, frozen=True):
    """One frame: the input it answers, its camera, and the time of each step on its way.

    The worker fills in everything up to `t_frame`, `camera` and `batch`; the gateway the rest.
    """

    frame: Annotated[Count, about("number of the frame in its session")]
    input_sequence: Annotated[
        int,
        Meta(ge=-1, le=MAX_INT),
        about(
            "`sequence` of the state that this frame answers, as this connection counts; -1: none"
        ),
    ]
    input_time: Annotated[Milliseconds, about("`time` of that state (client time)")]
    t_input: Annotated[Milliseconds, about("the gateway received that state")]
    t_controls: Annotated[
        Milliseconds, about("the controls were read, as late as possible, and the step began")
    ]
    t_tokens: Annotated[
        Milliseconds, about("the tokens were decoded; procedural worlds: `t_controls`")
    ]
    t_frame: Annotated[Milliseconds, about("the frame was ready in the worker")]
    camera: Annotated[Pose, about("the camera that the frame is seen from")]
    t_gateway: Annotated[Milliseconds, about("the frame arrived in the gateway")] = 0.0
    t_encoded: Annotated[Milliseconds, about("it was compressed")] = 0.0
    t_sent: Annotated[
        Milliseconds,
        about(
            "its first byte (WebSocket, ZeroMQ) or last packet (WebRTC) was handed to the network"
        ),
    ] = 0.0
    width: Annotated[Annotated[int, Meta(ge=0, le=MAX_SIDE)], about("pixels")] = 0
    height: Annotated[Annotated[int, Meta(ge=0, le=MAX_SIDE)], about("pixels")] = 0
    rtp: Annotated[
        Annotated[int, Meta(ge=0, le=2**32 - 1)] | None,
        about("RTP time stamp of the frame on the WebRTC path"),
    ] = None
    dropped: Annotated[
        Count, about("frames of this session that this client did not get so far")
    ] = 0
    batch: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_INT)],
        about("sessions that were stepped together with this one"),
    ] = 1


DepthScale = Annotated[float, Meta(ge=1e-6, le=10.0)]


class Observation(Record, frozen=True):
    """A frame that an engine rendered, with its depth; it joins the world's memory."""

    camera: Annotated[Pose, about("where it was rendered from, in the engine's coordinates")]
    width: Side
    height: Side
    rgb: Annotated[bytes, about("uint8 [height, width, 3]")]
    depth: Annotated[
        bytes,
        about(
            "uint16 little-endian [height, width]; metres along the view's axis are value * "
            "`depth_scale`; 0: nothing was rendered here, so the world draws it"
        ),
    ]
    depth_scale: DepthScale
    fresh: Annotated[bool, about("forget first what the world has drawn so far")] = False

    def __post_init__(self) -> None:
        pixels = self.width * self.height
        if pixels > MAX_OBSERVED_PIXELS:
            raise ValueError(f"at most {MAX_OBSERVED_PIXELS} pixels")
        if len(self.rgb) != 3 * pixels or len(self.depth) != 2 * pixels:
            raise ValueError(f"{3 * pixels} bytes in `rgb` and {2 * pixels} in `depth`")


class PromptFrames(Record, frozen=True):
    """Decoded prompt frames, oldest first."""

    count: Annotated[int, Meta(ge=1, le=MAX_PROMPT_FRAMES)]
    height: Side
    width: Side
    rgb: Annotated[bytes, about("uint8 [count, height, width, 3]")]
    depth: Annotated[
        bytes | None,
        about(
            "of the newest one, uint16 little-endian [height, width]; metres along the view's "
            "axis are value * `depth_scale`; 0: unknown"
        ),
    ] = None
    depth_scale: DepthScale = DEPTH_SCALE

    def __post_init__(self) -> None:
        pixels = self.height * self.width
        size = 3 * self.count * pixels
        if len(self.rgb) != size:
            raise ValueError(f"prompt frames whose `rgb` has {size} bytes")
        if self.depth is not None and len(self.depth) != 2 * pixels:
            raise ValueError(f"prompt frames whose `depth` has {2 * pixels} bytes")
