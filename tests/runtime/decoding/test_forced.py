"""Latents some of whose tokens are given: the others are sampled as if those had been."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.runtime.decoding import test_medusa as grids
from tests.runtime.decoding import test_raster_decoder as raster
from tests.support.decoders import cuda_decoder, eager_decoder, packed_decoder
from worldbridge.runtime.decoding import Decoder, DecodeSession
from worldbridge.runtime.decoding.sampling import sample

EXACT = ["sequential", "jacobi", "medusa"]
Next = Callable[[Tensor | None], Tensor]  # forced [B, h, w] -> codes of the next latent [B, h, w]


def some(codes: Tensor, share: float, seed: int) -> Tensor:
    """Return codes with all but a share of the positions set to -1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(codes.shape, generator=generator) < share, codes, -1)


def raster_stream(mode: str) -> tuple[Decoder, list[DecodeSession], Next]:
    heads = grids.heads_of(raster.LONG.dim, 4, 0.02) if mode == "medusa" else None
    decoder = eager_decoder(
        raster.build(raster.LONG), 2, raster.SAMPLING, mode, heads, jacobi_window=4
    )
    sessions = [raster.opened(decoder, seed) for seed in (1, 2)]
    return decoder, sessions, lambda forced: decoder.decode(sessions, forced=forced)


def grid_stream(mode: str) -> tuple[Decoder, list[DecodeSession], Next]:
    heads = grids.heads_of(grids.TINY.dim, 4) if mode == "medusa" else None
    model = grids.sharp(window_frames=3, previous_latents=2)
    decoder = packed_decoder(model, 2, grids.SAMPLING, mode, heads, jacobi_window=4)
    sessions, told = [decoder.open(seed) for seed in (1, 2)], iter(grids.conditions(20))
    return (
        decoder,
        sessions,
        lambda forced: decoder.decode(sessions, next(told).expand(2, -1), forced=forced),
    )


STREAMS = [(raster_stream, mode) for mode in [*EXACT, "diagonal"]]
STREAMS += [(grid_stream, mode) for mode in [*EXACT, "diagonal"]]


@pytest.mark.parametrize(("stream", "mode"), STREAMS)
def test_tokens_that_would_have_been_sampled_change_nothing(
    stream: Callable[[str], tuple[Decoder, list[DecodeSession], Next]], mode: str
) -> None:
    _, sessions, unforced = stream(mode)
    expected = [unforced(None) for _ in range(4)]
    cache = _cache(stream, mode)
    decoder, sessions, forced = stream(mode)
    for t, share in enumerate((0.3, 0.9, 1.0, 0.0)):
        codes = forced(some(expected[t], share, t))
        assert torch.equal(codes, expected[t])
    assert sessions[0].latents == sessions[1].latents
    torch.testing.assert_close(decoder.cache.keys, cache, rtol=1e-5, atol=1e-5)


def _cache(stream: Callable[[str], tuple[Decoder, list[DecodeSession], Next]], mode: str) -> Tensor:
    """Return the keys after four latents without given tokens."""
    decoder, _, unforced = stream(mode)
    for _ in range(4):
        unforced(None)
    return decoder.cache.keys


@pytest.mark.parametrize(("stream", "mode"), [s for s in STREAMS if s[1] != "diagonal"])
@pytest.mark.parametrize("share", [0.2, 0.95])
def test_every_mode_samples_the_same_around_given_tokens(
    stream: Callable[[str], tuple[Decoder, list[DecodeSession], Next]], mode: str, share: float
) -> None:
    one, _, expected = stream("sequential")
    other, _, found = stream(mode)
    codes = one.config.vocab_size
    for t in range(3):
        given = torch.randint(codes, (2, one.height, one.width), generator=_seeded(t))
        given = some(given, share, t + 50)
        result = found(given)
        assert torch.equal(result, expected(given))
        assert torch.equal(torch.where(given < 0, result, given), result)
    assert other.counts.tokens == one.counts.tokens


