"""Sample sheets: what a network draws, beside what it was given and what is true."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.models.guided.config import nearness_to_unit

__all__ = ["png_bytes", "write_sheet"]


class _Truth(Protocol):
    @property
    def color(self) -> Tensor: ...
    @property
    def nearness(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...


def write_sheet(path: Path, truth: _Truth, color: Tensor, nearness: Tensor, rows: int = 12) -> None:
    """Write a PNG: per row the truth, what the memory shows, the frame drawn, and both nearness.

    color [B, 3, H, W] in [-1, 1]; nearness [B, H, W] on the scale of `nearness_to_unit`.
    """
    given = torch.where(truth.mask[:, None], truth.color, -0.5)
    planes = (truth.color, given, color, _gray(nearness_to_unit(truth.nearness)), _gray(nearness))
    sheet = torch.cat([torch.cat(list(p[:rows]), 1) for p in planes], 2)
    half = len(sheet[0]) // 2 // 2 * 2
    sheet = torch.cat((sheet[:, :half], sheet[:, half : 2 * half]), 2)
    pixels = ((sheet.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    path.write_bytes(png_bytes(pixels))


def _gray(unit: Tensor) -> Tensor:
    return (unit.clamp(0, 1) * 2 - 1)[:, None].expand(-1, 3, -1, -1)


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """Return a PNG file of RGB pixels uint8 [H, W, 3]."""
    height, width, _ = pixels.shape
    filtered = np.zeros((height, 1 + width * 3), np.uint8)  # a zero before each row: no filter
    filtered[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
