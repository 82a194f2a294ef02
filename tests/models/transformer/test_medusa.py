"""Medusa heads: their formula, and one matrix for all of them."""

import pytest
import torch
import torch.nn.functional as F

from worldbridge.models.transformer import MedusaHeads


def random_heads(dim: int, count: int) -> MedusaHeads:
    generator = torch.Generator().manual_seed(4)
    return MedusaHeads.merged(
        [torch.randn(dim, dim, generator=generator) * dim**-0.5 for _ in range(count)]
    )


@pytest.mark.parametrize("count", [1, 3, 9, 12])
def test_one_matrix_gives_what_single_heads_give(count: int) -> None:
    heads = random_heads(16, count)
    assert heads.weight.shape == (count * 16, 16)
    assert [w.shape for w in heads.matrices()] == [(16, 16)] * count
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    together = heads(x)
    assert together.shape == (2, 5, count, 16)
    for k, matrix in enumerate(heads.matrices()):
        alone = x + F.silu(x @ matrix.T)
        torch.testing.assert_close(together[..., k, :], alone, rtol=0, atol=1e-6)
    again = MedusaHeads.merged(heads.matrices())
    assert torch.equal(again.weight, heads.weight)


def test_a_product_made_elsewhere_is_joined_alike() -> None:
    heads = random_heads(8, 4)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(heads.join(x, F.linear(x, heads.weight)), heads(x))


def test_new_heads_say_what_the_network_says() -> None:
    heads = MedusaHeads(8)
    assert heads.count == 9
    x = torch.randn(3, 8)
    assert torch.equal(heads(x), x[:, None].expand(3, 9, 8))


def test_no_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one head, got 0"):
        MedusaHeads(8, 0)
