import torch
import torch.nn.functional as F

from worldbridge.models.tokenizer.haar import HaarSpace, HaarSpaceTime


def test_space_time_is_inverted() -> None:
    haar = HaarSpaceTime(4)
    video = torch.randn(2, 9, 3, 8, 12)
    patches = haar.split(video, first=True)
    assert patches.shape == (2, 3, 192, 2, 3)
    torch.testing.assert_close(haar.join(patches, first=True), video)


def test_space_time_in_two_chunks() -> None:
    haar = HaarSpaceTime(2)
    video = torch.randn(1, 5, 3, 4, 4)
    whole = haar.split(video, first=True)
    parts = [haar.split(video[:, :3], first=True), haar.split(video[:, 3:], first=False)]
    assert torch.equal(torch.cat(parts, 1), whole)


def test_lowest_band_is_the_mean_and_band_order_is_time_height_width() -> None:
    haar = HaarSpaceTime(2)
    video = torch.randn(1, 2, 3, 2, 2)
    bands = haar.split(video, first=False).view(8, 3)
    torch.testing.assert_close(bands[0], video.mean((0, 1, 3, 4)))
    left_minus_right = (video[..., 0] - video[..., 1]).mean((0, 1, 3)) / 2
    torch.testing.assert_close(bands[1], left_minus_right)
    early_minus_late = (video[:, 0] - video[:, 1]).mean((0, 2, 3)) / 2
    torch.testing.assert_close(bands[4], early_minus_late)


def test_space_patch_folded_into_the_convolutions() -> None:
    """Splitting by the folded convolution and joining the bands gives the frames back."""
    haar = HaarSpace(8)
    frames = torch.randn(2, 3, 16, 24)
    bands = haar.split_conv(frames, torch.eye(192).view(192, 192, 1, 1), None)
    assert bands.shape == (2, 192, 2, 3)
    means = F.avg_pool2d(frames, 8)
    torch.testing.assert_close(bands[:, :3], means, atol=1e-5, rtol=1e-5)
    joined = haar.join(bands[:, None], first=True)[:, 0]
    torch.testing.assert_close(joined, frames, atol=1e-5, rtol=1e-5)


def test_folded_join_equals_convolution_then_join() -> None:
    haar = HaarSpace(4)
    x = torch.randn(2, 5, 3, 4)
    for kernel in (1, 3):
        weight, bias = torch.randn(48, 5, kernel, kernel), torch.randn(48)
        bands = F.conv2d(x, weight, bias, padding=kernel // 2)
        expected = haar.join(bands[:, None], first=True)[:, 0]
        folded = haar.conv_join(x, weight, bias)
        torch.testing.assert_close(folded, expected, atol=1e-4, rtol=1e-4)


def test_folded_split_equals_split_then_convolution() -> None:
    haar = HaarSpace(4)
    frames = torch.randn(2, 3, 12, 16)
    bands = haar.split_conv(frames, torch.eye(48).view(48, 48, 1, 1), None)
    weight, bias = torch.randn(7, 48, 3, 3), torch.randn(7)
    folded = haar.split_conv(frames, weight, bias)
    expected = F.conv2d(bands, weight, bias, padding=1)
    torch.testing.assert_close(folded, expected, atol=1e-4, rtol=1e-4)
