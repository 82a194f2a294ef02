"""The messages between the gateway and a worker. Both share the host's monotonic clock."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

from worldbridge.bridge.protocol.client import Seed
from worldbridge.bridge.protocol.errors import ErrorCode
from worldbridge.bridge.protocol.types import (
    MAX_SAVED_SESSION,
    ControllerState,
    Count,
    FrameHeader,
    Milliseconds,
    Name,
    Observation,
    PromptFrames,
    Record,
    Share,
    Text,
    WorldSpec,
    about,
)

__all__ = [
    "NO_PAYLOAD",
    "CloseSession",
    "Failed",
    "FrameAck",
    "GatewayMessage",
    "Loading",
    "OpenSession",
    "Opened",
    "RawFrame",
    "Ready",
    "RestartSession",
    "SavedSession",
    "SessionDepth",
    "SessionInput",
    "SessionObservation",
    "ShiftPhase",
    "Shutdown",
    "WorkerMessage",
    "WorkerPing",
    "WorkerPong",
    "WorkerStats",
]

MAX_SESSIONS: Final = 4096
NO_PAYLOAD: Final = memoryview(b"")  # left out of the map

# --- gateway to worker ------------------------------------------------------------------------


class OpenSession(Record, frozen=True, tag_field="type", tag="open"):
    """Step a session from now on: from `saved` if there is one, otherwise from the beginning."""

    session: Name
    theme: Name | None = None
    seed: Seed | None = None
    saved: Annotated[
        Annotated[bytes, Meta(max_length=MAX_SAVED_SESSION)] | None,
        about("what `saved_session` carried"),
    ] = None
    prompt_frames: PromptFrames | None = None


class SessionInput(Record, frozen=True, tag_field="type", tag="input"):
    """The newest controller state of a session."""

    session: Name
    state: Annotated[
        ControllerState, about("`sequence` and `pointer` count per session, over all connections")
    ]
    t_input: Annotated[Milliseconds, about("when the gateway received it")]


class SessionObservation(Record, frozen=True, tag_field="type", tag="observation"):
    """A frame of an engine for the memory of a session."""

    session: Name
    observation: Observation


class SessionDepth(Record, frozen=True, tag_field="type", tag="depth"):
    """Send depth with the session's frames from now on, or no more; at first none is sent."""

    session: Name
    wanted: bool


class RestartSession(Record, frozen=True, tag_field="type", tag="restart"):
    """Begin again. Theme and seed stay if they are absent; prompt frames do not."""

    session: Name
    theme: Name | None = None
    seed: Seed | None = None
    prompt_frames: PromptFrames | None = None


class CloseSession(Record, frozen=True, tag_field="type", tag="close"):
    """Forget a session."""

    session: Name


class FrameAck(Record, frozen=True, tag_field="type", tag="frame_ack"):
    """The gateway took this frame, so the worker may send another one of the session."""

    session: Name
    frame: Count


class ShiftPhase(Record, frozen=True, tag_field="type", tag="shift_phase"):
    """Send the session's frames later by `ms`, little by little.

    A worker that steps several sessions together may ignore it.
    """

    session: Name
    ms: Annotated[float, Meta(ge=-1000.0, le=1000.0), about("negative: earlier")]


class WorkerPing(Record, frozen=True, tag_field="type", tag="ping"):
    """Ask whether the worker still answers; every 500 ms."""

    time: Milliseconds
    sessions: Annotated[
        Annotated[tuple[Name, ...], Meta(max_length=MAX_SESSIONS)] | None,
        about("all that there are: the worker closes others, whose `close` was lost"),
    ] = None


class Shutdown(Record, frozen=True, tag_field="type", tag="shutdown"):
    """Save every session and end."""


# --- worker to gateway ------------------------------------------------------------------------


class Loading(Record, frozen=True, tag_field="type", tag="loading"):
    """The world is being loaded."""

    stage: Text
    progress: Share


class Ready(Record, frozen=True, tag_field="type", tag="ready"):
    """The world is loaded."""

    world: WorldSpec
    seats: Annotated[int, Meta(ge=1, le=4096)]
    mode: Annotated[Name, about("how tokens are decoded; empty where there are none")] = ""


class Opened(Record, frozen=True, tag_field="type", tag="opened"):
    """A session is open."""

    session: Name


class Failed(Record, frozen=True, tag_field="type", tag="failed"):
    """A session could not be opened, or broke: it is gone."""

    session: Name
    code: ErrorCode
    message: Text
    expected: Text = ""
    got: Text = ""
    remedy: Text = ""


class RawFrame(Record, frozen=True, omit_defaults=True, tag_field="type", tag="frame"):
    """A finished frame. `payload` is I420 (`i420_bytes` long); it travels in a second part.

    With a `depth_scale` the depth follows in it: uint16 little-endian [height, width].
    """

    session: Name
    header: FrameHeader
    payload: memoryview = NO_PAYLOAD
    depth_scale: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None


class SavedSession(Record, frozen=True, omit_defaults=True, tag_field="type", tag="saved_session"):
    """All that is needed to continue a session; about once per second. In a second part."""

    session: Name
    payload: memoryview = NO_PAYLOAD


class WorkerPong(Record, frozen=True, tag_field="type", tag="pong"):
    """The answer to `ping`."""

    time: Milliseconds


class WorkerStats(Record, frozen=True, tag_field="type", tag="stats"):
    """Counters. Their names may change."""

    values: Annotated[dict[str, Any], Meta(max_length=256)] = {}


GatewayMessage = (
    OpenSession
    | SessionInput
    | SessionObservation
    | SessionDepth
    | RestartSession
    | CloseSession
    | FrameAck
    | ShiftPhase
    | WorkerPing
    | Shutdown
)
WorkerMessage = (
    Loading | Ready | Opened | Failed | RawFrame | SavedSession | WorkerPong | WorkerStats
)
