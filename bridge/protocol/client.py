"""The messages between a client and the gateway."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from msgspec import Meta

from worldbridge.bridge.protocol.errors import BridgeError
from worldbridge.bridge.protocol.types import (
    MAX_CREDIT,
    MAX_PART,
    MAX_PROMPT_FRAMES,
    MAX_TEXT,
    PROTOCOL_VERSION,
    STATES_PER_INPUT,
    Codec,
    ControllerState,
    Count,
    DepthScale,
    FrameHeader,
    IceServer,
    Milliseconds,
    Name,
    Observation,
    PromptCount,
    Record,
    Role,
    Sdp,
    Seat,
    Seats,
    Share,
    Side,
    State,
    Text,
    Token,
    Transport,
    WorldSpec,
    about,
)

__all__ = [
    "Answer",
    "Bye",
    "ClientMessage",
    "Credit",
    "Error",
    "Event",
    "Frame",
    "FrameShown",
    "HandOver",
    "Hello",
    "Input",
    "Observe",
    "Offer",
    "Ping",
    "Pong",
    "PromptDepthPart",
    "PromptFramePart",
    "RequestControl",
    "ServerMessage",
    "Start",
    "Stats",
    "StatsRequest",
    "Status",
    "Welcome",
]

Seed = Count

# --- client to server -------------------------------------------------------------------------


class Hello(Record, frozen=True, tag_field="type", tag="hello"):
    """The first message of a client. Small: nothing large is accepted before `welcome`."""

    client: Annotated[Name, about("what the client is, for logs")] = ""
    role: Annotated[Role, about("`engine` plays as well, with a camera of its own")] = "player"
    transports: Annotated[
        tuple[Name, ...],
        Meta(max_length=8),
        about(
            "ways to receive frames, the preferred one first: `webrtc`, `websocket`; over ZeroMQ: "
            "`zeromq`"
        ),
    ] = ("websocket",)
    codecs: Annotated[
        tuple[Name, ...],
        Meta(max_length=8),
        about(
            "codecs that the client decodes: `h264` and `vp8` by `webrtc`, `h264` and "
            "`jpeg` by `websocket`, `i420`, `rgb`, `bgra`, `h264` and `jpeg` by `zeromq`: "
            "there the first one is taken"
        ),
    ] = ("jpeg",)
    token: Annotated[Token | None, about("the server's secret, if it requires one")] = None
    resume: Annotated[
        Token | None, about("the `resume` of an earlier `welcome`: take that session over")
    ] = None
    session: Annotated[
        Name | None, about("the session that a spectator watches; absent: the newest")
    ] = None
    world: Annotated[Name | None, about("refuse to play any world but this one")] = None
    max_frame: Annotated[
        tuple[Side, Side] | None,
        about("largest frame that the client takes: width, height; a larger world is refused"),
    ] = None
    depth: Annotated[
        bool, about("send depth with every image, if the world has it; video comes without")
    ] = False
    wait: Annotated[
        bool, about("wait in the queue if every seat is taken, instead of `no_free_seat`")
    ] = False
    version: Annotated[Count, about("2. Checked before everything else")] = PROTOCOL_VERSION


class PromptFramePart(Record, frozen=True, tag_field="type", tag="prompt_frame"):
    """A part of an image file that the next `start` begins from; in order, after `welcome`."""

    index: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_PROMPT_FRAMES - 1)], about("which frame, oldest first")
    ]
    count: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_PROMPT_FRAMES)],
        about("how many frames; at most `max_prompt_frames` of the world"),
    ]
    part: Annotated[Annotated[int, Meta(ge=0, le=31)], about("which part of this file")]
    parts: Annotated[Annotated[int, Meta(ge=1, le=32)], about("how many parts this file has")]
    data: Annotated[bytes, Meta(max_length=MAX_PART), about("of a PNG, JPEG or WebP file")]

    def __post_init__(self) -> None:
        if self.index >= self.count or self.part >= self.parts:
            raise ValueError("`index` below `count` and `part` below `parts`")


class PromptDepthPart(Record, frozen=True, tag_field="type", tag="prompt_depth"):
    """A part of the depth of the newest prompt frame; in order, after the last `prompt_frame`.

    Only for worlds with `depth`, which estimate the depth of prompt frames that bring none.
    """

    part: Annotated[Annotated[int, Meta(ge=0, le=31)], about("which part of the file")]
    parts: Annotated[Annotated[int, Meta(ge=1, le=32)], about("how many parts the file has")]
    scale: Annotated[
        DepthScale, about("metres along the view's axis are value * `scale`; 0 is unknown")
    ]
    data: Annotated[
        bytes,
        Meta(max_length=MAX_PART),
        about("of a PNG of 16-bit grey values, of the frame's shape in any size"),
    ]

    def __post_init__(self) -> None:
        if self.part >= self.parts:
            raise ValueError("`part` below `parts`")


class Start(Record, frozen=True, tag_field="type", tag="start"):
    """Begin the session's world, or restart it. What is absent stays as it was."""

    theme: Name | None = None
    seed: Seed | None = None
    prompt: Annotated[Text | None, about("text for worlds that take one per session")] = None
    prompt_frames: Annotated[
        PromptCount | None,
        about(
            "start from this many frames, sent before as `prompt_frame`. 0: from the theme. "
            "Absent: as before, at first as the server is set up"
        ),
    ] = None


