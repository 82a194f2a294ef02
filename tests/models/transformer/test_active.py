"""Drawing for active blocks alone: order, inputs, and decoding step by step as in training."""

import pytest
import torch

from worldbridge.models.transformer import TransformerConfig, VideoTransformer, WavefrontConfig
from worldbridge.models.transformer.active import draw_order, known_neighbours, neighbour_digits
from worldbridge.runtime.decoding.active import ActiveDecoder
from worldbridge.runtime.decoding.sampling import Sampling

TINY = TransformerConfig(
    dim=32,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    head_dim=16,
    ffn_hidden_size=64,
    vocab_size=4**3,
    latent_shape=(1, 6, 8),
    rope_theta=100.0,
    conditioning="modulation",
    condition_dim=3,
    condition_hidden=16,
    grid=WavefrontConfig(
        fsq_levels=(4, 4, 4), head_hidden=16, previous_kernel=(3, 3), guide_dim=5, summary=(2, 2)
    ),
)


def tiny(seed: int = 0) -> VideoTransformer:
    torch.manual_seed(seed)
    model = VideoTransformer(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def holes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 6, 8, generator=generator) < 0.4


def inputs(batch: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    digits = torch.randint(4, (batch, 6, 8, 3), generator=generator)
    previous = torch.randint(-1, 4, (batch, 6, 8, 3), generator=generator)
    guide = torch.randn(batch, 6, 8, 5, generator=generator)
    return digits, guide, previous, torch.randn(batch, 3, generator=generator)


def test_a_strip_is_drawn_from_what_is_known() -> None:
    active = torch.zeros(1, 6, 8, dtype=torch.bool)
    active[0, :, :3] = True
    order = draw_order(active)[0]
    assert (order[~active[0]] == -1).all()
    assert (order[3, 2], order[2, 2], order[4, 2]) == (0, 1, 1)  # its horizon, then both sides
    for row, column in active[0].nonzero().tolist():
        before = order[row + (row < 3) - (row > 3), column]
        assert row == 3 or before < order[row, column]
        assert column == 2 or order[row, column + 1] < order[row, column]


def test_regions_begin_together() -> None:
    active = torch.zeros(1, 6, 8, dtype=torch.bool)
    active[0, 0, 0] = active[0, 5, 5:7] = active[0, 3, 4] = True
    order = draw_order(active)[0]
    assert order[0, 0] <= 1 and order[3, 4] <= 1
    assert order[5, 5:7].max() <= 2


def test_steps_are_consecutive_and_neighbours_are_drawn_apart() -> None:
    active = holes(5)
    active[3] = True
    active[4] = False
    for order, drawn in zip(draw_order(active), active, strict=True):
        steps = order[drawn].unique().tolist()
        assert steps == list(range(len(steps)))
        assert (order[~drawn] == -1).all()
        for first, second in ((order[:, 1:], order[:, :-1]), (order[1:], order[:-1])):
            assert not bool(((first == second) & (first >= 0)).any())


def test_only_neighbours_drawn_before_are_known() -> None:
    active = torch.zeros(1, 6, 8, dtype=torch.bool)
    active[0, 2, 2:4] = True  # the right one is nearer to the middle
    digits = torch.arange(6 * 8 * 3).view(1, 6, 8, 3)
    near = neighbour_digits(digits.flatten(1, 2), *known_neighbours(draw_order(active)))
    near = near.view(6, 8, 8, 3)
    assert (near[2, 3] == -1).all()
    assert near[2, 2, 1].tolist() == digits[0, 2, 3].tolist()
    assert (near[2, 2, [0, *range(2, 8)]] == -1).all()


def test_features_do_not_see_what_is_drawn_later() -> None:
    model, active = tiny(), holes(1)
    digits, guide, previous, condition = inputs(1)
    order = draw_order(active)
    with torch.inference_mode():
        before, layout = model.active_features(digits, active, guide, previous, condition)
        for step in range(int(order.max()) + 1):
            changed = torch.where((order >= step)[..., None], (digits + 1) % 4, digits)
            after, _ = model.active_features(changed, active, guide, previous, condition)
            rows = layout.step[0] <= step
            torch.testing.assert_close(after[0, rows], before[0, rows])
            later = layout.step[0] > step
            assert not later.any() or not torch.allclose(after[0, later], before[0, later])


def test_a_latent_does_not_depend_on_the_batch() -> None:
    model, active = tiny(), holes(4)
    active[2] = False
    values = inputs(4)
    with torch.inference_mode():
        whole, layout = model.active_features(values[0], active, *values[1:])
        for i in range(4):
            if not active[i].any():
                continue
            alone, own = model.active_features(
                values[0][i : i + 1], active[i : i + 1], *(v[i : i + 1] for v in values[1:])
            )
            count = int(active[i].sum())
            assert layout.slots[i, :count].tolist() == own.slots[0].tolist()
            torch.testing.assert_close(whole[i, :count], alone[0])


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_steps_draw_what_single_blocks_draw(share: float) -> None:
    model = tiny()
    _, guide, previous, condition = inputs(1)
    active = torch.rand(6, 8, generator=torch.Generator().manual_seed(1)) < share
    sampling = Sampling(temperature=1.0, top_p=0.95, top_k=4)
    drawn = [
        ActiveDecoder(model, sampling, sequential=sequential).decode(
            active, guide[0], previous[0], condition[0], seed=7, latent=3
        )
        for sequential in (False, True)
    ]
    assert torch.equal(*drawn)
    assert torch.equal((drawn[0] >= 0).all(-1), active)
    assert (drawn[0][~active] == -1).all()


def test_the_most_likely_codes_are_those_of_training() -> None:
    model, active = tiny(), holes(1, seed=3)
    _, guide, previous, condition = inputs(1)
    digits = ActiveDecoder(model, Sampling(temperature=0)).decode(
        active[0], guide[0], previous[0], condition[0], seed=0, latent=0
    )
    with torch.inference_mode():
        features, layout = model.active_features(
            digits.clamp_min(0)[None], active, guide, previous, condition
        )
        basis = torch.tensor([1, 4, 16])
        rows = digits.flatten(0, 1)[layout.slots[0]]
        parts = model.output(features[0], (rows * basis).sum(-1))
    for d, log_probabilities in enumerate(parts):
        assert (log_probabilities.argmax(-1) == rows[:, d]).float().mean() > 0.95


def test_nothing_new_draws_nothing() -> None:
    model = tiny()
    _, guide, previous, condition = inputs(1)
    decoder = ActiveDecoder(model, Sampling())
    steps: list[int] = []
    decoder.on_step = lambda: steps.append(1)
    none = torch.zeros(6, 8, dtype=torch.bool)
    digits = decoder.decode(none, guide[0], previous[0], condition[0], seed=0, latent=0)
    assert (digits == -1).all()
    assert not steps
