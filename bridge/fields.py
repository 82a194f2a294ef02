"""Bytes to checked values: msgpack under limits, then typed reads that name a refused field.

Messages come from anyone who can open a socket: no length, type or number is trusted here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import msgpack

from worldbridge.bridge.errors import BAD_MESSAGE, MESSAGE_TOO_LARGE, ProtocolError

MAX_DEPTH: Final = 8
MAX_ITEMS: Final = 1024
MAX_INT: Final = 2**53 - 1  # the largest integer that a JavaScript client can hold
_MAX_SHOWN: Final = 80

Text = TypeVar("Text", bound=str)
Item = TypeVar("Item")
Buffer = bytes | bytearray | memoryview
_NIL: Final = b"\xc0"
_BINARY: Final = frozenset((0xC4, 0xC5, 0xC6))  # bin 8, bin 16, bin 32


def show(value: object) -> str:
    """A value as it may be quoted in an error: short, printable, never the whole message."""
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def unpack_map(data: Buffer, max_bytes: int) -> dict[str, Any]:
    """One msgpack map with string keys.

    Raises:
        ProtocolError: message_too_large beyond `max_bytes`, bad_message for anything malformed.
    """
    if len(data) > max_bytes:
        raise ProtocolError(
            MESSAGE_TOO_LARGE,
            "the message is too large",
            f"at most {max_bytes} bytes",
            f"{len(data)} bytes",
            "Send smaller messages.",
        )
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_str_len=max_bytes,
            max_bin_len=max_bytes,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
            ext_hook=_refuse_extension,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise _malformed(f"{type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise _malformed(f"a {type(value).__name__} at the top level")
    _check_shape(value)
    return value


def _malformed(got: str) -> ProtocolError:
    return ProtocolError(
        BAD_MESSAGE,
        "the message is not valid msgpack",
        "one msgpack map with string keys",
        got[:200],
        "Encode each message as one msgpack map.",
    )


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code} is not allowed")


def _check_shape(root: dict[Any, Any]) -> None:
    """Refuse nesting beyond MAX_DEPTH and keys that are not strings, without recursion."""
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if not all(isinstance(key, str) for key in value):
                    raise _malformed("a key that is not a string")
                deeper.extend(value.values())
            else:
                deeper.extend(value)
        level = [value for value in deeper if isinstance(value, dict | list)]
        if not level:
            return
    raise _malformed(f"more than {MAX_DEPTH} levels of nesting")


def cut_out(data: Buffer, key: str) -> tuple[bytes, bytes] | None:
    """A message without the value of its `key`, and that value. None if it has none.

    Nothing is built on the way: whoever sends megabytes may fill them with nested maps, which
    take a hundred times as much memory. The rest can then be unpacked under an ordinary limit.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    wanted = msgpack.packb(key)
    try:
        for _ in range(min(unpacker.read_map_header(), MAX_ITEMS)):
            start = unpacker.tell()
            unpacker.skip()
            value = unpacker.tell()
            unpacker.skip()
            if data[start:value] == wanted:
                end = unpacker.tell()
                return b"".join((data[:value], _NIL, data[end:])), bytes(data[value:end])
    except (ValueError, msgpack.UnpackException):
        pass  # whoever unpacks it says what is wrong with it
    return None


