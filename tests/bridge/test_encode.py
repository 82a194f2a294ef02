"""What the encoders make of a frame is what a decoder gets back."""

from __future__ import annotations

import av
import numpy as np
import pytest
import simplejpeg
from av.video.codeccontext import VideoCodecContext

from tests.support.fake_worker import SPEC, moving_frame
from worldbridge.bridge.media.encoder import JpegEncoder, VideoCodec, VideoEncoder, split_i420

WIDTH, HEIGHT = SPEC.width, SPEC.height


def luma_psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


def decoder(codec: VideoCodec) -> VideoCodecContext:
    context = av.CodecContext.create("h264" if codec == "h264" else "vp8", "r")
    assert isinstance(context, VideoCodecContext)
    return context


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_video_survives(codec: VideoCodec) -> None:
    encoder, decode = VideoEncoder(codec, WIDTH, HEIGHT, 30), decoder(codec)
    shown = 0
    for n in range(12):
        packet = encoder.encode(moving_frame(n), n * 3000, n * 33.3)
        for frame in decode.decode(packet):
            y, _, _ = split_i420(moving_frame(n), WIDTH, HEIGHT)
            decoded = frame.to_ndarray(format="yuv420p")
            assert luma_psnr(decoded[:HEIGHT], y) > 35
            assert abs(float(decoded[HEIGHT:].mean()) - 125) < 2  # u 100, v 150
            shown += 1
    assert shown == 12, "a frame in must be a frame out at once"


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_key_frames_come_first_and_on_request_but_not_often(codec: VideoCodec) -> None:
    encoder = VideoEncoder(codec, WIDTH, HEIGHT, 30)
    keys = []
    for n in range(40):
        if n in (5, 6, 20, 21):
            encoder.request_keyframe()
        packet = encoder.encode(moving_frame(n), n * 3000, n * 33.0)
        keys += [n] if packet.is_keyframe else []
    # asked for at 5: the throttle of 500 ms after frame 0 holds it back until frame 16;
    # asked for at 20: until 500 ms after frame 16
    assert keys == [0, 16, 32]


def noisy_frame(n: int) -> bytes:
    noise = np.random.default_rng(n).integers(16, 236, WIDTH * HEIGHT, np.uint8)
    return noise.tobytes() + bytes([128]) * (WIDTH * HEIGHT // 2)


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_the_bit_rate_follows_at_once_and_h264_needs_no_key_frame(codec: VideoCodec) -> None:
    encoder = VideoEncoder(codec, WIDTH, HEIGHT, 30, 2_000_000)
    rates, keys = [], 0
    for part, bitrate in enumerate((2_000_000, 200_000, 2_000_000)):
        encoder.set_bitrate(bitrate, part * 1000.0)
        sizes = []
        for n in range(part * 30, part * 30 + 30):
            packet = encoder.encode(noisy_frame(n), n * 3000, n * 33.4)
            sizes.append(packet.size)
            keys += packet.is_keyframe
        rates.append(sum(sizes[10:]) * 8 * 30 / 20)
    print(codec, [round(rate) for rate in rates])
    assert keys == (1 if codec == "h264" else 3)
    assert rates[1] < 0.5 * rates[0] and rates[1] < 0.5 * rates[2]
    if codec == "h264":
        assert rates[1] < 260_000


def test_an_encoder_of_another_layout_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("av.__version__", "17.0.0")
    encoder = VideoEncoder("h264", WIDTH, HEIGHT, 30, 2_000_000)
    assert encoder.encode(noisy_frame(0), 0, 0.0).is_keyframe
    encoder.set_bitrate(1_900_000, 1_000.0)  # not worth a key frame
    assert not encoder.encode(noisy_frame(1), 3_000, 1_000.0).is_keyframe
    encoder.set_bitrate(400_000, 1_000.0)
    assert encoder.encode(noisy_frame(2), 6_000, 1_033.0).is_keyframe
    encoder.set_bitrate(1_000_000, 1_066.0)  # too soon after that one
    assert encoder.bitrate == 400_000


def test_time_stamps_always_grow() -> None:
    encoder = VideoEncoder("h264", WIDTH, HEIGHT, 30)
    stamps = [
        encoder.encode(moving_frame(n), pts, n * 33.0).pts for n, pts in enumerate([9, 9, 3, 50])
    ]
    assert stamps == [9, 10, 11, 50]


def test_h264_allows_no_reordering_and_repeats_its_headers() -> None:
    """Without that in the SPS Chromium holds frames back; a late viewer needs SPS and PPS."""
    encoder = VideoEncoder("h264", WIDTH, HEIGHT, 30)
    encoder.encode(moving_frame(0), 0, 0.0)
    encoder.request_keyframe()
    again = encoder.encode(moving_frame(1), 3000, 1000.0)
    kinds = {nal[0] & 31 for nal in bytes(again).split(b"\0\0\1")[1:]}
    assert {7, 8, 5} <= kinds  # SPS, PPS, IDR
    decode = decoder("h264")
    decode.decode(again)
    assert decode.has_b_frames is False
    assert decode.profile is not None and "Baseline" in decode.profile


def test_jpeg_has_the_right_colours() -> None:
    """Limited-range I420 becomes full-range JPEG: black stays black, white becomes white."""
    half = WIDTH * HEIGHT // 4
    for luma, expected in ((16, 0), (235, 255), (126, 128)):
        grey = bytes([luma]) * (WIDTH * HEIGHT) + bytes([128]) * half * 2
        rgb = simplejpeg.decode_jpeg(JpegEncoder(WIDTH, HEIGHT).encode(grey))
        assert rgb.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(rgb.astype(int) - expected).max() <= 2


def test_jpeg_keeps_red_red() -> None:
    half = WIDTH * HEIGHT // 4
    red = bytes([81]) * (WIDTH * HEIGHT) + bytes([90]) * half + bytes([240]) * half  # BT.601
    rgb = simplejpeg.decode_jpeg(JpegEncoder(WIDTH, HEIGHT).encode(red)).astype(int)
    assert np.abs(rgb - (255, 0, 0)).max() <= 4


def test_a_frame_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 12288 bytes"):
        VideoEncoder("h264", WIDTH, HEIGHT, 30).encode(bytes(100), 0, 0.0)
    with pytest.raises(ValueError, match="expected 12288 bytes"):
        JpegEncoder(WIDTH, HEIGHT).encode(bytes(100))
