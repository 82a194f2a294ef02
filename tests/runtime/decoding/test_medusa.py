"""Decoding with guesses of Medusa heads: the tokens of sequential decoding, whatever is guessed."""

import dataclasses
import gc

import pytest
import torch
from torch import Tensor

from tests.models.transformer.test_grid import TINY, tiny
from tests.runtime.decoding import test_raster_decoder as raster
from tests.support.decoders import eager_decoder, packed_decoder
from worldbridge.models.transformer import MedusaHeads, VideoTransformer
from worldbridge.runtime.decoding import Decoder, Sampling
from worldbridge.runtime.decoding.drafts import DraftCounts

SAMPLING = Sampling(temperature=1.0, top_p=0.95, top_k=12)


def heads_of(dim: int, count: int, scale: float = 0.2) -> MedusaHeads:
    """Heads that are often right, because a token resembles the one before, and often wrong."""
    generator = torch.Generator().manual_seed(count)
    return MedusaHeads.merged(
        [torch.randn(dim, dim, generator=generator) * scale for _ in range(count)]
    ).requires_grad_(False)


# -- counting -----------------------------------------------------------------------------------


def test_tokens_are_forwards_and_kept_guesses() -> None:
    counts = DraftCounts(3)
    counts.add(gain=2, left=10, drafted=False)
    counts.add(gain=4, left=8, drafted=True)
    counts.add(gain=1, left=4, drafted=True)
    counts.add(gain=2, left=3, drafted=True)
    counts.add(gain=1, left=1, drafted=True)  # nothing is left to be guessed
    assert (counts.forwards, counts.tokens, counts.carried) == (5, 10, 1)
    assert counts.drafted == [3, 3, 2] and counts.accepted == [2, 1, 1]
    assert counts.tokens == counts.forwards + counts.carried + sum(counts.accepted)
    assert counts.acceptance == pytest.approx([2 / 3, 1 / 3, 1 / 2])
    assert counts.tokens_per_forward == 2.0
    assert DraftCounts(2).acceptance == [0.0, 0.0]


# -- token grids --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> VideoTransformer:
    return sharp(window_frames=3, previous_latents=2)


def sharp(**changes: object) -> VideoTransformer:
    """A random model whose tokens depend on the past, not on the noise alone."""
    model = tiny(**changes).requires_grad_(False)
    model.output.weight.mul_(60)
    return model