def unpack_binaries(data: bytes, most: int) -> list[bytes] | None:
    """A packed array of at most `most` byte strings; None if it is anything else."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    found: list[bytes] = []
    try:
        count = unpacker.read_array_header()
        while count <= most and len(found) < count:
            if data[unpacker.tell()] not in _BINARY:
                return None
            found.append(unpacker.unpack())
    except (ValueError, IndexError, msgpack.UnpackException):
        return None
    return found if count <= most else None


class Fields:
    """Typed reads from one decoded map; every refusal names the path, e.g. `snapshots[0].axes`."""

    __slots__ = ("_code", "_path", "_values")

    def __init__(self, values: Mapping[str, Any], path: str = "", code: str = BAD_MESSAGE) -> None:
        self._values = values
        self._path = path
        self._code = code

    def refuse(self, key: str, expected: str, got: object) -> NoReturn:
        path = f"{self._path}.{key}" if self._path else key
        raise ProtocolError(
            self._code,
            f"the field `{path}` is not valid",
            expected,
            show(got),
            f"Correct `{path}`; docs/protocol.md lists every field.",
        )

    def has(self, key: str) -> bool:
        return self._values.get(key) is not None

    def raw(self) -> Mapping[str, Any]:
        return self._values

    def integer(self, key: str, low: int = 0, high: int = MAX_INT) -> int:
        value = self._values.get(key)
        if type(value) is not int or not low <= value <= high:
            self.refuse(key, f"an integer in [{low}, {high}]", value)
        return value

    def number(self, key: str, low: float = -1e300, high: float = 1e300) -> float:
        return self._number(key, self._values.get(key), low, high)

    def numbers(
        self, key: str, count: int, low: float = -1e300, high: float = 1e300
    ) -> tuple[float, ...]:
        value = self._values.get(key)
        if not isinstance(value, list) or len(value) != count:
            self.refuse(key, f"a list of {count} numbers", value)
        return tuple(
            self._number(f"{key}[{index}]", item, low, high) for index, item in enumerate(value)
        )

    def _number(self, key: str, value: object, low: float, high: float) -> float:
        if type(value) is not float and type(value) is not int:
            self.refuse(key, "a number", value)
        # NaN fails every comparison, so it is refused here as well
        if not low <= value <= high or not math.isfinite(value):
            self.refuse(key, f"a finite number in [{low:g}, {high:g}]", value)
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._values.get(key)
        if not isinstance(value, bool):
            self.refuse(key, "a boolean", value)
        return value

    def text(self, key: str, max_length: int) -> str:
        return self._text(key, self._values.get(key), max_length)

    def texts(self, key: str, max_count: int, max_length: int) -> tuple[str, ...]:
        value = self._values.get(key)
        if not isinstance(value, list) or len(value) > max_count:
            self.refuse(key, f"a list of at most {max_count} strings", value)
        return tuple(
            self._text(f"{key}[{index}]", item, max_length) for index, item in enumerate(value)
        )

    def _text(self, key: str, value: object, max_length: int) -> str:
        if not isinstance(value, str) or len(value) > max_length:
            self.refuse(key, f"a string of at most {max_length} characters", value)
        return value

    def choice(self, key: str, allowed: Sequence[Text]) -> Text:
        value = self._values.get(key)
        for option in allowed:
            if option == value:
                return option
        self.refuse(key, "one of " + ", ".join(repr(str(option)) for option in allowed), value)

    def binary(self, key: str, max_bytes: int) -> bytes:
        value = self._values.get(key)
        if not isinstance(value, bytes) or len(value) > max_bytes:
            self.refuse(key, f"at most {max_bytes} bytes", value)
        return value

    def binaries(self, key: str, most: int) -> tuple[bytes, ...]:
        value = self._values.get(key)
        if not isinstance(value, list):
            self.refuse(key, f"a list of at most {most} byte strings", value)
        if len(value) > most:
            self.refuse(key, f"at most {most}", len(value))
        for index, item in enumerate(value):
            if not isinstance(item, bytes):
                self.refuse(f"{key}[{index}]", "a byte string", item)
        return tuple(value)

    def child(self, key: str) -> Fields:
        return self._child(key, self._values.get(key))

    def children(self, key: str, low: int, high: int) -> list[Fields]:
        value = self._values.get(key)
        if not isinstance(value, list) or not low <= len(value) <= high:
            self.refuse(key, f"a list of {low} to {high} maps", value)
        return [self._child(f"{key}[{index}]", item) for index, item in enumerate(value)]

    def _child(self, key: str, value: object) -> Fields:
        if not isinstance(value, dict):
            self.refuse(key, "a map", value)
        return Fields(value, f"{self._path}.{key}" if self._path else key, self._code)

    def maybe(self, key: str, read: Callable[[], Item]) -> Item | None:
        """None when the field is absent or nil, otherwise what `read` makes of it."""
        return read() if self.has(key) else None
