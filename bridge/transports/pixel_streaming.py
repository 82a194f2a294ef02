"""Pixel Streaming's data channel: an Unreal player's input messages as controller states.

Layout: one byte for the type, then little-endian fields; text is a uint16 of characters and UTF-16.
The numbers are those of Epic's front end for Unreal 5 (`StreamMessageController`). Pure: no
sockets, no clocks.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from worldbridge.bridge.protocol import ControllerState, ProtocolError

__all__ = ["FromStreamer", "PlayerInput", "Request", "ToStreamer", "text_message"]

MAX_MESSAGE: Final = 8 * 1024  # bytes
MAX_PADS: Final = 8
NOMINAL: Final = (1280.0, 720.0)  # pixels of a player; messages have shares of its size only
TRIGGER_PRESSED: Final = 0.1


class ToStreamer(IntEnum):
    """Types of messages from players."""

    IFRAME_REQUEST = 0
    REQUEST_QUALITY_CONTROL = 1
    FPS_REQUEST = 2
    AVERAGE_BITRATE_REQUEST = 3
    START_STREAMING = 4
    STOP_STREAMING = 5
    LATENCY_TEST = 6
    REQUEST_INITIAL_SETTINGS = 7
    TEST_ECHO = 8
    DATA_CHANNEL_LATENCY_TEST = 9
    UI_INTERACTION = 50
    COMMAND = 51
    TEXTBOX_ENTRY = 52
    KEY_DOWN = 60
    KEY_UP = 61
    KEY_PRESS = 62
    MOUSE_ENTER = 70
    MOUSE_LEAVE = 71
    MOUSE_DOWN = 72
    MOUSE_UP = 73
    MOUSE_MOVE = 74
    MOUSE_WHEEL = 75
    MOUSE_DOUBLE = 76
    TOUCH_START = 80
    TOUCH_END = 81
    TOUCH_MOVE = 82
    PAD_BUTTON_PRESSED = 90
    PAD_BUTTON_RELEASED = 91
    PAD_ANALOG = 92
    PAD_CONNECTED = 93
    PAD_DISCONNECTED = 94


class FromStreamer(IntEnum):
    """Types of messages to players."""

    QUALITY_CONTROL_OWNERSHIP = 0
    RESPONSE = 1
    COMMAND = 2
    LATENCY_TEST = 6
    INITIAL_SETTINGS = 7
    TEST_ECHO = 11
    INPUT_CONTROL_OWNERSHIP = 12
    PAD_RESPONSE = 13
    DATA_CHANNEL_LATENCY_TEST = 14


_FIELDS: Final[Mapping[ToStreamer, str]] = {
    ToStreamer.KEY_DOWN: "<BB",
    ToStreamer.KEY_UP: "<B",
    ToStreamer.MOUSE_MOVE: "<HHhh",
    ToStreamer.PAD_BUTTON_PRESSED: "<BBB",
    ToStreamer.PAD_BUTTON_RELEASED: "<BBB",
    ToStreamer.PAD_ANALOG: "<BBd",
    ToStreamer.PAD_DISCONNECTED: "<B",
}
_TOUCH: Final = struct.Struct("<HHBBB")  # x, y, finger, force, valid
_TEXT: Final = frozenset(
    {
        ToStreamer.LATENCY_TEST,
        ToStreamer.TEST_ECHO,
        ToStreamer.DATA_CHANNEL_LATENCY_TEST,
        ToStreamer.UI_INTERACTION,
        ToStreamer.COMMAND,
    }
)

# `KeyboardEvent.keyCode` as browsers send it, and what Epic sends for keys that share one.
_KEYS: Final[Mapping[int, str]] = {
    **{ord(letter): f"Key{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
    **{ord(digit): f"Digit{digit}" for digit in "0123456789"},
    **{96 + digit: f"Numpad{digit}" for digit in range(10)},
    **{111 + number: f"F{number}" for number in range(1, 13)},
    8: "Backspace",
    9: "Tab",
    13: "Enter",
    16: "ShiftLeft",
    17: "ControlLeft",
    18: "AltLeft",
    20: "CapsLock",
    27: "Escape",
    32: "Space",
    33: "PageUp",
    34: "PageDown",
    35: "End",
    36: "Home",
    37: "ArrowLeft",
    38: "ArrowUp",
    39: "ArrowRight",
    40: "ArrowDown",
    45: "Insert",
    46: "Delete",
    106: "NumpadMultiply",
    107: "NumpadAdd",
    109: "NumpadSubtract",
    110: "NumpadDecimal",
    111: "NumpadDivide",
    173: "Minus",
    186: "Semicolon",
    187: "Equal",
    188: "Comma",
    189: "Minus",
    190: "Period",
    191: "Slash",
    192: "Backquote",
    219: "BracketLeft",
    220: "Backslash",
    221: "BracketRight",
    222: "Quote",
    253: "ShiftRight",
    254: "ControlRight",
    255: "AltRight",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A message that asks for something, instead of changing the controls."""

    kind: ToStreamer
    text: str = ""


@dataclass(slots=True)
class _Pad:
    axes: list[float] = field(default_factory=lambda: [0.0] * 4)
    buttons: set[int] = field(default_factory=set)


