import math

import numpy as np
import pytest
import torch

from worldbridge.models.guided.config import (
    FARTHEST,
    GuidedConfig,
    GuideError,
    active_blocks,
    floor_nearness,
    make_guide,
    nearness_to_unit,
    unit_to_nearness,
)
from worldbridge.models.guided.tokenizer import GuidedTokenizer, of_largest
from worldbridge.models.procedural.actions import FOV_Y_DEG
from worldbridge.models.procedural.camera import spawn
from worldbridge.models.procedural.plain import build_plain_scene
from worldbridge.models.procedural.render import render_rgbd

SMALL = GuidedConfig(64, 96, trunk_dim=16, guide_dim=16, fine_dim=16, block_dim=32, blocks=1)


def example(seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    color = torch.rand(batch, 3, 64, 96, generator=generator) * 2 - 1
    nearness = torch.rand(batch, 64, 96, generator=generator) + 0.05
    mask = torch.ones(batch, 64, 96, dtype=torch.bool)
    mask[:, :, :40] = False
    floor = floor_nearness(torch.zeros(batch), 64, 96, FOV_Y_DEG)
    return color, nearness, mask, make_guide(color, nearness, mask, floor)


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return GuidedTokenizer(SMALL).eval()


def test_sizes_that_do_not_fit_the_blocks_are_refused():
    with pytest.raises(GuideError) as caught:
        GuidedConfig(height=321)
    assert "321" in str(caught.value)


def test_nearness_survives_its_scale_and_is_clipped_at_the_sky():
    nearness = torch.tensor([FARTHEST, 0.1, 1.0, 4.0])
    assert torch.allclose(unit_to_nearness(nearness_to_unit(nearness)), nearness, rtol=1e-5)
    assert float(nearness_to_unit(torch.tensor(0.0))) == 0.0


@pytest.mark.parametrize("pitch", [-0.2, 0.0, 0.15])
def test_the_floor_is_where_the_renderer_has_it(pitch):
    scene = build_plain_scene("city", 4)
    state = spawn(scene, 4)
    state = type(state)(state.x, state.z, state.yaw, pitch)
    _, nearness = render_rgbd(scene, state, 64, 96)
    floor = floor_nearness(torch.tensor([pitch]), 64, 96, FOV_Y_DEG)[0]
    # Nothing is seen through the floor, and some of it is seen.
    assert bool((nearness >= floor * 0.995).all())
    assert float((nearness - floor).abs().div(floor).lt(0.01).float().mean()) > 0.1


def test_a_block_is_active_when_more_than_its_share_is_unseen():
    mask = torch.ones(1, 32, 48, dtype=torch.bool)
    mask[0, 0, :5] = False  # 5 of 256 pixels: just below 2 %
    mask[0, 20, 16:22] = False  # 6 of 256: above
    assert active_blocks(mask, 0.02).tolist() == [[[False] * 3, [False, True, False]]]


def test_pixels_that_the_memory_shows_pass_through_unchanged(tokenizer):
    color, nearness, mask, guide = example()
    features = tokenizer.guide_features(guide)
    digits = tokenizer.encode(color, nearness, guide, features)
    drawn, near = tokenizer.decode(digits, active_blocks(mask, 0.02), guide, features)
    assert digits.shape == (2, 4, 6, 12)
    assert int(digits.max()) < SMALL.levels
    assert torch.equal(drawn[:, :, :, 40:], color[:, :, :, 40:])
    assert torch.allclose(near[:, :, 40:], nearness[:, :, 40:], rtol=1e-5)
    assert not torch.equal(drawn[:, :, :, :40], color[:, :, :, :40])


def test_codes_of_blocks_with_nothing_new_are_not_read(tokenizer):
    color, nearness, mask, guide = example()
    features = tokenizer.guide_features(guide)
    active = active_blocks(mask, 0.02)
    digits = tokenizer.encode(color, nearness, guide, features)
    other = torch.where(active[..., None], digits, 7 - digits)
    assert not torch.equal(other, digits)
    expected = tokenizer.decode(digits, active, guide, features)
    got = tokenizer.decode(other, active, guide, features)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_some_pixels_are_decoded_as_the_whole_frame_is(tokenizer):
    color, nearness, mask, guide = example()
    guide = guide[:1]
    features = tokenizer.guide_features(guide)
    active = active_blocks(mask[:1], 0.02)
    digits = tokenizer.encode(color[:1], nearness[:1], guide, features)
    where = (torch.rand(mask.shape[1:]) < 0.3) & ~mask[0]
    whole = tokenizer.decode(digits, active, guide, features)
    some = tokenizer.decode_pixels(digits, active, features, where)
    assert torch.equal(some[0], whole[0][0][:, where].T)
    assert torch.equal(some[1], whole[1][0][where])


def test_the_null_code_is_zero(tokenizer):
    digits = torch.full((1, 4, 6, 12), SMALL.null_digit, dtype=torch.uint8)
    assert float(tokenizer.codes(digits).abs().max()) == 0.0


def test_every_pixel_has_one_of_its_cells_colors_outside_of_training(tokenizer):
    _, _, mask, guide = example()
    features = tokenizer.guide_features(guide)
    codes = torch.randn(2, 12, 4, 6, generator=torch.Generator().manual_seed(3))
    active = active_blocks(mask, 0.02)
    cells = tokenizer.paint(codes, active, features).color.unfold(2, 8, 8).unfold(3, 8, 8)
    cells = cells.permute(0, 2, 3, 4, 5, 1).reshape(-1, 64, 3)
    counts = [len(cell.unique(dim=0)) for cell in cells]
    assert max(counts) <= SMALL.surfaces
    assert max(counts) > 1


def test_the_fast_choice_of_a_surface_is_that_of_argmax():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 3, (2, 4, 8, 8), generator=generator).float()  # many are equal
    values = torch.rand(2, 4, 5, 8, 8, generator=generator)
    index = logits.argmax(1)[:, None, None].expand(-1, 1, 5, -1, -1)
    assert torch.equal(of_largest(values, logits), values.gather(1, index)[:, 0])


def test_a_frame_without_depth_is_encoded_without_reading_any(tokenizer):
    color, _, _, guide = example()
    features = tokenizer.guide_features(guide)
    digits = tokenizer.encode(color, None, guide, features)
    assert digits.shape == (2, 4, 6, 12)


def test_noise_in_place_of_rounding_stays_within_half_a_step():
    tokenizer = GuidedTokenizer(SMALL)
    z = torch.linspace(-4, 4, 4096).view(-1, 1).expand(-1, 12)
    torch.manual_seed(0)
    difference = (tokenizer.fsq.perturb(z) - tokenizer.fsq.quantize(z)) * SMALL.null_digit
    assert float(difference.abs().max()) <= 1.0
    assert math.isclose(float(difference.mean()), 0.0, abs_tol=0.02)


def test_masks_are_empty_for_a_third_and_show_most_for_the_rest():
    from worldbridge.models.training.guided.masks import random_mask

    nearness = np.full((80, 128), 0.1, np.float32)
    nearness[30:60, 50:70] = 0.8
    shares = [random_mask(nearness, np.random.default_rng(k)).mean() for k in range(400)]
    assert 0.25 < np.mean([s == 0 for s in shares]) < 0.45
    assert np.median([s for s in shares if s > 0]) > 0.6