class Input(Record, frozen=True, tag_field="type", tag="input"):
    """The newest controller states. Repeating the last few makes lost packets harmless."""

    states: Annotated[
        tuple[ControllerState, ...],
        Meta(min_length=1, max_length=STATES_PER_INPUT),
        about("newest first"),
    ]


class Ping(Record, frozen=True, tag_field="type", tag="ping"):
    """Measure the round trip, and show that the client is alive."""

    time: Annotated[Milliseconds, about("client time; comes back in `pong`")]


class Offer(Record, frozen=True, tag_field="type", tag="offer"):
    """A WebRTC offer."""

    sdp: Sdp


class FrameShown(Record, frozen=True, tag_field="type", tag="frame_shown"):
    """A frame is on the screen."""

    frame: Annotated[Count, about("its number")]
    received: Annotated[Milliseconds, about("client time at which it arrived")]
    shown: Annotated[Milliseconds, about("client time at which it was shown")]
    offset: Annotated[
        Milliseconds | None, about("client time minus server time, as the client estimates it")
    ] = None
    refresh: Annotated[
        Annotated[float, Meta(ge=1.0, le=1000.0)] | None,
        about(
            "measured period of the display's refresh in ms. The server then shifts a lone "
            "player's frames so that they arrive shortly before a refresh"
        ),
    ] = None


class Credit(Record, frozen=True, tag_field="type", tag="credit"):
    """Let the server send more frames: the newest ones, as they come.

    Over ZeroMQ, and for H.264 over a WebSocket, none is sent without; otherwise only what was
    granted is sent once one came. Grant H.264 as it is decoded, two frames ahead.
    """

    frames: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_CREDIT)],
        about(f"how many more; what is granted and not used yet is at most {MAX_CREDIT}"),
    ]


class Observe(Record, frozen=True, tag_field="type", tag="observe"):
    """Give a frame of an engine to a world that takes `observations`, once or with every frame.

    Where both know a point the engine wins; what it leaves blank is drawn. Of several that wait for
    the worker the newest four are kept.
    """

    observation: Observation


class StatsRequest(Record, frozen=True, tag_field="type", tag="stats"):
    """Ask for `stats`."""


class RequestControl(Record, frozen=True, tag_field="type", tag="request_control"):
    """Ask, as a spectator, for the controls of the session."""


class HandOver(Record, frozen=True, tag_field="type", tag="hand_over"):
    """Give the controls to the spectator who asked first; both receive a new `welcome`."""


class Bye(Record, frozen=True, omit_defaults=True, tag_field="type", tag="bye"):
    """Leave: the seat is free at once."""

    keep: Annotated[
        bool,
        about(
            "keep the world for `kept_s`, unless another player needs the seat: a page that is "
            "closed may be loaded again. Absent: the session cannot be resumed"
        ),
    ] = False


# --- server to client -------------------------------------------------------------------------


class Welcome(Record, frozen=True, tag_field="type", tag="welcome"):
    """The client is admitted. `prompt_frame`, `start` and `offer` are allowed from here on."""

    server: Annotated[Name, about("name and version of the server")]
    session: Annotated[Name, about("empty for a spectator who waits for a player")]
    resume: Annotated[Token, about("keep it, to come back; empty for spectators")]
    role: Role
    world: WorldSpec
    seat: Seat
    seats: Seats
    transport: Annotated[Transport, about("how frames travel")]
    codec: Annotated[
        Codec, about("how they are compressed; WebRTC: as far as the offer has this codec")
    ]
    started: Annotated[
        bool, about("whether the session's world runs already; if not, send `start`")
    ] = False
    ice_servers: Annotated[tuple[IceServer, ...], Meta(max_length=8)] = ()
    kept_s: Annotated[
        float | None, about("seconds that the seat is kept once the connection is lost")
    ] = None
    version: Count = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        if self.version != PROTOCOL_VERSION:
            raise ValueError(f"`version` {PROTOCOL_VERSION}")


