"""The plain ways draw what the decoders draw."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.models.transformer.test_grid import tiny
from tests.runtime.decoding import test_raster_camera as cameras
from tests.runtime.decoding import test_raster_decoder as raster
from tests.support.decoders import eager_decoder, packed_decoder
from worldbridge.benchmarks.decode.baselines import (
    PlainRaster,
    PlainWavefront,
    PublishedRaster,
    sorted_scores,
)
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.runtime.decoding import Sampling, SavedTokens
from worldbridge.runtime.decoding.sampling import sample

SAMPLING = Sampling(temperature=0.9, top_p=0.8, top_k=50)
CONFIGS = {
    "plain": raster.BASE,
    "text": raster.VIDEO2WORLD,
    "yarn": raster.LONG,
    "actions": raster.ACTIONS,
    "camera": cameras.CAMERA,
    "camera and actions": cameras.WITH_ACTIONS,
}


def build(config: TransformerConfig) -> VideoTransformer:
    return cameras.build(config) if config.takes_camera else raster.build(config)


def past_of(config: TransformerConfig, latents: int) -> tuple[SavedTokens, Tensor, Tensor]:
    """A past, and actions and cameras of the latent behind it."""
    said = torch.randn(latents + 1, 4, generator=torch.Generator().manual_seed(3))
    seen = cameras.walk(latents + 1)
    past = SavedTokens(
        5,
        latents,
        raster.prompt(config, latents),
        raster.context_of(config),
        said[:-1] if config.takes_actions else None,
        seen[:-1] if config.takes_camera else None,
    )
    return past, said[-1], seen[-1]


@pytest.mark.parametrize("kind", [PlainRaster, PublishedRaster])
@pytest.mark.parametrize("name", CONFIGS)
def test_raster_models_are_drawn_as_by_the_decoder(name: str, kind: type[PlainRaster]) -> None:
    config = CONFIGS[name]
    model = build(config)
    decoder = eager_decoder(model, 2, SAMPLING, "sequential")
    options = {"compiled": False} if kind is PublishedRaster else {}
    plain = kind(model, SAMPLING, **options)
    for latents in (1, 2, 1):  # what one draw leaves behind is not seen by the next
        past, said, seen = past_of(config, latents)
        condition = said if config.takes_actions else None
        pose = seen if config.takes_camera else None
        expected = decoder.decode(
            [decoder.restore(past)],
            None if condition is None else condition[None],
            None if pose is None else pose[None],
        )
        marks: list[int] = []
        drawn = plain.draw(past, condition, pose, lambda marks=marks: marks.append(0))  # type: ignore[misc]
        assert torch.equal(drawn, expected[0])
        assert len(marks) == drawn.numel() + 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_compiling_the_published_way_changes_no_token() -> None:
    pytest.importorskip("triton", reason="torch.compile wants it")
    model = build(raster.BASE)
    past, _, _ = past_of(raster.BASE, 1)
    drawn = [
        PublishedRaster(model, SAMPLING, compiled=compiled).draw(past, None, None, lambda: None)
        for compiled in (False, True)
    ]
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    "sampling",
    [SAMPLING, Sampling(1.0, 0.5, 7), Sampling(2.0, 1.0, 64), Sampling(0.0), Sampling(1.0, 0.01)],
)
def test_sorting_all_logits_keeps_the_same_codes(sampling: Sampling) -> None:
    torch.manual_seed(0)
    for _ in range(50):
        logits, noise = 2 * torch.randn(1, 64), torch.randn(1, 64)
        scores = sorted_scores(logits, noise, sampling)
        assert torch.equal(scores.argmax(-1), sample(logits, noise, sampling))


def test_grids_are_drawn_as_by_the_decoder() -> None:
    model = tiny(window_frames=3, previous_latents=2)
    sampling = Sampling(temperature=1.0, top_p=0.95, top_k=12)
    decoder, plain = packed_decoder(model, 1, sampling), PlainWavefront(model, sampling, seed=4)
    session = decoder.open(4)
    condition = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    first = torch.arange(15).view(3, 5)
    decoder.prefill(session, first, condition[0])
    plain.prefill(first, condition[0])
    for t in range(1, 9):  # longer than the window
        marks: list[int] = []
        drawn = plain.draw(condition[t], lambda marks=marks: marks.append(0))  # type: ignore[misc]
        assert torch.equal(drawn, decoder.decode([session], condition[t : t + 1])[0]), t
        assert len(marks) == 16
