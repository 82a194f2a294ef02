"""Event files, which TensorBoard shows: figures by step.

A record is its length (uint64), the masked CRC-32C of these 8 bytes, the bytes, and their masked
CRC-32C. The bytes are an `Event` in protocol buffers. Source: TensorFlow's
`tsl/lib/io/record_writer.cc` and `tensorflow/core/util/event.proto`.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["crc32c", "write_events"]

_BEGAN = int(time.time())  # a process writes one file in a folder
_POLYNOMIAL = 0x82F63B78  # of Castagnoli, reversed
_MASK_DELTA = 0xA282EAD8


def write_events(out: Path, step: int, entry: Mapping[str, float]) -> None:
    """Append the figures of a step to OUT/events.out.tfevents.*; `step` itself is none."""
    path = out / f"events.out.tfevents.{_BEGAN}.{os.getpid()}"
    values = ((name, value) for name, value in entry.items() if name != "step")
    event = _number(1, time.time()) + _varint(2 << 3) + _varint(step)
    event += _bytes(5, b"".join(_bytes(1, _value(name, value)) for name, value in values))
    begun = path.exists()
    with path.open("ab") as file:
        if not begun:
            file.write(_record(_number(1, time.time()) + _bytes(3, b"brain.Event:2")))
        file.write(_record(event))


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of bytes (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _table() -> Iterable[int]:
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        yield crc


_TABLE = tuple(_table())


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF)


def _value(name: str, value: float) -> bytes:
    return _bytes(1, name.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", value)


def _number(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
