"""The bytes of every message of protocol version 1, with example values.

A reference for later versions: what these messages carry, theirs must carry too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgpack
import pytest

from worldbridge.bridge import protocol as p

GOLDEN = json.loads((Path(__file__).parent / "messages" / "version1.json").read_text())

POSE = p.Pose((1.5, 1.6, -2.25), (0.0, 0.6, 0.0, 0.8), 62.5)
CONTROLLER = p.ControllerState(
    41, 1234.5, (0.25, -1.0, 0.5, 1.0), 65_537, ("KeyW", "ShiftLeft"), (320.5, -12.0), POSE
)
SPEC = p.WorldSpec(
    "tiny", "Tiny world", 320, 192, 29.97, 8, ("city", "zoo"),
    ("strafe", "forward", "yaw", "pitch"), 5, "ar", 9, ("actions", "camera", "text"),
)  # fmt: skip
HEADER = p.FrameHeader(
    7, 41, 1234.5, 10.0, 10.25, 30.5, 44.75, POSE, 45.0, 50.5, 50.75, 4_000_000_000, 3, 2
)
PICTURES = p.PromptFrames(2, 1, 2, bytes(range(12)))
FILES = (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n")
VALUES = {"fps": 29.5, "sessions": [{"name": "a", "dropped": 0}], "mode": None}

CLIENT: dict[str, p.ClientMessage] = {
    "hello": p.Hello(
        "page 1.0", "spectator", "tiny", "zoo", 2**53 - 1, "webrtc", "resume-1", "secret", 1, FILES
    ),
    "hello, smallest": p.Hello(),
    "start": p.Start("city", 5, FILES),
    "start, smallest": p.Start(),
    "input": p.Input((CONTROLLER, p.ControllerState(42, 1250.0))),
    "ping": p.Ping(99.5),
    "offer": p.Offer("v=0\r\n"),
    "shown": p.FrameShown(7, 1300.25, 1310.5, -5.5, 59.94),
    "shown, smallest": p.FrameShown(8, 1300.25, 1310.5),
    "stats": p.StatsRequest(),
    "bye": p.Bye(),
}
SERVER: dict[str, p.ServerMessage] = {
    "welcome": p.Welcome("worldbridge 0", "s-1", "resume-1", "player", SPEC, p.Seats(1, 4)),
    "status": p.Status("loading", "reading weights", 0.25),
    "status, smallest": p.Status("playing"),
    "frame": p.Frame(HEADER, FILES[0]),
    "frame, header alone": p.Frame(HEADER),
    "error": p.Error("invalid_input", "message", "expected", "got", "remedy", False),
    "pong": p.Pong(99.5, 1000.25),
    "answer": p.Answer("v=0\r\n"),
    "stats": p.Stats(VALUES),
}
GATEWAY: dict[str, p.GatewayMessage] = {
    "open": p.OpenSession("s-1", "zoo", 5, b"\x01\x02", PICTURES),
    "open, smallest": p.OpenSession("s-1"),
    "input": p.SessionInput("s-1", CONTROLLER, 10.0),
    "start": p.RestartSession("s-1", "city", 6, PICTURES),
    "close": p.CloseSession("s-1"),
    "ack": p.FrameAck("s-1", 7),
    "shift": p.ShiftPhase("s-1", -4.5),
    "ping": p.WorkerPing(1000.25),
    "shutdown": p.Shutdown(),
}
WORKER: dict[str, p.WorkerMessage] = {
    "loading": p.Loading("reading weights", 0.25),
    "ready": p.Ready(SPEC, 4, "jacobi"),
    "opened": p.Opened("s-1"),
    "failed": p.Failed("s-1", "invalid_input", "message", "expected", "got", "remedy"),
    "frame": p.RawFrame("s-1", HEADER, b"\x10\x80\x80"),
    "snapshot": p.SessionSnapshot("s-1", b"\x01\x02\x03"),
    "pong": p.WorkerPong(1000.25),
    "stats": p.WorkerStats(VALUES),
}
GROUPS: dict[str, dict[str, Any]] = {
    "client": CLIENT, "server": SERVER, "gateway": GATEWAY, "worker": WORKER,
}  # fmt: skip


def encoded(group: str, message: Any) -> list[bytes]:
    """Return the parts of a message; only those to and from workers may have two."""
    if group in ("client", "server"):
        return [p.encode(message)]
    return [bytes(part) for part in p.encode_parts(message)]


def decoded(group: str, parts: list[bytes]) -> Any:
    """Return the message of some parts."""
    if group == "worker":
        return p.decode_worker(*parts)
    reader = {"client": p.decode_client, "server": p.decode_server, "gateway": p.decode_gateway}
    return reader[group](parts[0])


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in GROUPS for name in GROUPS[group]]
)
def test_bytes_are_the_golden_ones_both_ways(group: str, name: str) -> None:
    message = GROUPS[group][name]
    parts = [bytes.fromhex(part) for part in GOLDEN[group][name]["parts"]]
    assert encoded(group, message) == parts
    assert decoded(group, parts) == message
    assert GOLDEN[group][name]["values"] == plain(msgpack.unpackb(parts[0]))


def test_every_message_has_an_example() -> None:
    kinds = {
        "client": p.ClientMessage, "server": p.ServerMessage, "gateway": p.GatewayMessage,
        "worker": p.WorkerMessage,
    }  # fmt: skip
    for group, examples in GROUPS.items():
        assert set(GOLDEN[group]) == set(examples)
        assert {type(message) for message in examples.values()} == set(get_args(kinds[group]))


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: bytes as {"hex": ...}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
