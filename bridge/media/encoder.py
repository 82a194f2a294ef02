"""Encode frames: H.264 or VP8 packets for WebRTC, JPEG for everything else.

Frames are I420 (planar YUV 4:2:0, BT.601, limited range). Each encoder belongs to one stream
and is called from one thread at a time; all viewers of a stream share its output.
"""

from __future__ import annotations

import ctypes
from fractions import Fraction
from typing import Final, Literal, TypeAlias

import av
import numpy as np
import simplejpeg
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.stream import VideoStream
from numpy.typing import NDArray

from worldbridge.bridge.protocol import Buffer, Codec, i420_bytes

VideoCodec = Literal["h264", "vp8"]
Plane = NDArray[np.uint8]
VideoPacket: TypeAlias = "av.Packet[VideoStream]"

TIME_BASE: Final = Fraction(1, 90_000)  # the clock of RTP video
KEYFRAME_THROTTLE_MS: Final = 500.0  # a key frame is ten frames large: no viewer may force many
BITRATE: Final = 6_000_000
VBV_FRAMES: Final = 2  # how far a frame may exceed its share of the bit rate, in frames
REOPEN_RATIO: Final = 1.3  # a rate that needs a new encoder, and so a key frame, must pay off

# zerolatency: no lookahead, no B-frames, and an SPS that says "nothing is reordered", without
# which Chromium holds frames back. crf under a VBV of two frames: quality without bursts.
_X264: Final = {
    "preset": "superfast",
    "tune": "zerolatency",
    "profile": "baseline",
    "crf": "20",
    "forced-idr": "1",
    "x264-params": "keyint=infinite:scenecut=0",
}
_VPX: Final = {
    "deadline": "realtime",
    "cpu-used": "8",
    "lag-in-frames": "0",
    "error-resilient": "1",
}


