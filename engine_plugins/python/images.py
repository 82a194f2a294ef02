"""Decode what the server sends as frames."""

from __future__ import annotations

import av
import numpy as np
import simplejpeg
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from worldbridge.bridge.media.encoder import raw_pixels
from worldbridge.bridge.protocol import Codec

__all__ = ["H264Decoder", "decode"]


def decode(image: bytes, codec: Codec, width: int, height: int) -> NDArray[np.uint8]:
    """Return an image of the server as RGB, uint8 [height, width, 3]. Raises ValueError."""
    pixels: NDArray[np.uint8]
    if codec == "jpeg":
        high, wide, *_ = simplejpeg.decode_jpeg_header(image)
        if (wide, high) != (width, height):  # it could fill the memory
            raise ValueError(f"expected an image of {width}x{height} pixels, got {wide}x{high}")
        pixels = simplejpeg.decode_jpeg(image, "RGB")
    elif codec == "rgb":
        pixels = np.frombuffer(image, np.uint8).reshape(height, width, 3)
    elif codec == "bgra":
        pixels = np.frombuffer(image, np.uint8).reshape(height, width, 4)[..., 2::-1]
    elif codec == "i420":
        rgb = raw_pixels(image, width, height, "rgb")
        pixels = np.frombuffer(rgb, np.uint8).reshape(height, width, 3)
    else:
        raise ValueError(f"expected an image that is no video, got {codec}")
    return pixels


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
