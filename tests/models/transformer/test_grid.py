"""Token grids: digits, masks, and what a slot may see."""

import dataclasses

import pytest
import torch

from worldbridge.models.training.stages import EMBEDDED_TRANSFORMER
from worldbridge.models.transformer import TransformerConfig, VideoTransformer, WavefrontConfig
from worldbridge.models.transformer.model import previous_latents
from worldbridge.models.transformer.wavefront import (
    DigitEmbedding,
    DigitHead,
    code_digits,
    diagonal_step,
    slot_mask,
)

LEVELS = (4, 2, 2)
TINY = TransformerConfig(
    dim=24,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    head_dim=12,
    ffn_hidden_size=32,
    vocab_size=16,
    latent_shape=(4, 3, 5),
    rope_theta=100.0,
    conditioning="modulation",
    condition_dim=3,
    condition_hidden=8,
    grid=WavefrontConfig(fsq_levels=LEVELS, head_hidden=16, window_frames=2),
)


def tiny(**changes: object) -> VideoTransformer:
    torch.manual_seed(1)
    grid = dataclasses.replace(TINY.grid, **changes)  # type: ignore[type-var]
    model = VideoTransformer(dataclasses.replace(TINY, grid=grid)).eval()
    for parameter in model.parameters():  # so that nothing is hidden by a zero
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_digits_are_the_mixed_radix_of_a_code() -> None:
    codes = torch.arange(16)
    digits = code_digits(codes, LEVELS)
    assert torch.equal(digits[:, 0] + 4 * digits[:, 1] + 8 * digits[:, 2], codes)


def test_an_embedding_is_the_sum_of_its_digits() -> None:
    embedding = DigitEmbedding(LEVELS, 8)
    codes = torch.tensor([[5, 15], [0, 12]])
    digits = code_digits(codes, LEVELS)
    rows = [embedding.weight[digits[..., d] + offset] for d, offset in enumerate((0, 4, 6))]
    torch.testing.assert_close(embedding(codes), rows[0] + rows[1] + rows[2])


def test_the_head_is_a_distribution_over_all_codes() -> None:
    torch.manual_seed(0)
    head = DigitHead(LEVELS, 8, 6)
    torch.nn.init.normal_(head.weight)
    torch.nn.init.normal_(head.earlier)
    x, codes = torch.randn(8).expand(16, 8), torch.arange(16)
    digits = code_digits(codes, LEVELS)
    parts = head(x, codes)
    logs = sum(part.gather(1, digits[:, d : d + 1])[:, 0] for d, part in enumerate(parts))
    torch.testing.assert_close(logs.exp().sum(), torch.tensor(1.0))
    torch.testing.assert_close(head.nll(x, codes), -logs.mean())
    independent = parts[1][0].allclose(parts[1][1])
    assert not independent  # a digit sees the ones before it


def test_draws_follow_the_heads_distribution() -> None:
    torch.manual_seed(0)
    head = DigitHead(LEVELS, 8, 6)
    torch.nn.init.normal_(head.weight)
    torch.nn.init.normal_(head.earlier)
    x, codes = torch.randn(8), torch.arange(16)
    digits = code_digits(codes, LEVELS)
    parts = head(x.expand(16, 8), codes)
    share = torch.stack([p.gather(1, digits[:, d : d + 1])[:, 0] for d, p in enumerate(parts)])
    drawn = head.draw(x.expand(20_000, 8), torch.Generator().manual_seed(1))
    found = torch.bincount(drawn, minlength=16) / len(drawn)
    torch.testing.assert_close(found, share.sum(0).exp().detach(), atol=0.015, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_mask_is_the_diagonal_seen_in_raster_order(k: int) -> None:
    height, width = 4, 6
    mask = slot_mask(height, width, k).view(height, width, height, width)
    step = diagonal_step(height, width, k)
    for r in range(height):
        for c in range(width):
            for r2 in range(height):
                for c2 in range(width):
                    # in raster order it has run, and along the diagonals it has run
                    raster = r2 < r or (r2 == r and c2 <= c)
                    before = bool(step[r2, c2] <= step[r, c]) and r2 <= r
                    assert bool(mask[r, c, r2, c2]) == (raster and before)
    assert int(step.max()) + 1 == width + (height - 1) * k


@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_slot_depends_on_what_its_mask_and_inputs_allow_and_on_nothing_else(window: int) -> None:
    model = tiny(window_frames=window, previous_latents=1)
    codes = torch.randint(16, (1, 4, 3, 5))
    condition = torch.randn(1, 4, 3)
    with torch.inference_mode():
        base = model.clip_features(codes, condition)
        changed = codes.clone()
        changed[0, 2, 1, 2] = (changed[0, 2, 1, 2] + 7) % 16
        moved = (model.clip_features(changed, condition) - base).abs().amax(-1)[0] > 1e-6
    assert not moved[:2].any()  # the past
    step = diagonal_step(3, 5, 1)
    for r in range(3):
        for c in range(5):
            fed_left, fed_below = (1, 3), (2, 2)  # the slots whose input holds the changed token
            may = any(
                step[s] <= step[r, c] and s[0] <= r and s <= (r, c) for s in (fed_left, fed_below)
            )
            assert not moved[2, r, c] or may
    assert moved[2, 1, 3] and moved[2, 2, 2]
    assert moved[3].any()


def test_previous_latents_come_newest_first() -> None:
    codes = torch.arange(3).view(1, 3, 1, 1)
    seen = previous_latents(codes, 2)[0, :, :, 0, 0]
    assert seen.tolist() == [[-1, -1], [0, -1], [1, 0]]


def test_levels_must_make_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="make 16 codes, but vocab_size is 25"):
        dataclasses.replace(TINY, vocab_size=25)


def test_embedded_world_is_a_config_of_the_same_class() -> None:
    with torch.device("meta"):
        model = VideoTransformer(EMBEDDED_TRANSFORMER)
    assert sum(p.numel() for p in model.parameters()) < 8_000_000
