"""Frames as arrays of NumPy, or of a module whose arrays are on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch

from worldbridge.bridge.protocol import Codec, FrameHeader, Pose
from worldbridge.engine_plugins.python.client import ReceivedFrame
from worldbridge.runtime.frames.i420 import rgb_to_i420


def header_of(width: int, height: int) -> FrameHeader:
    times = (1.0,) * 5
    return FrameHeader(1, 0, *times, Pose(), width=width, height=height)


class FakeCupy:
    """NumPy under the name of CuPy: what `asarray` was given is what went to the GPU."""

    def __init__(self) -> None:
        self.uploaded: list[tuple[tuple[int, ...], str]] = []

    def asarray(self, array: Any) -> Any:
        self.uploaded.append((array.shape, array.dtype.name))
        return np.array(array)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.mark.parametrize("codec", ["jpeg", "rgb", "bgra", "i420"])
def test_frames_go_to_a_gpu(codec: Codec) -> None:
    """With `xp=cupy` the array is CuPy's, and no CuPy is needed without."""
    width, height = 64, 32
    x, y = np.meshgrid(np.linspace(40, 215, width), np.linspace(60, 190, height))
    rgb = np.stack([x, y, 255 - x], -1).astype(np.uint8)
    makers: dict[str, Callable[[], bytes]] = {
        "jpeg": lambda: simplejpeg.encode_jpeg(rgb, 95, colorspace="RGB"),
        "rgb": rgb.tobytes,
        "bgra": lambda: np.dstack([rgb[..., ::-1], np.full_like(rgb[..., :1], 255)]).tobytes(),
        "i420": lambda: rgb_to_i420(torch.from_numpy(rgb).permute(2, 0, 1)),
    }
    image = makers[codec]()
    header = header_of(width, height)
    steps = np.array([[0] + [500] * (width - 1)] * height, "<u2").tobytes()
    frame = ReceivedFrame(header, image, 0.0, codec, steps, 0.01)
    cupy = FakeCupy()
    pixels = frame.rgb(cupy)
    assert pixels.dtype == np.uint8 and pixels.shape == (height, width, 3)
    sent = {"jpeg": (32, 64, 3), "rgb": (6144,), "bgra": (8192,), "i420": (3072,)}
    assert cupy.uploaded == [(sent[codec], "uint8")]
    assert np.abs(pixels.astype(int) - rgb).max() <= 8
    assert np.abs(pixels.astype(int) - frame.rgb()).max() <= 4
    expected = [[np.inf] + [5.0] * 63] * 32
    assert np.asarray(frame.depth(np)).tolist() == frame.depth(cupy).tolist() == expected
    assert cupy.uploaded[1:] == [((height, width), "uint16")]


def test_i420_of_another_size_is_refused_on_a_gpu() -> None:
    frame = ReceivedFrame(header_of(64, 32), b"1234", 0.0, "i420")
    with pytest.raises(ValueError, match="expected 3072 bytes of I420, got 4"):
        frame.rgb(FakeCupy())
