"""ZMTP 3.1 without encryption, as a ROUTER speaks it to DEALERs (ZeroMQ RFC 37). Pure: no sockets.

A peer sends a greeting, the command READY, then messages of one or more frames. A frame is a flag
byte, its size in 1 or 8 bytes, and its body.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from worldbridge.bridge.protocol import BridgeError, Buffer

__all__ = [
    "GREETING",
    "GREETING_SIZE",
    "MAX_COMMAND",
    "READY",
    "check_greeting",
    "check_ready",
    "error_command",
    "frame_size",
    "frames",
    "is_command",
    "is_long",
    "pong",
    "properties",
    "split_command",
]

GREETING_SIZE: Final = 64
MAX_COMMAND: Final = 512  # bytes; READY of libzmq has 30, and an identity 255 at most
_MORE, _LONG, _COMMAND = 1, 2, 4
_MECHANISM: Final = b"NULL"
_MAX_CONTEXT: Final = 16  # bytes that a PING may want back


def _greeting(mechanism: bytes) -> bytes:
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


GREETING: Final = _greeting(_MECHANISM)


def check_greeting(greeting: bytes) -> None:
    """Raise BridgeError unless a peer speaks ZMTP 3 without keys."""
    if greeting[0] != 0xFF or greeting[9] != 0x7F:
        raise _refused("this is no ZMTP", "a greeting of ZMTP 3", repr(greeting[:10]))
    if greeting[10] < 3:
        raise _refused("this ZMTP is too old", "version 3", f"version {greeting[10]}")
    mechanism = greeting[12:32].rstrip(b"\0")
    if mechanism != _MECHANISM:
        expected = "the mechanism NULL: this server has no keys"
        raise _refused("the client wants keys", expected, repr(mechanism))


def check_ready(name: bytes, body: bytes) -> bytes:
    """Return the identity that a READY asks for, mostly empty. Raises BridgeError."""
    if name != b"READY":
        raise _refused("the handshake is out of order", "READY", repr(name[:16]))
    found = properties(body)
    kind = found.get(b"socket-type", b"")
    if kind != b"DEALER":
        raise _refused("this socket cannot play", "a DEALER", repr(kind[:16]))
    return found.get(b"identity", b"")


def properties(body: bytes) -> dict[bytes, bytes]:
    """Return the properties of a READY, by lower-case name. Raises BridgeError."""
    found, at = {}, 0
    while at < len(body):
        end = at + 1 + body[at]
        size = int.from_bytes(body[end : end + 4], "big")
        name, value = body[at + 1 : end], body[end + 4 : end + 4 + size]
        at = end + 4 + size
        if at > len(body):
            raise _refused("a READY is cut short", f"{at} bytes", f"{len(body)} bytes")
        found[name.lower()] = value
    return found


def command(name: bytes, body: bytes) -> bytes:
    """Return the frame of a command of at most 255 bytes."""
    content = bytes([len(name)]) + name + body
    return bytes([_COMMAND, len(content)]) + content


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


READY: Final = command(b"READY", _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b""))


def error_command(reason: str) -> bytes:
    """Return the ERROR that ends a handshake; the reason is cut at 200 characters."""
    text = reason.encode("ascii", "replace")[:200]
    return command(b"ERROR", bytes([len(text)]) + text)


def pong(body: bytes) -> bytes:
    """Return the answer to a PING: a time to live, and what it wants back."""
    return command(b"PONG", body[2 : 2 + _MAX_CONTEXT])


def split_command(content: bytes) -> tuple[bytes, bytes]:
    """Return the name and the body of a command."""
    end = 1 + content[0] if content else 0
    return content[1:end], content[end:]


def is_long(flags: int) -> bool:
    """Return whether the size has 8 bytes, not 1."""
    return bool(flags & _LONG)


def is_command(flags: int) -> bool:
    """Return whether a frame is a command, not a part of a message."""
    return bool(flags & _COMMAND)


def frame_size(flags: int, size: bytes, most: int) -> int:
    """Return the size of a frame. Raises BridgeError for one that no client may send."""
    length = int.from_bytes(size, "big")
    if flags & ~(_MORE | _LONG | _COMMAND):
        raise _refused("a frame has unknown flags", "flags of ZMTP 3", f"{flags:#04x}")
    if flags & _MORE:
        text, remedy = "a message has too many parts", "Send each message by itself."
        raise BridgeError("bad_message", text, "one part", "more parts", remedy)
    limit = MAX_COMMAND if flags & _COMMAND else most
    if length > limit:
        text, remedy = "a frame is too large", "Send less at once."
        expected = f"at most {limit} bytes"
        raise BridgeError("message_too_large", text, expected, f"{length} bytes", remedy)
    return length


def frames(parts: Sequence[Buffer]) -> list[Buffer]:
    """Return a message in frames, ready to be written."""
    found: list[Buffer] = []
    for number, part in enumerate(parts):
        more = _MORE if number < len(parts) - 1 else 0
        size = len(part)
        found.append(struct.pack(">BQ", more | _LONG, size) if size > 255 else bytes([more, size]))
        found.append(part)
    return found


def _refused(text: str, expected: str, got: str) -> BridgeError:
    remedy = "Connect a ZeroMQ DEALER, as docs/zeromq.md describes it."
    return BridgeError("bad_message", text, expected, got, remedy)