def test_a_wavefront_of_a_grid_samples_around_given_tokens_as_sequential_does() -> None:
    _, _, expected = grid_stream("sequential")
    _, _, found = grid_stream("diagonal")
    for t in range(3):
        given = some(torch.randint(16, (2, 3, 5), generator=_seeded(t)), 0.6, t)
        assert torch.equal(found(given), expected(given))


@torch.inference_mode()
def test_the_reference_is_one_forward_per_sampled_token() -> None:
    model = raster.build(raster.BASE)
    decoder = eager_decoder(model, 1, raster.SAMPLING, "jacobi", jacobi_window=5)
    session = raster.opened(decoder, 3)
    given = some(torch.randint(64, (1, 4, 4), generator=_seeded(9)), 0.5, 1)
    line = raster.prompt(raster.BASE, 1, 3).flatten().tolist()
    for i, token in enumerate(given.flatten().tolist()):
        if token < 0:
            logits = model(torch.tensor([line]))[:, -1]
            noise = raster.noise_at(raster.BASE, 3, 16 + i)
            token = int(sample(logits, noise, raster.SAMPLING))
        line.append(token)
    assert decoder.decode([session], forced=given).flatten().tolist() == line[16:]


@pytest.mark.parametrize(("stream", "mode"), STREAMS)
def test_cost_follows_the_sampled_positions(
    stream: Callable[[str], tuple[Decoder, list[DecodeSession], Next]], mode: str
) -> None:
    decoder, _, following = stream(mode)
    raster_order = decoder.config.grid is None
    if mode == "diagonal" and raster_order:
        pytest.skip("its waves overlap; each is run")
    given = torch.zeros(2, decoder.height, decoder.width, dtype=torch.long)
    steps: list[int] = []
    decoder.on_step = lambda: steps.append(1)
    following(given.clone())
    feeds = 2 if raster_order else 0  # one forward per session that feeds a finished latent
    most = decoder.executor.most_rows(2)  # positions that one forward can feed
    fed = 0 if raster_order else -(-decoder.size // most)
    assert len(steps) - feeds <= fed  # nothing is sampled
    assert decoder.counts.tokens == 0
    given[0, 1, 1] = given[1, 1, 1] = given[1, 2, 3] = -1
    steps.clear()
    following(given)
    assert len(steps) - feeds <= fed + 3 and decoder.counts.tokens == 3


def test_given_tokens_that_do_not_fit_are_refused() -> None:
    decoder, sessions, _ = raster_stream("jacobi")
    for forced, message in [
        (torch.zeros(1, 3, 5, dtype=torch.long), r"expected forced codes \(2, 3, 5\)"),
        (torch.zeros(2, 3, 5), "expected forced codes"),
        (torch.full((2, 3, 5), 60), r"codes must be in -1\.\.59, got 60\.\.60"),
    ]:
        with pytest.raises(ValueError, match=message):
            decoder.decode(sessions, forced=forced)
    assert [session.latents for session in sessions] == [1, 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter, about inf - inf
@pytest.mark.parametrize("mode", [*EXACT, "diagonal"])
def test_kernels_sample_around_given_tokens(mode: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("triton", reason="needs triton: pip install triton")
    request.getfixturevalue("interpreter")
    from tests.support import cuda_models as cuda

    model = cuda.build(cuda.SHORT)
    heads = cuda.heads_for(cuda.SHORT, 2) if mode == "medusa" else None
    plain = eager_decoder(model, 2, cuda.SAMPLING, mode, heads, jacobi_window=3)
    device = cuda_decoder(model, 2, cuda.SAMPLING, mode, heads, jacobi_window=3, split=32)
    streams = [[cuda.opened(decoder, seed) for seed in (1, 2)] for decoder in (plain, device)]
    given = some(torch.randint(250, (2, 2, 3), generator=_seeded(1)), 0.5, 4)
    for forced in (given, None):
        expected = plain.decode(streams[0], forced=forced)
        assert torch.equal(device.decode(streams[1], forced=forced), expected)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
