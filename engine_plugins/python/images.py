"""Decode what the server sends as frames."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import simplejpeg
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext

from worldbridge.bridge.media.encoder import raw_pixels
from worldbridge.bridge.protocol import Codec

__all__ = ["H264Decoder", "decode"]


def decode(image: bytes, codec: Codec, width: int, height: int, xp: Any = np) -> Any:
    """Return an image of the server as RGB, uint8 [height, width, 3]. Raises ValueError.

    `xp` is NumPy, or a module with its functions whose arrays are elsewhere, such as CuPy: then an
    uncompressed image goes there as it came, and I420 (1.5 bytes a pixel) is converted there.
    """
    if codec == "jpeg":
        high, wide, *_ = simplejpeg.decode_jpeg_header(image)
        if (wide, high) != (width, height):  # it could fill the memory
            raise ValueError(f"expected an image of {width}x{height} pixels, got {wide}x{high}")
        return xp.asarray(simplejpeg.decode_jpeg(image, "RGB"))
    if codec == "i420" and xp is np:
        rgb = raw_pixels(image, width, height, "rgb")
        return np.frombuffer(rgb, np.uint8).reshape(height, width, 3)
    if codec not in ("rgb", "bgra", "i420"):
        raise ValueError(f"expected an image that is no video, got {codec}")
    pixels = xp.asarray(np.frombuffer(image, np.uint8))
    if codec == "i420":
        return _rgb_of_i420(pixels, width, height, xp)
    if codec == "rgb":
        return pixels.reshape(height, width, 3)
    return pixels.reshape(height, width, 4)[..., 2::-1]


def _rgb_of_i420(planes: Any, width: int, height: int, xp: Any) -> Any:
    """Convert BT.601 of video range, as `raw_pixels` does, in arrays of `xp`."""
    size = width * height
    if planes.shape != (size * 3 // 2,):
        raise ValueError(f"expected {size * 3 // 2} bytes of I420, got {planes.shape[0]}")
    wide = planes.astype(xp.float32)
    y = 1.164383 * (wide[:size].reshape(height, width) - 16)
    halves = wide[size:].reshape(2, height // 2, width // 2) - 128
    u, v = halves.repeat(2, axis=1).repeat(2, axis=2)
    rgb = xp.stack([y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u], axis=-1)
    return xp.clip(xp.rint(rgb), 0, 255).astype(xp.uint8)


class H264Decoder:
    """Decodes the frames of one connection, in order; each is returned at once."""

    def __init__(self) -> None:
        context = av.CodecContext.create("h264", "r")
        assert isinstance(context, VideoCodecContext)
        context.thread_count = 1  # threads hold frames back
        context.flags |= Flags.low_delay
        self._context = context

    def decode(self, image: bytes, width: int, height: int) -> bytes | None:
        """Return a frame as I420, or None if it cannot be shown.

        One before it is missing, or it has another size than its header says.
        """
        try:
            frames = self._context.decode(av.Packet(image))
        except av.FFmpegError:
            return None
        if not frames or (frames[-1].width, frames[-1].height) != (width, height):
            return None
        planes: bytes = frames[-1].to_ndarray(format="yuv420p").tobytes()
        return planes
