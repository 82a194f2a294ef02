"""Decoding a token grid: every way gives the same tokens."""

import gc

import pytest
import torch

from tests.models.transformer.test_grid import TINY, tiny
from tests.support.decoders import packed_decoder
from worldbridge.models.transformer import MedusaHeads, VideoTransformer
from worldbridge.models.transformer.wavefront import code_digits
from worldbridge.runtime.decoding import Decoder, DecodeSession, Sampling
from worldbridge.runtime.decoding.executors.cpu_packed import PackedLinear, independent_counts

SAMPLING = Sampling(temperature=1.0, top_p=0.95, top_k=12)


@pytest.fixture(scope="module")
def model() -> VideoTransformer:
    return tiny(window_frames=3, previous_latents=2)


def conditions(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(frames, 3, generator=torch.Generator().manual_seed(seed))


def run(decoder: Decoder, session: DecodeSession, condition: torch.Tensor) -> torch.Tensor:
    return torch.stack([decoder.decode([session], c[None])[0] for c in condition])


def test_sequential_and_diagonal_draw_the_same_tokens(model: VideoTransformer) -> None:
    for seed in range(3):
        a, b = (packed_decoder(model, 1, SAMPLING, mode) for mode in ("diagonal", "sequential"))
        condition = conditions(9, seed)
        assert torch.equal(run(a, a.open(seed), condition), run(b, b.open(seed), condition))


def test_decoding_draws_what_the_teacher_forced_model_says(model: VideoTransformer) -> None:
    """Greedy decoding equals the argmax of one parallel pass over its own output."""
    decoder = packed_decoder(model, 1, Sampling(temperature=0.0))
    condition = conditions(8)
    codes = run(decoder, decoder.open(0), condition)
    with torch.inference_mode():
        features = model.clip_features(codes[None], condition[None])[0].flatten(0, 2)
        parts = model.output(features, codes.flatten())
    digits = code_digits(codes.flatten(), TINY.grid.fsq_levels)
    same = [p.argmax(-1) == digits[:, d] for d, p in enumerate(parts)]
    # float16 weights may flip a near tie
    assert float(torch.stack(same).float().mean()) > 0.97


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_a_session_never_depends_on_its_neighbours(model: VideoTransformer, batch: int) -> None:
    alone = packed_decoder(model, 1, SAMPLING)
    condition = conditions(7, 3)
    expected = run(alone, alone.open(42), condition)
    together = packed_decoder(model, batch, SAMPLING)
    others = [together.open(i) for i in range(batch - 1)]
    for i, other in enumerate(others):  # neighbours at other places of their own streams
        run(together, other, conditions(i + 1, 9))
    mine = together.open(42)
    sessions = [*others[: batch // 2], mine, *others[batch // 2 :]]
    for t in range(7):
        noise = conditions(batch, 50 + t)
        noise[batch // 2] = condition[t]
        assert torch.equal(together.decode(sessions, noise)[batch // 2], expected[t])


def test_forcing_known_latents_rebuilds_a_session_exactly(model: VideoTransformer) -> None:
    decoder = packed_decoder(model, 2, SAMPLING)
    condition = conditions(16, 5)
    first = decoder.open(1)
    codes = run(decoder, first, condition)
    window, layers, history = 3, TINY.n_layers, 2
    replayed = (window - 1) * layers + 1
    start = 12 - replayed
    kept = slice(start - history, 12)
    again = decoder.open(1, codes[kept], latents=12, conditions=condition[kept])
    assert torch.equal(run(decoder, again, condition[12:]), codes[12:])


@pytest.mark.parametrize("mode", ["sequential", "jacobi", "medusa"])
def test_keys_and_values_are_the_same_to_the_bit(model: VideoTransformer, mode: str) -> None:
    """Rows are padded to counts that keep them apart, so the way of decoding leaves no trace."""
    expected = packed_decoder(model, 1, SAMPLING)
    if not expected.executor.row_counts:
        pytest.skip("products of this machine depend on how many rows they have")
    heads = MedusaHeads(TINY.dim, 3)
    other = packed_decoder(
        model, 1, SAMPLING, mode, heads if mode == "medusa" else None, jacobi_window=5
    )
    sessions = expected.open(2), other.open(2)
    forced, drawn = conditions(3, 8), conditions(4, 9)
    codes = torch.randint(TINY.vocab_size, (3, *TINY.latent_shape[1:]))
    for latent, condition in zip(codes, forced, strict=True):
        expected.prefill(sessions[0], latent, condition)
        other.prefill(sessions[1], latent, condition)
    mine, theirs = run(expected, sessions[0], drawn), run(other, sessions[1], drawn)
    assert torch.equal(mine, theirs)
    assert torch.equal(expected.cache.keys, other.cache.keys) and torch.equal(
        expected.cache.values, other.cache.values
    )
    assert expected.cache.keys.abs().max() > 0


def test_places_return_when_sessions_are_forgotten(model: VideoTransformer) -> None:
    decoder = packed_decoder(model, 2, SAMPLING)
    for seed in range(5):
        kept = decoder.open(seed)
    other = decoder.open(9)
    assert kept.slot != other.slot
    with pytest.raises(RuntimeError, match="all 2 are taken"):
        decoder.open(10)
    del other
    gc.collect()
    decoder.open(10)


def test_bad_modes_and_models_are_refused(model: VideoTransformer) -> None:
    with pytest.raises(ValueError, match="unknown decode mode 'magic'"):
        packed_decoder(model, 1, SAMPLING, "magic")


def test_packed_products_are_close_and_their_safe_counts_are_safe() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(96, 64) / 8, torch.randn(40, 64)
    layer = PackedLinear(weight)
    torch.testing.assert_close(layer(x), x @ weight.T, rtol=2e-3, atol=5e-3)
    for count in independent_counts([layer], 40):
        assert torch.equal(layer(x[:count].contiguous()), layer(x)[:count])