class PlayerInput:
    """One player's controls: changes come in, full states go out."""

    def __init__(self) -> None:
        self._sequence = 0
        self._pointer = (0.0, 0.0)
        self._keys: dict[str, None] = {}  # in the order in which they were pressed
        self._pads: dict[int, _Pad] = {}
        self._fingers: dict[int, tuple[float, float]] = {}

    def state(self, time: float) -> ControllerState:
        """Return the controls at a time (ms). Of several pads the strongest deflection counts."""
        pads = self._pads.values()
        axes = [max((pad.axes[i] for pad in pads), key=abs, default=0.0) for i in range(4)]
        buttons = 0
        for pad in pads:
            buttons |= sum(1 << button for button in pad.buttons)
        self._sequence += 1
        return ControllerState(
            self._sequence,
            time,
            axes=(axes[0], axes[1], axes[2], axes[3]),
            buttons=buttons,
            keys=tuple(self._keys)[-16:],
            pointer=self._pointer,
        )

    def release(self) -> None:
        """Let go of every key, button and stick."""
        self._keys.clear()
        self._pads.clear()
        self._fingers.clear()

    def receive(self, data: bytes) -> Request | None:
        """Apply a message; return it if it asks for something.

        Types that a later front end may have are ignored, as an Unreal streamer does.

        Raises:
            ProtocolError: its fields are cut short or out of range.
        """
        if not 1 <= len(data) <= MAX_MESSAGE:
            raise _malformed(f"1 to {MAX_MESSAGE} bytes", f"{len(data)} bytes")
        try:
            kind = ToStreamer(data[0])
        except ValueError:
            return None
        body = data[1:]
        if kind in _TEXT:
            return Request(kind, _text(body))
        if kind in (ToStreamer.TOUCH_START, ToStreamer.TOUCH_MOVE, ToStreamer.TOUCH_END):
            self._touch(kind, body)
            return None
        layout = _FIELDS.get(kind)
        if layout is None:
            return Request(kind)
        size = struct.calcsize(layout)
        if len(body) < size:
            raise _malformed(f"{size} bytes of fields for {kind.name}", f"{len(body)}")
        self._apply(kind, struct.unpack_from(layout, body))
        return None

    def connect_pad(self) -> int:
        """Return the number of a new pad. Raises ProtocolError for one too many."""
        number = next((i for i in range(MAX_PADS) if i not in self._pads), None)
        if number is None:
            raise _malformed(f"at most {MAX_PADS} pads", f"{MAX_PADS + 1}")
        self._pads[number] = _Pad()
        return number

    def _apply(self, kind: ToStreamer, fields: tuple[Any, ...]) -> None:
        match kind:
            case ToStreamer.KEY_DOWN:
                if (code := _KEYS.get(fields[0])) is not None:
                    self._keys.setdefault(code)
            case ToStreamer.KEY_UP:
                self._keys.pop(_KEYS.get(fields[0], ""), None)
            case ToStreamer.MOUSE_MOVE:
                self._move(fields[2] / 32767 / 2, fields[3] / 32767 / 2)
            case ToStreamer.PAD_DISCONNECTED:
                self._pads.pop(fields[0], None)
            case ToStreamer.PAD_ANALOG:
                self._analog(self._pad(fields[0]), fields[1], fields[2])
            case _:
                self._press(self._pad(fields[0]), fields[1], kind is ToStreamer.PAD_BUTTON_PRESSED)

    def _pad(self, number: int) -> _Pad:
        if number not in self._pads and len(self._pads) >= MAX_PADS:
            raise _malformed(f"at most {MAX_PADS} pads", f"{MAX_PADS + 1}")
        return self._pads.setdefault(number, _Pad())

    def _analog(self, pad: _Pad, index: int, value: float) -> None:
        """Set an axis: 1 to 4 are the sticks with Y up, 5 and 6 the triggers."""
        if not -1.0 <= value <= 1.0:  # NaN as well
            raise _malformed("an axis from -1 to 1", f"{value:g}")
        if index in (5, 6):
            self._press(pad, index + 1, value > TRIGGER_PRESSED)
        elif 1 <= index <= 4:
            pad.axes[index - 1] = -value if index % 2 == 0 else value

    def _press(self, pad: _Pad, button: int, pressed: bool) -> None:
        if button <= 16:
            (pad.buttons.add if pressed else pad.buttons.discard)(button)

    def _touch(self, kind: ToStreamer, body: bytes) -> None:
        """Turn the view as a finger drags it."""
        count = body[0] if body else 0
        if count > 16 or len(body) < 1 + count * _TOUCH.size:
            raise _malformed("up to 16 touches of 7 bytes", f"{count} in {len(body)} bytes")
        for i in range(count):
            x, y, finger, _, _ = _TOUCH.unpack_from(body, 1 + i * _TOUCH.size)
            at, before = (x / 65536, y / 65536), self._fingers.pop(finger, None)
            if kind is ToStreamer.TOUCH_MOVE and before is not None:
                self._move(at[0] - before[0], at[1] - before[1])
            if kind is not ToStreamer.TOUCH_END and len(self._fingers) < 16:
                self._fingers[finger] = at

    def _move(self, x: float, y: float) -> None:
        """Move the pointer by shares of the player's width and height."""
        self._pointer = (self._pointer[0] + x * NOMINAL[0], self._pointer[1] + y * NOMINAL[1])


def text_message(kind: FromStreamer, value: object) -> bytes:
    """Return a message to a player with text, or anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    return bytes([kind]) + text.encode("utf-16-le")


def _text(body: bytes) -> str:
    length = int.from_bytes(body[:2], "little") * 2
    if len(body) < 2 + length:
        raise _malformed(f"{length} bytes of text", f"{max(0, len(body) - 2)}")
    return body[2 : 2 + length].decode("utf-16-le", "replace")


def _malformed(expected: str, got: str) -> ProtocolError:
    return ProtocolError(
        "bad_message",
        "this is not a message of Pixel Streaming",
        expected,
        got,
        "Use the front end for Unreal 5.4 or later.",
    )
