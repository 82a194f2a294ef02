"""Bytes to messages and back. Any bytes are a message or a ProtocolError.

Messages come from anyone who can open a socket. Lengths are limited before anything is built;
msgspec builds only what the types name, and skips the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar, get_args

import msgspec
from msgspec import inspect

from worldbridge.bridge.protocol.client import ClientMessage, Hello, ServerMessage
from worldbridge.bridge.protocol.errors import ErrorCode, ProtocolError
from worldbridge.bridge.protocol.types import (
    MAX_CLIENT_MESSAGE,
    MAX_HELLO,
    MAX_INPUT,
    MAX_OBSERVATION,
    MAX_PART_MESSAGE,
    MAX_PAYLOAD,
    MAX_SERVER_MESSAGE,
    PROTOCOL_VERSION,
    Buffer,
)
from worldbridge.bridge.protocol.worker import (
    NO_PAYLOAD,
    GatewayMessage,
    RawFrame,
    SavedSession,
    WorkerMessage,
)

__all__ = [
    "CLIENT_LIMITS",
    "MAX_DEPTH",
    "decode_client",
    "decode_gateway",
    "decode_server",
    "decode_worker",
    "encode",
    "encode_parts",
]

MAX_DEPTH: Final = 16
CLIENT_LIMITS: Final[Mapping[str, int]] = {
    "hello": MAX_HELLO,
    "input": MAX_INPUT,
    "observe": MAX_OBSERVATION,
    "prompt_depth": MAX_PART_MESSAGE,
    "prompt_frame": MAX_PART_MESSAGE,
}
_CODES: Final[Mapping[str, ErrorCode]] = {
    "input": "invalid_input",
    "observe": "invalid_input",
    "prompt_depth": "bad_prompt_frame",
    "prompt_frame": "bad_prompt_frame",
}
_MAX_SHOWN: Final = 80

Message = TypeVar("Message")

_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(message: ClientMessage | ServerMessage | GatewayMessage | WorkerMessage) -> bytes:
    """Return the MessagePack map of a message, `type` first and without a payload."""
    if isinstance(message, RawFrame | SavedSession):
        message = message.replace(payload=NO_PAYLOAD)
    return _ENCODER.encode(message)


def encode_parts(message: GatewayMessage | WorkerMessage) -> list[Buffer]:
    """Return the parts of a ZeroMQ message: the map, and the payload if the message has one."""
    if isinstance(message, RawFrame | SavedSession):
        return [encode(message), message.payload]
    return [encode(message)]


def _tag(struct: type) -> str:
    return str(struct.__struct_config__.tag)  # type: ignore[attr-defined]


class _Reader:
    """Decodes the messages of one direction."""

    def __init__(self, kinds: Any, most: int, limits: Mapping[str, int] | None = None) -> None:
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._structs = {_tag(kind): kind for kind in get_args(kinds)}
        self._limits = limits or {}
        self._most = most
        self._longest = max(most, *self._limits.values(), 0)

    def read(self, data: Buffer) -> Any:
        """Return the message. Raises ProtocolError."""
        if len(data) > MAX_HELLO:
            self._check_length(data)
        try:
            message = self._decoder.decode(data)
        except msgspec.ValidationError as error:
            raise self._refusal(str(error), data) from error
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise _malformed(f"{type(error).__name__}: {error}") from error
        values = getattr(message, "values", None)
        if values is not None and _deeper(values, MAX_DEPTH - 1):
            raise _malformed(f"more than {MAX_DEPTH} levels of nesting")
        return message

    def _check_length(self, data: Buffer) -> None:
        name = _peek(data)
        limit = self._limits.get(name, self._most)
        if len(data) > limit:
            raise ProtocolError(
                "message_too_large",
                "the message is too large",
                f"at most {limit} bytes" + (f" for {name}" if name in self._limits else ""),
                f"{len(data)} bytes",
                "Send smaller messages; prompt frames travel in parts.",
                name if name in self._structs else "",
            )

    def _refusal(self, text: str, data: Buffer) -> ProtocolError:
        """Map an error of msgspec, such as "Expected `int`, got `str` - at `$.states[0].axes`"."""
        root = _plain(data) if len(data) <= MAX_CLIENT_MESSAGE else None
        name = root.get("type") if isinstance(root, dict) else _peek(data)
        struct = self._structs.get(name) if isinstance(name, str) else None
        if isinstance(root, dict) and struct is None:
            return ProtocolError(
                "unknown_type",
                "the message has an unknown type",
                "one of " + ", ".join(sorted(self._structs)),
                _show(name),
                "Check the `type` field against docs/protocol.md.",
                "type",
            )
        if struct is Hello and isinstance(root, dict) and root.get("version") != PROTOCOL_VERSION:
            return wrong_version(root.get("version"))
        if struct is None:
            return _malformed(text)
        fault, _, place = text.partition(" - at ")
        steps = _STEPS.findall(place.partition("$")[2].rstrip("`"))
        got = _show(_at(root, steps)) if root is not None else f"a message of {len(data)} bytes"
        expected = fault.partition(", got ")[0].removeprefix("Expected ").replace("`", "")
        if missing := _MISSING.fullmatch(fault):
            steps, expected, got = [*steps, "." + missing[1]], "a value", "nothing"
        elif fault.startswith("Invalid enum value"):
            expected = _choices(struct, steps)
        path = f"{name}{''.join(steps)}"
        return ProtocolError(
            _CODES.get(str(name), "bad_message"),
            f"the field `{path}` is not valid",
            expected,
            got,
            f"Correct `{path}`; docs/protocol.md lists every field.",
            path,
        )


_STEPS: Final = re.compile(r"\.[^.\[]+|\[[^\]]*\]")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_TYPE_KEY: Final = re.compile(
    rb"(?:[\x80-\x8f]|\xde..|\xdf....)\xa4type[\xa0-\xbf]([a-z_]{1,31})", re.DOTALL
)

_client = _Reader(ClientMessage, MAX_CLIENT_MESSAGE, CLIENT_LIMITS)
_server = _Reader(ServerMessage, MAX_SERVER_MESSAGE)
_gateway = _Reader(GatewayMessage, MAX_PAYLOAD + MAX_CLIENT_MESSAGE)
_worker = _Reader(WorkerMessage, MAX_SERVER_MESSAGE)


def decode_client(data: Buffer) -> ClientMessage:
    """Return a message that a client sent. Raises ProtocolError for any bytes that are not one."""
    message: ClientMessage = _client.read(data)
    if isinstance(message, Hello) and message.version != PROTOCOL_VERSION:
        raise wrong_version(message.version)
    return message


def decode_server(data: Buffer) -> ServerMessage:
    """Return a message that the gateway sent to a client. Raises ProtocolError."""
    message: ServerMessage = _server.read(data)
    return message


def decode_gateway(data: Buffer) -> GatewayMessage:
    """Return a message that the gateway sent to a worker. Raises ProtocolError."""
    message: GatewayMessage = _gateway.read(data)
    return message


def decode_worker(data: Buffer, payload: Buffer | None = None) -> WorkerMessage:
    """Return a message that a worker sent, from the map and the second part if there is one.

    Raises ProtocolError, also for a payload that is missing, unexpected, or too large.
    """
    message: WorkerMessage = _worker.read(data)
    if isinstance(message, RawFrame | SavedSession):
        if payload is None or len(payload) > MAX_PAYLOAD:
            got = "none" if payload is None else f"{len(payload)} bytes"
            raise _bad_payload(f"a second part of at most {MAX_PAYLOAD} bytes", got)
        return message.replace(payload=memoryview(payload))
    if payload is not None:
        raise _bad_payload("no second part", f"{len(payload)} bytes")
    return message


def wrong_version(got: object) -> ProtocolError:
    """Return the error for a client of another protocol version."""
    return ProtocolError(
        "version_mismatch",
        "client and server speak different versions of the protocol",
        f"version {PROTOCOL_VERSION}",
        f"version {_show(got)}",
        "Update the older of the two.",
        "hello.version",
    )


def _bad_payload(expected: str, got: str) -> ProtocolError:
    return ProtocolError("bad_message", "the payload is not valid", expected, got, path="payload")


def _malformed(got: str) -> ProtocolError:
    return ProtocolError(
        "bad_message",
        "the message is not valid MessagePack",
        "one MessagePack map with string keys",
        got[:200],
        "Encode each message as one MessagePack map.",
    )


def _peek(data: Buffer) -> str:
    """Return the type of a message whose first key is `type`, otherwise nothing."""
    found = _TYPE_KEY.match(data[:48])
    return found[1].decode() if found else ""


def _plain(data: Buffer) -> object:
    """Return what the bytes hold, whether or not it is a message; None if nothing can be read."""
    try:
        return msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None


def _at(value: Any, steps: Sequence[str]) -> object:
    for step in steps:
        try:
            value = value[int(step[1:-1])] if step[0] == "[" else value[step[1:]]
        except (ValueError, TypeError, LookupError):
            break
    return value


def _show(value: object) -> str:
    """Return a value as an error may quote it: short, printable, never the whole message."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes | str | list | dict) and len(value) > _MAX_SHOWN:
        return f"{type(value).__name__} of length {len(value)}"
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _choices(struct: type, steps: Sequence[str]) -> str:
    """Return the values that the field at the end of a path may have."""
    kind: Any = inspect.type_info(struct)
    for step in steps:
        kind = _bare(kind)
        if step[0] == ".":
            kind = next(field.type for field in kind.fields if field.encode_name == step[1:])
        else:
            kind = getattr(kind, "item_type", None) or kind.item_types[int(step[1:-1])]
    return "one of " + ", ".join(repr(value) for value in _bare(kind).values)


def _bare(kind: Any) -> Any:
    """Return a type without its description and without nil."""
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        else:
            kind = next(t for t in kind.types if not isinstance(t, inspect.NoneType))
    return kind


def _deeper(value: object, levels: int) -> bool:
    """Return whether a value of plain maps and lists nests deeper than `levels`."""
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in items)