def split_i420(data: Buffer, width: int, height: int) -> tuple[Plane, Plane, Plane]:
    """Y [height, width], U and V [height / 2, width / 2] as views; raises ValueError on size."""
    if len(data) != i420_bytes(width, height):
        raise ValueError(
            f"expected {i420_bytes(width, height)} bytes of I420 for {width}x{height}, "
            f"got {len(data)}"
        )
    flat = np.frombuffer(data, np.uint8)
    luma, chroma = width * height, width * height // 4
    half = (height // 2, width // 2)
    return (
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(half),
        flat[luma + chroma :].reshape(half),
    )


class VideoEncoder:
    """One libx264 or libvpx context: a key frame first, afterwards only on request."""

    def __init__(
        self, codec: VideoCodec, width: int, height: int, fps: float, bitrate: int = BITRATE
    ) -> None:
        self.codec = codec
        self.bitrate = bitrate
        self._width, self._height, self._fps = width, height, fps
        self._open()
        self._keyframe_wanted = False
        self._keyframe_ms = -KEYFRAME_THROTTLE_MS
        self._last_pts = -1

    def request_keyframe(self) -> None:
        """Encode the next frame that the throttle allows as a key frame."""
        self._keyframe_wanted = True

    def _open(self) -> None:
        self._context = _open_context(
            self.codec, self._width, self._height, self._fps, self.bitrate
        )
        size = _vbv_bits(self.bitrate, self._fps)
        h264 = self.codec == "h264"
        self._rate = _LiveRate.of(self._context, self.bitrate, size) if h264 else None

    def set_bitrate(self, bitrate: int, now_ms: float) -> None:
        """Change the bit rate from the next frame on, where possible without a key frame."""
        if bitrate == self.bitrate:
            return
        if self._rate is not None:
            self.bitrate = bitrate
            self._rate.set(bitrate, _vbv_bits(bitrate, self._fps))
            return
        change = max(bitrate / self.bitrate, self.bitrate / bitrate)
        if change >= REOPEN_RATIO and now_ms - self._keyframe_ms >= KEYFRAME_THROTTLE_MS:
            self.bitrate = bitrate
            self._open()

    def encode(self, i420: Buffer, pts: int, now_ms: float) -> VideoPacket:
        """Return the packet of one frame. `pts` in 1/90000 s; it is raised if it does not grow."""
        self._last_pts = max(pts, self._last_pts + 1)
        frame = self._frame(i420)
        frame.pts = self._last_pts
        frame.time_base = TIME_BASE
        if self._keyframe_wanted and now_ms - self._keyframe_ms >= KEYFRAME_THROTTLE_MS:
            frame.pict_type = PictureType.I
        packets = self._context.encode(frame)
        assert len(packets) == 1, "an encoder without delay returns one packet per frame"
        packet = packets[0]
        packet.time_base = TIME_BASE
        if packet.is_keyframe:
            self._keyframe_wanted = False
            self._keyframe_ms = now_ms
        return packet

    def _frame(self, i420: Buffer) -> av.VideoFrame:
        if len(i420) != i420_bytes(self._width, self._height):
            split_i420(i420, self._width, self._height)  # raises with the sizes
        planes = np.frombuffer(i420, np.uint8).reshape(self._height * 3 // 2, self._width)
        return av.VideoFrame.from_ndarray(planes, format="yuv420p")


def _open_context(
    codec: VideoCodec, width: int, height: int, fps: float, bitrate: int
) -> VideoCodecContext:
    context = av.CodecContext.create("libx264" if codec == "h264" else "libvpx", "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height = width, height
    context.pix_fmt = "yuv420p"
    context.time_base = TIME_BASE
    context.framerate = Fraction(fps).limit_denominator(1000)
    context.thread_count = 1
    context.max_b_frames = 0
    if codec == "h264":
        window = str(_vbv_bits(bitrate, fps))
        context.options = {**_X264, "maxrate": str(bitrate), "bufsize": window}
    else:
        context.bit_rate = bitrate
        context.gop_size = 2**30
        context.options = dict(_VPX)
    context.open()
    return context


def _vbv_bits(bitrate: int, fps: float) -> int:
    return max(1, round(bitrate / fps * VBV_FRAMES))


class _LiveRate:
    """The VBV of an open libx264 context, which FFmpeg reads before every frame.

    PyAV can read `rc_max_rate` but writes neither it nor `rc_buffer_size`. Both are found by their
    values in FFmpeg's AVCodecContext, whose address follows the head of PyAV's object, and every
    write is checked through PyAV. Without them a new rate needs a new encoder and a key frame.
    """

    _POINTER_AT = 24  # reference count, type, and the table of methods come first
    _SEARCHED = 1024  # bytes of AVCodecContext
    _SIZE_AT = -16  # rc_buffer_size before rc_max_rate: a count and a pointer lie between them

    def __init__(self, context: VideoCodecContext, address: int) -> None:
        self._context = context
        self._rate = ctypes.c_int64.from_address(address)
        self._size = ctypes.c_int32.from_address(address + self._SIZE_AT)

    @classmethod
    def of(cls, context: VideoCodecContext, bitrate: int, size: int) -> _LiveRate | None:
        """Return the rate of a context opened with these, None if this PyAV has another layout."""
        known = av.__version__.startswith("18.") and context.max_bit_rate == bitrate
        start = ctypes.c_void_p.from_address(id(context) + cls._POINTER_AT).value if known else None
        if start is None:
            return None
        memory = ctypes.string_at(start, cls._SEARCHED)
        wanted = size.to_bytes(4, "little") + bytes(12), bitrate.to_bytes(8, "little")
        for at in range(-cls._SIZE_AT, cls._SEARCHED, 8):
            if (memory[at + cls._SIZE_AT : at], memory[at : at + 8]) == wanted:
                live = cls(context, start + at)
                return live if live.set(bitrate - 1, size) and live.set(bitrate, size) else None
        return None

    def set(self, bitrate: int, size: int) -> bool:
        """Write both, in bits per second and bits. Return whether PyAV sees the rate."""
        self._rate.value, self._size.value = bitrate, min(size, 2**31 - 1)
        return self._context.max_bit_rate == bitrate


class JpegEncoder:
    """JPEG with 4:2:0 colours, straight from the planes."""

    def __init__(self, width: int, height: int, quality: int = 85) -> None:
        self._size = width, height
        self._quality = quality
        # JPEG wants full range: luma 16..235 and chroma 16..240 become 0..255
        steps = np.arange(256)
        self._luma = _table((steps - 16) * 255 / 219)
        self._chroma = _table((steps - 128) * 255 / 224 + 128)

    def encode(self, i420: Buffer) -> bytes:
        y, u, v = split_i420(i420, *self._size)
        data: bytes = simplejpeg.encode_jpeg_yuv_planes(
            self._luma[y], self._chroma[u], self._chroma[v], quality=self._quality, fastdct=True
        )
        return data


_RAW: Final[dict[Codec, str]] = {"rgb": "rgb24", "bgra": "bgra"}  # as PyAV names them


def raw_pixels(i420: Buffer, width: int, height: int, codec: Codec) -> bytes:
    """Return a frame uncompressed, as `codec` (`i420`, `rgb` or `bgra`) lays it out; full range."""
    if codec == "i420":
        return bytes(i420)
    split_i420(i420, width, height)  # raises with the sizes
    planes = np.frombuffer(i420, np.uint8).reshape(height * 3 // 2, width)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    pixels: bytes = frame.to_ndarray(format=_RAW[codec]).tobytes()
    return pixels


def _table(values: NDArray[np.float64]) -> Plane:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
