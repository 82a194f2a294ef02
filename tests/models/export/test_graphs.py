"""The exported modules compute what the tokenizer computes, before they become files."""

from __future__ import annotations

import pytest
import torch

from tests.models.tokenizer.test_streaming import CONFIGS, build, random_indices, random_video
from worldbridge.models.errors import ExportError
from worldbridge.models.export.graphs import (
    FirstStep,
    NextStep,
    WholeDecoder,
    WholeEncoder,
    build_graphs,
    memory_of,
    to_bytes,
)

GRID = (2, 3)
NAMES = ("embedded", "embedded_attention", "dv8x16x16", "dv8x8x8", "dv4x8x8", "no_time_patch")


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_steps_of_fixed_shapes_are_those_of_the_stream(name: str) -> None:
    """Past the window too, where the oldest latents are forgotten."""
    tokenizer = build(CONFIGS[name])
    window = 2 if tokenizer.config.attention else None
    slots = memory_of(tokenizer, GRID, window)
    first = FirstStep(tokenizer, "float", window)
    later = NextStep(tokenizer, "float", window, [slot.layer for slot in slots])
    state = tokenizer.decode_stream_init(1, *GRID, window)
    memory: list[torch.Tensor] = []
    for step, codes in enumerate(random_indices(tokenizer.config, 1, 6, *GRID).split(1, dim=1)):
        expected, state = tokenizer.decode_step(codes, state)
        found, *memory = later(codes.int(), *memory) if step else first(codes.int())
        assert found.shape == expected.shape
        assert _close(found, expected), step
        assert [tuple(x.shape) for x in memory] == [slot.shape for slot in slots]
        assert [x.dtype for x in memory] == [slot.dtype for slot in slots]
        if window:  # never larger, however long the stream
            assert (slots[-1].layer, int(memory[-1])) == ("seen", min(step + 1, window))


@torch.inference_mode()
def test_a_step_needs_its_memory() -> None:
    """What is held to a millionth above fails by far with the memory of another step."""
    tokenizer = build(CONFIGS["dv8x8x8"])
    slots = memory_of(tokenizer, GRID, 2)
    later = NextStep(tokenizer, "float", 2, [slot.layer for slot in slots])
    codes = random_indices(tokenizer.config, 1, 3, *GRID).int()
    _, *stale = FirstStep(tokenizer, "float", 2)(codes[:, :1])
    _, *memory = later(codes[:, 1:2], *stale)
    right, wrong = later(codes[:, 2:], *memory)[0], later(codes[:, 2:], *stale)[0]
    assert (right - wrong).abs().max() > 0.01 * right.abs().max()


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_whole_videos_both_ways(name: str) -> None:
    tokenizer = build(CONFIGS[name])
    codes = random_indices(tokenizer.config, 1, 3, *GRID)
    assert torch.equal(WholeDecoder(tokenizer, "float")(codes.int()), tokenizer.decode(codes))
    video = random_video(tokenizer.config, 2)
    found = WholeEncoder(tokenizer)(video)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), tokenizer.encode(video))


def test_bytes_are_clamped_and_rounded_as_served() -> None:
    from worldbridge.runtime.frames.i420 import unit_to_bytes

    video = torch.linspace(-1.5, 1.5, 2 * 3 * 5 * 7).view(1, 3, 2, 5, 7)
    found = to_bytes(video)
    assert found.shape == (1, 2, 5, 7, 3)
    assert torch.equal(found.permute(0, 4, 1, 2, 3), unit_to_bytes(video.clone()))


def test_attention_needs_a_window() -> None:
    tokenizer = build(CONFIGS["dv8x8x8"])
    for window in (None, 0):
        with pytest.raises(ExportError, match="at least 1 earlier latent"):
            memory_of(tokenizer, GRID, window)


def test_descriptions_fit_the_modules() -> None:
    tokenizer = build(CONFIGS["dv8x8x8"])
    parts = frozenset(("stream", "decoder", "encoder"))
    for pixels in ("float", "bytes"):
        for graph in build_graphs(tokenizer, GRID, 3, pixels, parts):  # type: ignore[arg-type]
            found = graph.module(*graph.arguments)
            found = found if isinstance(found, tuple) else (found,)
            for values, tensors in ((graph.inputs, graph.arguments), (graph.outputs, found)):
                assert len(values) == len(tensors)
                for value, tensor in zip(values, tensors, strict=True):
                    assert value.dtype == tensor.dtype, (graph.name, value.name)
                    for axis, size in zip(value.shape, tensor.shape, strict=True):
                        assert axis == size or isinstance(axis, str), (graph.name, value.name)
