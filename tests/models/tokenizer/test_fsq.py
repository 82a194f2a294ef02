import pytest
import torch

from worldbridge.models.tokenizer import FSQ

COSMOS = (8, 8, 8, 5, 5, 5)


@pytest.mark.parametrize("levels", [COSMOS, (8, 8, 8, 8), (2, 3, 4)])
def test_every_index_survives(levels: tuple[int, ...]) -> None:
    fsq = FSQ(levels)
    every = torch.arange(fsq.size)
    codes = fsq.indices_to_codes(every)
    assert torch.equal(fsq.codes_to_indices(codes), every)
    assert torch.equal(fsq.codes_to_indices(codes.bfloat16()), every)
    assert fsq.digits(every).amax(0).tolist() == [level - 1 for level in levels]


def test_ends_and_order() -> None:
    fsq = FSQ(COSMOS)
    codes = fsq.indices_to_codes(torch.tensor([0, 63_999, 1]))
    assert codes[0].tolist() == [-1] * 6
    assert codes[1].tolist() == [0.75] * 3 + [1] * 3
    assert fsq.digits(torch.tensor(1)).tolist() == [1, 0, 0, 0, 0, 0]  # first channel is fastest


def test_quantize_reaches_every_level_and_only_those() -> None:
    fsq = FSQ(COSMOS)
    codes = fsq.quantize(torch.linspace(-12, 12, 4001)[:, None].expand(-1, 6))
    assert codes[:, 0].unique().tolist() == [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75]
    assert codes[:, 5].unique().tolist() == [-1, -0.5, 0, 0.5, 1]
    assert fsq.quantize(torch.zeros(1, 6)).abs().max() == 0


def test_gradient_passes_the_rounding() -> None:
    z = torch.randn(50, 6, requires_grad=True)
    FSQ(COSMOS).quantize(z).sum().backward()
    assert z.grad is not None
    assert (z.grad > 0).all()  # that of the squashing alone


def test_buffers_are_not_weights() -> None:
    assert FSQ(COSMOS).state_dict() == {}
