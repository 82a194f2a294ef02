"""Input messages of Epic's front end to controller states."""

from __future__ import annotations

import random
import struct

import pytest

from worldbridge.bridge.protocol import ProtocolError
from worldbridge.bridge.transports.pixel_streaming import (
    FromStreamer,
    PlayerInput,
    Request,
    ToStreamer,
    text_message,
)


def message(kind: ToStreamer, layout: str = "", *fields: float) -> bytes:
    return bytes([kind]) + struct.pack("<" + layout, *fields)


def test_keys_by_their_codes_also_those_that_repeat() -> None:
    player = PlayerInput()
    for code in (87, 253, 37):
        player.receive(message(ToStreamer.KEY_DOWN, "BB", code, 0))
    player.receive(message(ToStreamer.KEY_DOWN, "BB", 87, 1))
    assert player.state(5.0).keys == ("KeyW", "ShiftRight", "ArrowLeft")
    player.receive(message(ToStreamer.KEY_UP, "B", 87))
    player.receive(message(ToStreamer.KEY_UP, "B", 7))  # no key of ours
    state = player.state(6.0)
    assert state.keys == ("ShiftRight", "ArrowLeft")
    assert (state.sequence, state.time) == (2, 6.0)
    player.release()
    assert player.state(7.0).keys == ()


def test_mouse_moves_are_shares_of_half_the_player() -> None:
    player = PlayerInput()
    player.receive(message(ToStreamer.MOUSE_MOVE, "HHhh", 9, 9, 32767, -32767))
    player.receive(message(ToStreamer.MOUSE_MOVE, "HHhh", 9, 9, 3277, 0))
    assert player.state(0.0).pointer == pytest.approx((640 + 64, -360), abs=0.1)


def test_pads_have_y_down_and_triggers_as_buttons() -> None:
    player = PlayerInput()
    assert player.connect_pad() == 0 and player.connect_pad() == 1
    for index, value in enumerate((0.5, 1.0, -0.25, -1.0), start=1):
        player.receive(message(ToStreamer.PAD_ANALOG, "BBd", 0, index, value))
    player.receive(message(ToStreamer.PAD_ANALOG, "BBd", 0, 6, 0.8))
    player.receive(message(ToStreamer.PAD_BUTTON_PRESSED, "BBB", 1, 3, 0))
    player.receive(message(ToStreamer.PAD_ANALOG, "BBd", 1, 1, 0.1))  # the weaker one
    state = player.state(0.0)
    assert state.axes == (0.5, -1.0, -0.25, 1.0)
    assert state.buttons == 1 << 7 | 1 << 3
    player.receive(message(ToStreamer.PAD_BUTTON_RELEASED, "BBB", 1, 3, 0))
    player.receive(message(ToStreamer.PAD_DISCONNECTED, "B", 0))
    assert player.state(0.0).axes == (0.1, 0.0, 0.0, 0.0)
    assert player.state(0.0).buttons == 0


def test_a_finger_drags_the_view() -> None:
    player = PlayerInput()
    player.receive(message(ToStreamer.TOUCH_START, "BHHBBB", 1, 32768, 32768, 4, 255, 1))
    player.receive(message(ToStreamer.TOUCH_MOVE, "BHHBBB", 1, 40960, 32768, 4, 255, 1))
    player.receive(message(ToStreamer.TOUCH_END, "BHHBBB", 1, 40960, 32768, 4, 0, 1))
    player.receive(message(ToStreamer.TOUCH_MOVE, "BHHBBB", 1, 0, 0, 4, 255, 1))
    assert player.state(0.0).pointer == pytest.approx((160, 0))


def test_what_asks_for_something() -> None:
    player = PlayerInput()
    text = '{"theme": "zoo"}'
    body = struct.pack("<H", len(text)) + text.encode("utf-16-le")
    assert player.receive(bytes([50]) + body) == Request(ToStreamer.UI_INTERACTION, text)
    assert player.receive(b"\x07") == Request(ToStreamer.REQUEST_INITIAL_SETTINGS)
    assert player.receive(b"\xc8anything") is None  # of a later version
    assert text_message(FromStreamer.RESPONSE, {"a": 1})[1:].decode("utf-16-le") == '{"a": 1}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 9000,
        b"\x3c\x57",
        b"\x4a\x00",
        b"\x5c\x00\x01" + struct.pack("<d", float("nan")),
        b"\x5c\x00\x01" + struct.pack("<d", 2.0),
        b"\x32\xff\xff\x00",
        b"\x50\xff",
    ],
)
def test_what_is_malformed(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected"):
        PlayerInput().receive(data)


def test_any_bytes_are_a_message_or_an_error() -> None:
    chance = random.Random(7)
    player = PlayerInput()
    for _ in range(10_000):
        kind = chance.choice(list(ToStreamer)) if chance.random() < 0.9 else chance.randrange(256)
        data = bytes([kind]) + chance.randbytes(chance.randrange(24))
        try:
            player.receive(data)
        except ProtocolError:
            continue
        state = player.state(0.0)  # its fields are checked by the message's own limits
        assert len(state.keys) <= 16 and all(abs(axis) <= 1 for axis in state.axes)
        assert 0 <= state.buttons < 1 << 17
