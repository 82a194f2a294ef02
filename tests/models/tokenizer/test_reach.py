"""How far back the decoder looks: no less and no more than is said."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from worldbridge.models.tokenizer import DV8X16X16, EMBEDDED, TokenizerConfig, VideoTokenizer
from worldbridge.models.tokenizer.config import decoder_receptive_field

SMALL = dataclasses.replace(
    DV8X16X16,
    channels=4,
    z_channels=4,
    levels=(8, 8, 8),
    embedding_dim=3,
    decoder_res_blocks=(1, 1, 1),
)


def newest_frames(tokenizer: VideoTokenizer, latents: Tensor, window: int) -> Tensor:
    """Of the last of latents [t, h, w], decoded one by one."""
    state = tokenizer.decode_stream_init(1, *latents.shape[1:], window)
    for latent in latents:
        frames, state = tokenizer.decode_step(latent[None, None], state)
    return frames


def test_what_the_published_decoder_needs() -> None:
    assert decoder_receptive_field(DV8X16X16, 5) == 42 + 5
    assert decoder_receptive_field(EMBEDDED, 5) == 8


@pytest.mark.parametrize(
    ("config", "window"),
    [(SMALL, 1), (SMALL, 3), (dataclasses.replace(SMALL, spatial_compression=8), 2)],
)
@torch.inference_mode()
def test_a_latent_depends_on_so_many_before_it(config: TokenizerConfig, window: int) -> None:
    torch.manual_seed(2)
    tokenizer = VideoTokenizer(config).double().eval()  # a distant latent changes the tenth digit
    reach = decoder_receptive_field(config, window)
    latents = torch.randint(config.vocabulary, (reach + 3, 2, 2))
    whole = newest_frames(tokenizer, latents, window)
    changed = [latents.clone(), latents.clone()]
    for back, other in zip((reach + 1, reach), changed, strict=True):
        other[-1 - back] = (other[-1 - back] + config.vocabulary // 2) % config.vocabulary
    assert torch.equal(newest_frames(tokenizer, changed[0], window), whole)
    assert not torch.equal(newest_frames(tokenizer, changed[1], window), whole)
    assert torch.equal(newest_frames(tokenizer, latents[-1 - reach :], window), whole)
    assert not torch.equal(newest_frames(tokenizer, latents[-reach:], window), whole)
