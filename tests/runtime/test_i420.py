from collections.abc import Callable

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.runtime.frames.i420 import i420_size, rgb_to_i420

HEIGHT, WIDTH = 320, 512


def gradient() -> Tensor:
    """Every channel runs through its whole range, smoothly."""
    y = torch.linspace(0, 255, HEIGHT)[:, None].expand(HEIGHT, WIDTH)
    x = torch.linspace(0, 255, WIDTH)[None, :].expand(HEIGHT, WIDTH)
    return torch.stack((y, x, 255 - (x + y) / 2)).round().to(torch.uint8)


def colour_blocks() -> Tensor:
    """Random colours in blocks of 32 x 32, edges on whole blocks."""
    small = torch.randint(0, 256, (3, 10, 16), generator=torch.Generator().manual_seed(3))
    return small.repeat_interleave(32, 1).repeat_interleave(32, 2).to(torch.uint8)


def by_pyav(rgb: Tensor) -> NDArray[np.int16]:
    """BT.601 limited range, as the video library that encodes the stream converts it."""
    frame = av.VideoFrame.from_ndarray(rgb.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
    planes = frame.reformat(format="yuv420p", dst_colorspace=5, dst_color_range=1)
    return planes.to_ndarray().reshape(-1).astype(np.int16)


@pytest.mark.parametrize("picture", [gradient, colour_blocks])
def test_same_as_the_video_library_within_two_levels(picture: Callable[[], Tensor]) -> None:
    rgb = picture()
    ours = np.frombuffer(rgb_to_i420(rgb), np.uint8).astype(np.int16)
    difference = np.abs(ours - by_pyav(rgb))
    # at the edges of the blocks the library's chroma filter is wider than ours
    inside = difference if picture is gradient else _away_from_edges(difference)
    assert inside.max() <= 2
    assert np.median(difference) == 0


def _away_from_edges(difference: NDArray[np.int16]) -> NDArray[np.int16]:
    luma, chroma = HEIGHT * WIDTH, HEIGHT * WIDTH // 4
    y = difference[:luma].reshape(10, 32, 16, 32)
    u = difference[luma : luma + chroma].reshape(10, 16, 16, 16)
    v = difference[luma + chroma :].reshape(10, 16, 16, 16)
    return np.concatenate([y.ravel(), *(p[:, 2:-2, :, 2:-2].ravel() for p in (u, v))])


@pytest.mark.parametrize(
    ("rgb", "yuv"),
    [
        ((0, 0, 0), (16, 128, 128)),
        ((255, 255, 255), (235, 128, 128)),
        ((255, 0, 0), (81, 90, 240)),
        ((0, 255, 0), (145, 54, 34)),
        ((0, 0, 255), (41, 240, 110)),
    ],
)
def test_known_colours(rgb: tuple[int, int, int], yuv: tuple[int, int, int]) -> None:
    flat = torch.tensor(rgb, dtype=torch.uint8)[:, None, None].expand(3, 4, 6)
    y, u, v = yuv
    assert rgb_to_i420(flat) == bytes([y] * 24 + [u] * 6 + [v] * 6)


def test_size_and_layout_do_not_depend_on_strides() -> None:
    interleaved = gradient().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert rgb_to_i420(interleaved) == rgb_to_i420(gradient())
    assert len(rgb_to_i420(gradient())) == i420_size(HEIGHT, WIDTH) == 245_760


@pytest.mark.parametrize(
    ("rgb", "said"),
    [
        (torch.zeros(3, 4, 4), "uint8"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "3, H, W"),
        (torch.zeros(3, 5, 4, dtype=torch.uint8), "even"),
    ],
)
def test_other_pictures_are_refused(rgb: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rgb_to_i420(rgb)
