"""A stream gives what the whole video gives, whatever the split, batch and configuration."""

import dataclasses
import itertools
import random

import pytest
import torch
from torch import Tensor

from worldbridge.models.tokenizer import (
    DV4X8X8,
    DV8X8X8,
    DV8X16X16,
    EMBEDDED,
    StreamState,
    TokenizerConfig,
    VideoTokenizer,
)

SMALL = dataclasses.replace(EMBEDDED, channels=8, decoder_res_blocks=(1, 1, 1))
TIGHT = {"channels": 4, "encoder_res_blocks": (1, 1, 1), "decoder_res_blocks": (1, 1, 1)}
CONFIGS = {
    "embedded": SMALL,
    "embedded_all_temporal": dataclasses.replace(SMALL, temporal_convs="all", in_kernel=3),
    "embedded_attention": dataclasses.replace(SMALL, attention=True, norm="group"),
    "dv8x16x16": dataclasses.replace(DV8X16X16, channels=4),
    "dv8x8x8": dataclasses.replace(DV8X8X8, **TIGHT),
    "dv4x8x8": dataclasses.replace(DV4X8X8, **TIGHT),
    "patch2_cheap_steps": dataclasses.replace(
        DV8X8X8,
        **TIGHT,
        patch_size=2,
        temporal_compression=4,
        upsample="subpixel",
        downsample="space_to_depth",
        norm="rms",
        temporal_convs="none",
    ),
    "no_time_patch": dataclasses.replace(
        DV8X8X8,
        **TIGHT,
        patch_size=2,
        patch_time=False,
        temporal_compression=2,
        upsample="subpixel",
        downsample="space_to_depth",
    ),
}


def build(config: TokenizerConfig) -> VideoTokenizer:
    """Random everywhere: weights that start at zero would hide what they multiply."""
    torch.manual_seed(3)
    tokenizer = VideoTokenizer(config).eval()
    for name, parameter in tokenizer.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=0.1)
    return tokenizer


def random_indices(config: TokenizerConfig, *shape: int) -> Tensor:
    return torch.randint(config.vocabulary, shape, generator=torch.Generator().manual_seed(5))


