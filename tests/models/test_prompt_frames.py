"""Images of any size become frames of a world; Pillow and torch agree on how."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from worldbridge.bridge.gateway import prompts as files
from worldbridge.models.conditioning import prompt_frames as limits
from worldbridge.models.conditioning.prompt_frames import (
    cover_size,
    fit_prompt_frames,
    hold_first,
    whole_latents,
)
from worldbridge.models.errors import PromptFrameError
from worldbridge.settings import MAX_PROMPT_FRAMES


def noise(height: int, width: int, channels: int = 3, count: int = 1) -> torch.Tensor:
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(4))


@pytest.mark.parametrize(
    ("height", "width"), [(1080, 1920), (320, 512), (333, 777), (100, 60), (17, 100), (640, 80)]
)
def test_sizes_cover_and_have_the_shape(height: int, width: int) -> None:
    found = cover_size(height, width, 320, 512)
    scale = max(320 / height, 512 / width)  # the published formula, in floats
    assert found[0] >= 320 and found[1] >= 512 and (found[0] == 320 or found[1] == 512)
    for side, exact in zip(found, (height * scale, width * scale), strict=True):
        assert side in (math.ceil(exact), math.ceil(exact - 1e-9))


@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [(1080, 1920, 3), (333, 777, 4), (100, 60, 3), (64, 96, 4), (64, 96, 3)],
)
def test_the_gateway_and_the_worker_scale_alike(height: int, width: int, channels: int) -> None:
    """One definition, in two libraries: they round, and so differ by one level at most."""
    source = noise(height, width, channels)
    file = io.BytesIO()
    Image.fromarray(source[0].permute(1, 2, 0).numpy()).save(file, "PNG")
    raw = files.read_prompt_frames([file.getvalue()], 64, 96)
    theirs = np.frombuffer(raw.rgb, np.uint8).reshape(64, 96, 3).astype(int)
    ours = fit_prompt_frames(source, 64, 96)[0].permute(1, 2, 0).numpy().astype(int)
    assert ours.std() > 2
    assert abs(ours - theirs).max() <= 1


def test_limits_are_the_same_on_both_sides() -> None:
    assert limits.MAX_PROMPT_FRAMES == MAX_PROMPT_FRAMES
    for name in ("MIN_SIDE", "MAX_PIXELS", "MAX_ASPECT"):
        assert getattr(limits, name) == getattr(files, name)


def test_what_fits_is_left_alone_and_the_middle_is_kept() -> None:
    source = noise(64, 96, count=3)
    assert torch.equal(fit_prompt_frames(source, 64, 96), source)
    wide = torch.zeros(1, 3, 64, 300, dtype=torch.uint8)
    wide[..., 102:198] = 200
    assert bool((fit_prompt_frames(wide, 64, 96) == 200).all())


def test_large_images_are_filtered_before_they_shrink() -> None:
    """Noise is nearly grey from afar; picking a few pixels of many would leave it noise."""
    small = fit_prompt_frames(noise(640, 1024), 64, 96).float()
    assert abs(float(small.mean()) - 127.5) < 2
    assert float(small.std()) < 15


def test_transparency_lies_over_black() -> None:
    image = torch.full((1, 4, 64, 96), 200, dtype=torch.uint8)
    image[:, 3] = 102
    assert bool((fit_prompt_frames(image, 64, 96) == 80).all())


def test_a_still_comes_before_the_movement() -> None:
    frames = torch.arange(3)[:, None]
    assert hold_first(frames, 5)[:, 0].tolist() == [0, 0, 0, 1, 2]
    assert hold_first(frames, 2) is frames
    assert [whole_latents(n, 8) for n in (1, 2, 9)] == [1, 9, 9]
    assert [whole_latents(n, 1) for n in (1, 2, 9)] == [1, 2, 9]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (torch.zeros(1, 3, 64, 96), "got float32"),
        (torch.zeros(3, 64, 96, dtype=torch.uint8), "got uint8 [3, 64, 96]"),
        (torch.zeros(1, 2, 64, 96, dtype=torch.uint8), "uint8 [T, 3 or 4, H, W]"),
        (torch.zeros(0, 3, 64, 96, dtype=torch.uint8), "1 to 9 images, got 0"),
        (torch.zeros(10, 3, 64, 96, dtype=torch.uint8), "1 to 9 images, got 10"),
        (torch.zeros(1, 3, 8, 96, dtype=torch.uint8), "got 96x8"),
        (torch.zeros(1, 3, 20, 200, dtype=torch.uint8), "8 times the other, got 200x20"),
        (torch.zeros(1, dtype=torch.uint8).expand(1, 3, 9000, 9000), "got 9000x9000"),
    ],
)
def test_bad_images_are_named_before_anything_is_computed(bad: torch.Tensor, said: str) -> None:
    with pytest.raises(PromptFrameError) as caught:
        fit_prompt_frames(bad, 64, 96)
    assert said in str(caught.value)
    assert caught.value.remedy


def test_a_size_that_the_compression_does_not_divide_is_refused() -> None:
    with pytest.raises(
        PromptFrameError, match="height that spatial_compression 16 .* got height 100"
    ):
        fit_prompt_frames(noise(64, 96), 100, 160, spatial_compression=16)
    with pytest.raises(PromptFrameError, match="got width 90; take 80"):
        fit_prompt_frames(noise(64, 96), 64, 90, spatial_compression=16)
    with pytest.raises(PromptFrameError, match="expected 1 image, got 2"):
        fit_prompt_frames(noise(64, 96, count=2), 64, 96, most=1)
