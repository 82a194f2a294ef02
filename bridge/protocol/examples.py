"""Example messages, valid and invalid, which `schema` writes as fixtures for every client."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from worldbridge.bridge.protocol import client as c
from worldbridge.bridge.protocol import worker as w
from worldbridge.bridge.protocol.types import (
    MAX_HELLO,
    ControllerState,
    ControlSpec,
    FrameHeader,
    IceServer,
    Observation,
    Pose,
    PromptFrames,
    Record,
    Seat,
    Seats,
    WorldSpec,
)

__all__ = ["GAMEPADS", "INVALID", "POSES", "VALID"]

_HALF: Final = math.sqrt(0.5)

POSES: Final[Mapping[str, Pose]] = {
    "origin": Pose(),
    "ahead": Pose((1.5, 1.6, -2.25), (0.0, 0.0, 0.0, 1.0), 62.5),
    "turned left": Pose((0.0, 1.6, 0.0), (0.0, _HALF, 0.0, _HALF), 50.0),
    "looking up": Pose((-3.0, 0.5, 8.0), (0.28, 0.0, 0.0, 0.96), 90.0),
    "all axes": Pose((10.0, -2.0, 4.0), (0.1, 0.3, -0.3, 0.9), 35.5),
}

# What a W3C standard gamepad reports: axes, and the numbers of the buttons that are pressed.
GAMEPADS: Final[Mapping[str, tuple[tuple[float, float, float, float], tuple[int, ...]]]] = {
    "neutral": ((0.0, 0.0, 0.0, 0.0), ()),
    "walking ahead": ((0.0, -1.0, 0.0, 0.0), ()),
    "strafing right and looking left": ((1.0, 0.0, -0.5, 0.0), (10,)),
    "first and last button": ((0.25, -0.75, 0.5, 1.0), (0, 16)),
    "every button": ((-1.0, 1.0, -1.0, 1.0), tuple(range(17))),
}

_WORLD: Final = WorldSpec(
    name="tiny",
    title="Tiny world",
    width=320,
    height=192,
    fps=29.97,
    frames_per_latent=8,
    themes=("city", "zoo"),
    action_schema=(
        ControlSpec("forward", "axis", (-1.0, 1.0), ("KeyS",), ("KeyW",), 1, True),
        ControlSpec("yaw", "look", default_axis=2, inverted=True),
        ControlSpec("jump", "button", (0.0, 1.0), (), ("Space",)),
    ),
    context_latents=5,
    kind="autoregressive",
    max_prompt_frames=9,
    conditionings=("actions", "camera", "text"),
    depth=True,
)
_HEADER: Final = FrameHeader(
    frame=7,
    input_sequence=41,
    input_time=1234.5,
    t_input=10.0,
    t_controls=10.25,
    t_tokens=30.5,
    t_frame=44.75,
    camera=POSES["all axes"],
    t_gateway=45.0,
    t_encoded=50.5,
    t_sent=50.75,
    width=320,
    height=192,
    rtp=4_000_000_000,
    dropped=3,
    batch=2,
)
_STATE: Final = ControllerState(
    41,
    1234.5,
    (0.25, -1.0, 0.5, 1.0),
    65_537,
    ("KeyW", "ShiftLeft"),
    (320.5, -12.0),
    POSES["ahead"],
)
_FRAMES: Final = PromptFrames(2, 1, 2, bytes(range(12)), b"\x00\x00\xe8\x03", 0.01)
_JPEG: Final = b"\xff\xd8\xff\xe0"
_VALUES: Final = {"fps": 29.5, "sessions": [{"name": "a", "dropped": 0}], "mode": None}


def _held(sequence: int, name: str) -> ControllerState:
    axes, pressed = GAMEPADS[name]
    return ControllerState(sequence, 16.5 * sequence, axes, sum(1 << bit for bit in pressed))


_OBSERVATION: Final = Observation(
    Pose((1.0, 1.6, -2.0)), 2, 1, bytes(range(6)), b"\x00\x00\xe8\x03", 0.001, True
)

VALID: Final[Mapping[str, Mapping[str, Record]]] = {
    "client": {
        "hello": c.Hello(
            "page 1.0",
            "spectator",
            ("webrtc", "websocket"),
            ("h264", "vp8", "jpeg"),
            "secret",
            "resume-1",
            "s-1",
            "tiny",
            (1920, 1080),
            True,
            True,
        ),
        "hello_smallest": c.Hello(),
        "prompt_frame": c.PromptFramePart(1, 2, 0, 3, b"\x89PNG\r\n"),
        "prompt_depth": c.PromptDepthPart(0, 2, 0.001, b"\x89PNG\r\n"),
        "start": c.Start("city", 2**53 - 1, "a city at night", 2),
        "start_smallest": c.Start(),
        "input": c.Input((_STATE, ControllerState(40, 1220.0))),
        "input_gamepads": c.Input(tuple(_held(4 - i, n) for i, n in enumerate(list(GAMEPADS)[1:]))),
        "ping": c.Ping(99.5),
        "offer": c.Offer("v=0\r\n"),
        "frame_shown": c.FrameShown(7, 1300.25, 1310.5, -5.5, 16.68),
        "frame_shown_smallest": c.FrameShown(8, 1300.25, 1310.5),
        "credit": c.Credit(2),
        "observe": c.Observe(_OBSERVATION),
        "stats": c.StatsRequest(),
        "request_control": c.RequestControl(),
        "hand_over": c.HandOver(),
        "bye": c.Bye(),
        "bye_keep": c.Bye(True),
    },
    "server": {
        "welcome": c.Welcome(
            "worldbridge 0",
            "s-1",
            "resume-1",
            "player",
            _WORLD,
            Seat("seated"),
            Seats(1, 4),
            "webrtc",
            "h264",
            False,
            (IceServer(("stun:stun.example.org",), "user", "secret"),),
            30.0,
        ),
        "welcome_spectator": c.Welcome(
            "worldbridge 0",
            "",
            "",
            "spectator",
            _WORLD,
            Seat("watching"),
            Seats(0, 4),
            "websocket",
            "jpeg",
        ),
        "welcome_queued": c.Welcome(
            "worldbridge 0",
            "s-2",
            "resume-2",
            "player",
            _WORLD,
            Seat("queued", 3, 90.0),
            Seats(4, 4),
            "websocket",
            "jpeg",
        ),
        "status": c.Status("loading", "reading weights", 0.25),
        "status_ready": c.Status("ready"),
        "status_queued": c.Status("queued", position=3, expected_wait_s=90.0),
        "status_playing": c.Status("playing"),
        "frame": c.Frame(_HEADER, _JPEG, "jpeg", b"\x10\x00\x20\x00", 0.001),
        "frame_header_alone": c.Frame(_HEADER.replace(input_sequence=-1, rtp=None)),
        "event": c.Event("world_lost", "the worker's process ended"),
        "event_resumed": c.Event("session_resumed", "5 s were missed", 5.25, 158),
        "error": c.Error(
            "invalid_input",
            "message",
            "expected",
            "got",
            "remedy",
            "input.states[0].axes[1]",
            False,
        ),
        "pong": c.Pong(99.5, 1000.25),
        "answer": c.Answer("v=0\r\n"),
        "stats": c.Stats(_VALUES),
    },
    "gateway": {
        "open": w.OpenSession("s-1", "zoo", 5, b"\x01\x02", _FRAMES),
        "open_smallest": w.OpenSession("s-1"),
        "input": w.SessionInput("s-1", _STATE, 10.0),
        "observation": w.SessionObservation("s-1", _OBSERVATION),
        "depth": w.SessionDepth("s-1", True),
        "restart": w.RestartSession("s-1", "city", 6, _FRAMES),
        "close": w.CloseSession("s-1"),
        "frame_ack": w.FrameAck("s-1", 7),
        "shift_phase": w.ShiftPhase("s-1", -4.5),
        "ping": w.WorkerPing(1000.25, ("s-1", "s-2")),
        "shutdown": w.Shutdown(),
    },
    "worker": {
        "loading": w.Loading("reading weights", 0.25),
        "ready": w.Ready(_WORLD, 4, "jacobi"),
        "opened": w.Opened("s-1"),
        "failed": w.Failed("s-1", "invalid_input", "message", "expected", "got", "remedy"),
        "frame": w.RawFrame("s-1", _HEADER, memoryview(b"\x10\x80\x80")),
        "frame_with_depth": w.RawFrame("s-1", _HEADER, memoryview(b"\x10\x80\x80\xe8\x03"), 0.001),
        "saved_session": w.SavedSession("s-1", memoryview(b"\x01\x02\x03")),
        "pong": w.WorkerPong(1000.25),
        "stats": w.WorkerStats(_VALUES),
    },
}


def _input(**changes: object) -> dict[str, object]:
    return {"type": "input", "states": [{"sequence": 1, "time": 5.0, **changes}]}


def _changed(direction: str, name: str, **changes: object) -> dict[str, Any]:
    return VALID[direction][name].as_dict() | {"type": name} | changes


def _nested(levels: int) -> object:
    value: object = []
    for _ in range(levels):
        value = [value]
    return value


# What has to be refused: bytes, or values that are encoded to them.
_INVALID: Final[Mapping[str, Mapping[str, object]]] = {
    "client": {
        "axis_nan": _input(axes=[math.nan, 0, 0, 0]),
        "axis_infinite": _input(axes=[0, math.inf, 0, 0]),
        "axis_out_of_range": _input(axes=[0, 0, 1.01, 0]),
        "axes_too_few": _input(axes=[0, 0, 0]),
        "axes_a_string": _input(axes="0000"),
        "buttons_too_many": _input(buttons=1 << 17),
        "buttons_a_boolean": _input(buttons=True),
        "keys_too_many": _input(keys=["KeyW"] * 17),
        "key_too_long": _input(keys=["K" * 25]),
        "pointer_nan": _input(pointer=[0, math.nan]),
        "sequence_negative": _input(sequence=-1),
        "sequence_a_float": _input(sequence=1.0),
        "time_missing": {"type": "input", "states": [{"sequence": 1}]},
        "states_empty": {"type": "input", "states": []},
        "states_too_many": {"type": "input", "states": [{"sequence": 1, "time": 5.0}] * 5},
        "camera_not_a_rotation": _input(camera={"orientation": [0, 0, 0, 0]}),
        "camera_field_of_view": _input(camera={"fov_y": 180}),
        "hello_version": {"type": "hello", "version": 1, "role": 7},
        "hello_role": _changed("client", "hello", role="owner"),
        "hello_client_too_long": _changed("client", "hello", client="x" * 65),
        "hello_too_large": _changed("client", "hello", more="x" * MAX_HELLO),
        "start_too_many_prompt_frames": {"type": "start", "prompt_frames": 10},
        "start_seed_negative": {"type": "start", "seed": -1},
        "prompt_frame_index": {
            "type": "prompt_frame",
            "index": 2,
            "count": 2,
            "part": 0,
            "parts": 1,
            "data": b"",
        },
        "prompt_frame_text": {
            "type": "prompt_frame",
            "index": 0,
            "count": 1,
            "part": 0,
            "parts": 1,
            "data": "text",
        },
        "observe_depth_scale": {
            "type": "observe",
            "observation": {
                "camera": {},
                "width": 2,
                "height": 1,
                "rgb": bytes(6),
                "depth": bytes(4),
                "depth_scale": 0.0,
            },
        },
        "credit_too_much": {"type": "credit", "frames": 9},
        "ping_without_time": {"type": "ping"},
        "type_unknown": {"type": "fly"},
        "type_missing": {"time": 1.0},
        "type_of_the_server": {"type": "welcome"},
        "no_map": [],
        "empty": b"",
        "not_utf8": b"\x81\xa4type\xa2\xff\xff",
        "trailing_byte": msgspec.msgpack.encode({"type": "bye"}) + b"\x00",
        "map_too_long": b"\xdf\xff\xff\xff\xff",
        "string_too_long": b"\x81\xa4type\xdb\xff\xff\xff\xff",
        "nested_too_deep": b"\x82\xa4type\xa3bye\xa1x" + b"\x91" * 4000 + b"\xc0",
    },
    "server": {
        "welcome_version": _changed("server", "welcome", version=1),
        "welcome_odd_width": _changed("server", "welcome", world=_WORLD.as_dict() | {"width": 321}),
        "status_state": {"type": "status", "state": "flying"},
        "frame_without_header": {"type": "frame", "image": _JPEG},
        "frame_image_text": _changed("server", "frame", image="text", depth=None),
        "stats_too_deep": {"type": "stats", "values": {"x": _nested(20)}},
    },
    "gateway": {
        "open_prompt_frames": {
            "type": "open",
            "session": "s",
            "prompt_frames": {"count": 1, "height": 2, "width": 3, "rgb": bytes(17)},
        }
    },
    "worker": {"failed_code": {"type": "failed", "session": "s", "code": "odd", "message": ""}},
}


def _encoded(value: object) -> bytes:
    return value if isinstance(value, bytes) else msgspec.msgpack.encode(value)


INVALID: Final[Mapping[str, Mapping[str, bytes]]] = {
    direction: {name: _encoded(value) for name, value in examples.items()}
    for direction, examples in _INVALID.items()
}
