"""Position-keyed noise and the sampler."""

import numpy as np
import pytest
import torch

from worldbridge.runtime.decoding import Sampling, position_noise, sample
from worldbridge.runtime.decoding.sampling import gumbel


def test_noise_belongs_to_the_position_however_it_is_asked_for() -> None:
    whole = position_noise(7, 0, 40, 64)
    for first, count in ((0, 1), (5, 3), (17, 23), (39, 1)):
        assert torch.equal(position_noise(7, first, count, 64), whole[first : first + count])
    assert not torch.equal(position_noise(8, 0, 40, 64), whole)


def test_noise_is_what_its_definition_says() -> None:
    generator = np.random.Philox(key=np.array([3, 0], dtype=np.uint64))
    raw = generator.random_raw(32).view(np.uint32)  # position 0 of 64 codes
    expected = ((raw >> 8) + 0.5) * 2.0**-24
    np.testing.assert_allclose(position_noise(3, 0, 1, 64)[0].numpy(), expected, rtol=1e-6)


def test_noise_is_uniform_and_never_zero_or_one() -> None:
    noise = position_noise(1, 10**12, 64, 4096)
    assert 0 < float(noise.min()) and float(noise.max()) <= 1 - 2.0**-25
    assert abs(float(noise.mean()) - 0.5) < 5e-3
    assert abs(float(noise.var()) - 1 / 12) < 2e-3


def test_the_largest_number_is_below_one_too() -> None:
    # position 166 of seed 0 has it, at code 5,196 of 64,000: all of its 24 bits are set
    noise = position_noise(0, 166, 1, 64_000)
    assert float(noise.max()) == 1 - 2.0**-24 and int(noise.argmax()) == 5_196
    assert bool(gumbel(noise).isfinite().all())


def test_noise_refuses_a_vocabulary_that_does_not_fill_blocks() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        position_noise(1, 0, 1, 12)


def test_frequencies_follow_the_distribution() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5, -3.0, 0.2, 0.1])
    draws = 40_000
    noise = gumbel(position_noise(11, 0, draws, 8))
    sampling = Sampling(temperature=0.8, top_p=1.0, top_k=8)
    drawn = sample(logits.expand(draws, -1), noise, sampling).bincount(minlength=8) / draws
    expected = (logits / 0.8).softmax(-1)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0.012)


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9])
def test_only_the_nucleus_is_drawn(top_p: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 64) * 2
    probability, order = logits[0].softmax(-1).sort(descending=True)
    inside = set(order[: int((probability.cumsum(0) - probability <= top_p).sum())].tolist())
    noise = gumbel(position_noise(5, 0, 4000, 64))
    drawn = sample(logits.expand(4000, -1), noise, Sampling(1.0, top_p, 64))
    assert set(drawn.tolist()) == inside


def test_top_k_and_greedy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(500, 64)
    noise = gumbel(position_noise(5, 0, 500, 64))
    best = logits.argmax(-1)
    assert torch.equal(sample(logits, noise, Sampling(temperature=0.0)), best)
    assert torch.equal(sample(logits, noise, Sampling(1.0, 1.0, 1)), best)
    allowed = logits.topk(3, -1).indices
    drawn = sample(logits, noise, Sampling(1.0, 1.0, 3))
    assert bool((drawn[:, None] == allowed).any(-1).all())


@pytest.mark.parametrize(
    ("values", "message"),
    [((-1.0, 0.9, 8), "temperature"), ((1.0, 0.0, 8), "top_p"), ((1.0, 0.9, 0), "top_k")],
)
def test_sampling_refuses_nonsense(values: tuple[float, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(*values)