def conditions(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(frames, 3, generator=torch.Generator().manual_seed(seed))


def grid_run(decoder: Decoder, seed: int, condition: Tensor) -> Tensor:
    session = decoder.open(seed)
    return torch.stack([decoder.decode([session], c[None])[0] for c in condition])


@pytest.mark.parametrize("count", [1, 4, 9, 14, 20])
def test_a_grid_is_drawn_as_sequentially(model: VideoTransformer, count: int) -> None:
    """Past the window's first slide; with fewer, as many, and more heads than slots (15)."""
    for seed in range(3):
        condition = conditions(8, seed)
        one = packed_decoder(model, 1, SAMPLING, "sequential")
        many = packed_decoder(model, 1, SAMPLING, "medusa", heads_of(TINY.dim, count))
        expected = grid_run(one, seed, condition)
        assert torch.equal(grid_run(many, seed, condition), expected)
        counts = many.counts
        assert counts.tokens == expected.numel()
        assert counts.tokens == counts.forwards + counts.carried + sum(counts.accepted)
        assert 1 < counts.tokens_per_forward < 1 + count
        assert 0 < counts.acceptance[0] < 1


@pytest.mark.parametrize("width", [1, 4, 8, 20])
def test_a_grid_is_drawn_alike_by_jacobi(model: VideoTransformer, width: int) -> None:
    condition = conditions(6, width)
    one = packed_decoder(model, 1, SAMPLING, "sequential")
    many = packed_decoder(model, 2, SAMPLING, "jacobi", jacobi_window=width)
    expected = grid_run(one, 7, condition)
    mine, other = many.open(7), many.open(8)
    for t in range(6):
        told = torch.stack([condition[t], condition[5 - t]])
        assert torch.equal(many.decode([mine, other], told)[0], expected[t])
    assert many.counts.tokens == 2 * expected.numel()
    assert (many.counts.tokens_per_forward > 1) == (width > 1)


def test_a_grid_of_another_diagonal_is_drawn_as_sequentially() -> None:
    model = sharp(window_frames=2, diagonal=2)
    condition = conditions(5, 3)
    one, many = (
        packed_decoder(model, 1, SAMPLING, mode, heads_of(TINY.dim, 4))
        for mode in ("sequential", "medusa")
    )
    assert torch.equal(grid_run(many, 1, condition), grid_run(one, 1, condition))


def test_wild_guesses_cost_time_only(model: VideoTransformer) -> None:
    condition = conditions(5, 1)
    wild = packed_decoder(model, 1, SAMPLING, "medusa", heads_of(TINY.dim, 5, scale=50.0))
    good = packed_decoder(model, 1, SAMPLING, "medusa", heads_of(TINY.dim, 5))
    assert torch.equal(grid_run(wild, 2, condition), grid_run(good, 2, condition))
    assert wild.counts.tokens_per_forward < good.counts.tokens_per_forward


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_a_grid_session_never_depends_on_its_neighbours(
    model: VideoTransformer, batch: int
) -> None:
    heads, condition = heads_of(TINY.dim, 4), conditions(6, 3)
    expected = grid_run(packed_decoder(model, 1, SAMPLING, "sequential"), 42, condition)
    together = packed_decoder(model, batch, SAMPLING, "medusa", heads)
    others = [together.open(i) for i in range(batch - 1)]
    for i, other in enumerate(others):  # neighbours at other places of their own streams
        for c in conditions(i + 1, 9):
            together.decode([other], c[None])
    mine = together.open(42)
    sessions = [*others[: batch // 2], mine, *others[batch // 2 :]]
    for t in range(6):
        told = conditions(batch, 50 + t)
        told[batch // 2] = condition[t]
        assert torch.equal(together.decode(sessions, told)[batch // 2], expected[t])


def test_a_forced_grid_goes_on_as_sequentially(model: VideoTransformer) -> None:
    condition = conditions(9, 5)
    expected = grid_run(packed_decoder(model, 1, SAMPLING, "sequential"), 1, condition)
    decoder = packed_decoder(model, 1, SAMPLING, "medusa", heads_of(TINY.dim, 4))
    session = decoder.open(1)
    for t in range(5):
        decoder.prefill(session, expected[t], condition[t])
    assert decoder.counts.forwards == 0  # known tokens are not drawn
    for t in range(5, 9):
        assert torch.equal(decoder.decode([session], condition[t][None])[0], expected[t])


def test_heads_that_do_not_fit_are_refused(model: VideoTransformer) -> None:
    with pytest.raises(ValueError, match="'medusa' needs the model's heads"):
        packed_decoder(model, 1, SAMPLING, "medusa")
    with pytest.raises(ValueError, match="expected heads for a model 24 wide, got 8"):
        packed_decoder(model, 1, SAMPLING, "medusa", MedusaHeads(8))
    with pytest.raises(ValueError, match="jacobi_window must be at least 1"):
        packed_decoder(model, 1, SAMPLING, "jacobi", jacobi_window=0)
    plain = raster.build(raster.BASE)
    with pytest.raises(ValueError, match="'medusa' needs the model's heads"):
        eager_decoder(plain, 1, SAMPLING, "medusa")
    with pytest.raises(ValueError, match="expected heads for a model 48 wide, got 8"):
        eager_decoder(plain, 1, SAMPLING, "jacobi", heads=MedusaHeads(8))


# -- raster order -------------------------------------------------------------------------------


@pytest.mark.parametrize("config", raster.CONFIGS)
@pytest.mark.parametrize("count", [1, 3, 9, 20])
def test_raster_tokens_are_the_sequential_ones_across_slides(
    config: raster.TransformerConfig, count: int
) -> None:
    model = raster.build(config)
    one = eager_decoder(model, 1, raster.SAMPLING, "sequential")
    for seed in range(2):
        expected = raster.run(one, raster.opened(one, seed), 6)
        gc.collect()
        many = eager_decoder(
            model, 1, raster.SAMPLING, "medusa", heads=heads_of(config.dim, count, 0.02)
        )
        assert torch.equal(raster.run(many, raster.opened(many, seed), 6), expected)
        counts = many.counts
        assert counts.tokens == expected.numel()
        assert counts.tokens == counts.forwards + counts.carried + sum(counts.accepted)
        assert 0 < counts.acceptance[0] < 1


@pytest.mark.parametrize("width", [2, 6, 10, 40])
def test_heads_may_guess_for_jacobi(width: int) -> None:
    model, heads = raster.build(raster.LONG), heads_of(raster.LONG.dim, 5, 0.02)
    one = eager_decoder(model, 1, raster.SAMPLING, "sequential", keep=2)
    many = eager_decoder(
        model, 1, raster.SAMPLING, "jacobi", keep=2, jacobi_window=width, heads=heads
    )
    assert many.window == width
    expected = raster.run(one, raster.opened(one, 3), 7)
    assert torch.equal(raster.run(many, raster.opened(many, 3), 7), expected)


def test_raster_sessions_never_depend_on_their_neighbours() -> None:
    config = raster.VIDEO2WORLD
    model, heads = raster.build(config), heads_of(config.dim, 4, 0.02)
    one = eager_decoder(model, 1, raster.SAMPLING, "sequential")
    expected = []
    for seed in range(3):
        session = raster.opened(one, seed)
        expected.append(raster.run(one, session, 6))
        del session
        gc.collect()
    together = eager_decoder(model, 3, raster.SAMPLING, "medusa", heads=heads)
    sessions = [raster.opened(together, seed) for seed in range(3)]
    raster.run(together, sessions[2], 2)  # this one is elsewhere in its stream
    for t in range(4):
        codes = together.decode(sessions)
        for seed, place in enumerate([t, t, t + 2]):
            assert torch.equal(codes[seed], expected[seed][place])


def test_a_stream_restored_under_another_mode_goes_on_alike() -> None:
    model, heads = raster.build(raster.BASE), heads_of(raster.BASE.dim, 4, 0.02)
    first = eager_decoder(model, 1, raster.SAMPLING, "jacobi", jacobi_window=5)
    session = raster.opened(first, 2)
    raster.run(first, session, 4)
    saved = first.snapshot(session)
    again = eager_decoder(model, 1, raster.SAMPLING, "medusa", heads=heads)
    restored = again.restore(saved)
    assert torch.equal(raster.run(again, restored, 3), raster.run(first, session, 3))


def test_heads_that_know_the_tokens_save_forwards() -> None:
    """A network that only repeats: head k sees in the hidden state all that it needs."""
    config = dataclasses.replace(raster.BASE, n_layers=1)
    model = raster.build(config)
    for block in model.layers:
        torch.nn.init.zeros_(block.attention.wo.weight)
        torch.nn.init.zeros_(block.feed_forward.w2.weight)
    model.output.weight.copy_(10 * model.tok_embeddings.weight)
    greedy = Sampling(temperature=0.0)
    one = eager_decoder(model, 1, greedy, "sequential")
    many = eager_decoder(model, 1, greedy, "medusa", heads=MedusaHeads(config.dim, 3))
    assert torch.equal(
        raster.run(many, raster.opened(many), 3), raster.run(one, raster.opened(one), 3)
    )
    assert many.counts.acceptance == [1.0, 1.0, 1.0]
    # 16 tokens a latent, 4 a forward; only the first guesses, the prompt, were wrong
    assert many.counts.forwards == 5 + 4 + 4