def random_video(config: TokenizerConfig, latents: int, batch: int = 1) -> Tensor:
    frames, side = 1 + (latents - 1) * config.temporal_compression, config.spatial_compression
    generator = torch.Generator().manual_seed(7)
    blobs = torch.rand(batch, 3, frames, 6, 2, generator=generator) * 2 - 1
    return blobs.repeat_interleave(side // 2, 3).repeat_interleave(side // 2, 4)


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


def decode_in_steps(
    tokenizer: VideoTokenizer, indices: Tensor, sizes: list[int], window: int | None = None
) -> list[Tensor]:
    state = tokenizer.decode_stream_init(len(indices), *indices.shape[2:], window=window)
    parts = []
    for chunk in indices.split(sizes, dim=1):
        part, state = tokenizer.decode_step(chunk, state)
        parts.append(part)
    return parts


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_decode_one_latent_at_a_time(name: str) -> None:
    tokenizer = build(CONFIGS[name])
    indices = random_indices(tokenizer.config, 2, 4, 3, 5)
    parts = decode_in_steps(tokenizer, indices, [1] * 4)
    per_latent = tokenizer.config.temporal_compression
    assert [part.shape[2] for part in parts] == [1] + [per_latent] * 3
    close(torch.cat(parts, 2), tokenizer.decode(indices))


@pytest.mark.parametrize("name", ["embedded", "dv8x16x16"])
@torch.inference_mode()
def test_decode_one_to_nine_latents_in_random_splits(name: str) -> None:
    tokenizer = build(CONFIGS[name])
    indices = random_indices(tokenizer.config, 1, 9, 1, 3)
    whole = tokenizer.decode(indices)
    draw = random.Random(1)
    for latents in range(1, 10):
        cuts = sorted(draw.sample(range(1, latents), draw.randint(0, latents - 1)))
        sizes = [b - a for a, b in itertools.pairwise([0, *cuts, latents])]
        video = torch.cat(decode_in_steps(tokenizer, indices[:, :latents], sizes), 2)
        frames = 1 + (latents - 1) * tokenizer.config.temporal_compression
        close(video, whole[:, :, :frames])


@pytest.mark.parametrize("name", ["embedded_all_temporal", "dv8x16x16", "no_time_patch"])
@torch.inference_mode()
def test_strict_causality(name: str) -> None:
    tokenizer = build(CONFIGS[name])
    n = tokenizer.config.temporal_compression
    indices = random_indices(tokenizer.config, 1, 3, 1, 2)
    changed = indices.clone()
    changed[:, 2] = (changed[:, 2] + 1234) % tokenizer.config.vocabulary
    before, after = tokenizer.decode(indices), tokenizer.decode(changed)
    close(after[:, :, : 1 + n], before[:, :, : 1 + n])
    assert (after[:, :, 1 + n :] - before[:, :, 1 + n :]).abs().amax((0, 1, 3, 4)).min() > 1e-3

    video = random_video(tokenizer.config, 3)
    other = video.clone()
    other[:, :, 1 + n :] *= -1
    first, second = tokenizer.encode(video), tokenizer.encode(other)
    assert torch.equal(first[:, :2], second[:, :2])
    assert not torch.equal(first[:, 2], second[:, 2])


@pytest.mark.parametrize("name", ["embedded", "dv8x16x16"])
@torch.inference_mode()
def test_sessions_join_and_leave(name: str) -> None:
    """Streams of different ages are stepped as one batch and taken apart again."""
    tokenizer = build(CONFIGS[name])
    n = tokenizer.config.temporal_compression
    indices = random_indices(tokenizer.config, 3, 6, 2, 3)
    whole = tokenizer.decode(indices)
    fresh = tokenizer.decode_stream_init(1, 2, 3)
    ages = (4, 1, 3)
    states = [
        tokenizer.decode_step(indices[i : i + 1, :age], fresh)[1] for i, age in enumerate(ages)
    ]

    both = StreamState.concat(states)
    assert (both.batch, both.counts) == (3, ages)
    now = torch.stack([indices[i, age : age + 1] for i, age in enumerate(ages)])
    frames, both = tokenizer.decode_step(now, both)
    for i, age in enumerate(ages):
        start = 1 + (age - 1) * n
        close(frames[i], whole[i, :, start : start + n])

    pair = both.select([2, 1])
    assert pair.counts == (4, 2)
    now = torch.stack([indices[2, 4:5], indices[1, 2:3]])
    frames, pair = tokenizer.decode_step(now, pair)
    close(frames[0], whole[2, :, 1 + 3 * n : 1 + 4 * n])
    close(frames[1], whole[1, :, 1 + n : 1 + 2 * n])


@torch.inference_mode()
def test_a_step_leaves_the_old_state_usable() -> None:
    tokenizer = build(CONFIGS["dv8x16x16"])
    indices = random_indices(tokenizer.config, 1, 2, 1, 1)
    _, state = tokenizer.decode_step(indices[:, :1], tokenizer.decode_stream_init(1, 1, 1))
    once, _ = tokenizer.decode_step(indices[:, 1:], state)
    again, _ = tokenizer.decode_step(indices[:, 1:], state)
    assert torch.equal(once, again)


@torch.inference_mode()
def test_window_bounds_memory_and_does_not_depend_on_the_split() -> None:
    tokenizer = build(CONFIGS["dv8x16x16"])
    indices = random_indices(tokenizer.config, 1, 7, 1, 2)
    alone = torch.cat(decode_in_steps(tokenizer, indices, [1] * 7, window=2), 2)
    chunks = torch.cat(decode_in_steps(tokenizer, indices, [3, 4], window=2), 2)
    close(chunks, alone)
    assert (alone - tokenizer.decode(indices)).abs().max() > 1e-3  # the window does something

    state = tokenizer.decode_stream_init(1, 1, 2, window=2)
    sizes = []
    for latent in indices.split(1, dim=1):
        _, state = tokenizer.decode_step(latent, state)
        sizes.append(sum(value.untyped_storage().nbytes() for value in state.cache.values()))
    assert sizes[0] < sizes[1] == sizes[-1]
    assert all(len(value) == 1 for value in state.cache.values())


@torch.inference_mode()
def test_window_with_streams_of_different_ages() -> None:
    tokenizer = build(CONFIGS["dv8x16x16"])
    indices = random_indices(tokenizer.config, 2, 6, 1, 2)
    fresh = tokenizer.decode_stream_init(1, 1, 2, window=3)
    states = [tokenizer.decode_step(indices[i : i + 1, : 1 + 3 * i], fresh)[1] for i in (0, 1)]
    now = torch.stack([indices[0, 1:3], indices[1, 4:6]])
    joined, _ = tokenizer.decode_step(now, StreamState.concat(states))
    for i in (0, 1):
        single, _ = tokenizer.decode_step(now[i : i + 1], states[i])
        close(joined[i], single[0])