class Status(Record, frozen=True, tag_field="type", tag="status"):
    """The state of the client's session, as often as it changes."""

    state: Annotated[
        State,
        about(
            "`ready`: the server waits for `start`; `queued`: for a seat; `reconnecting`: the "
            "worker died, frames stop"
        ),
    ]
    detail: Annotated[Text, about("for people")] = ""
    progress: Annotated[Share | None, about("how much is loaded")] = None
    position: Annotated[Count | None, about("place in the queue, 0 is next")] = None
    expected_wait_s: Annotated[float | None, about("seconds; absent: unknown")] = None


class Frame(Record, frozen=True, tag_field="type", tag="frame"):
    """One frame; without `image` it travels as WebRTC video."""

    header: FrameHeader
    image: Annotated[
        bytes | None, about("the frame, as `codec` says; over ZeroMQ in a part of its own")
    ] = None
    codec: Annotated[
        Codec | None,
        about(
            "of `image`: `jpeg`, full range; `rgb`: uint8 [height, width, 3]; `bgra`: uint8 "
            "[height, width, 4]; `i420`: planes Y, U and V, BT.601, limited range; `h264`: one "
            "access unit in Annex B format, all of them in order"
        ),
    ] = None
    depth: Annotated[
        bytes | None,
        about(
            "uint16 little-endian [height, width]; metres along the view's axis are value * "
            "`depth_scale`; 0: the sky, or too far to say"
        ),
    ] = None
    depth_scale: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None


class Event(Record, frozen=True, tag_field="type", tag="event"):
    """Something happened that is no change of state."""

    name: Annotated[
        Literal[
            "world_lost",
            "world_restored",
            "world_reset",
            "session_resumed",
            "seat_warning",
            "control_requested",
        ],
        about(
            "`world_reset`: the world could not be kept and begins again; `session_resumed`: "
            "what passed while the client was away; `seat_warning`: the seat of an idle player "
            "is free soon; `control_requested`: a spectator asks for the controls"
        ),
    ]
    detail: Annotated[Text, about("for people")] = ""
    seconds: Annotated[
        float | None, about("since the client was lost, or until the seat is free")
    ] = None
    frames: Annotated[Count | None, about("that the client missed")] = None


class Error(Record, frozen=True, tag_field="type", tag="error"):
    """What the server refused, what it expected instead, and what to do."""

    code: Name  # a newer server may know more codes; a client must still be able to show them
    message: Text
    expected: Text = ""
    got: Text = ""
    remedy: Text = ""
    path: Annotated[Text, about("the field at fault: `input.states[0].axes[1]`")] = ""
    fatal: Annotated[bool, about("the connection is closed after it")] = True

    @classmethod
    def of(cls, error: BridgeError, fatal: bool = True) -> Self:
        """Return the message for an error, cut to what a message holds."""
        return cls(
            code=error.code,
            message=error.message[:MAX_TEXT],
            expected=error.expected[:MAX_TEXT],
            got=error.got[:MAX_TEXT],
            remedy=error.remedy[:MAX_TEXT],
            path=error.path[:MAX_TEXT],
            fatal=fatal,
        )


class Pong(Record, frozen=True, tag_field="type", tag="pong"):
    """The answer to `ping`."""

    time: Annotated[Milliseconds, about("`time` of the ping")]
    server_time: Annotated[Milliseconds, about("server time at which the ping was handled")]


class Answer(Record, frozen=True, tag_field="type", tag="answer"):
    """The answer to `offer`."""

    sdp: Sdp


class Stats(Record, frozen=True, tag_field="type", tag="stats"):
    """Counters. Their names may change."""

    values: Annotated[dict[str, Any], Meta(max_length=256)] = {}


ClientMessage = (
    Hello
    | PromptFramePart
    | PromptDepthPart
    | Start
    | Input
    | Ping
    | Offer
    | FrameShown
    | Credit
    | Observe
    | StatsRequest
    | RequestControl
    | HandOver
    | Bye
)
ServerMessage = Welcome | Status | Frame | Event | Error | Pong | Answer | Stats
