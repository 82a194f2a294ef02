"""Diagonals of a model that was trained in raster order: who sees what, and in which step."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.models.transformer.test_grid import TINY
from tests.runtime.decoding.test_raster_camera import CAMERA, walk
from tests.runtime.decoding.test_raster_decoder import (
    ACTIONS,
    BASE,
    CONFIGS,
    LONG,
    SAMPLING,
    VIDEO2WORLD,
    build,
    noise_at,
    opened,
    prompt,
    run,
)
from tests.support.decoders import eager_decoder
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.models.transformer.layers import Block
from worldbridge.runtime.decoding import Decoder, DecodeSession, is_exact
from worldbridge.runtime.decoding.executors.eager import EagerExecutor
from worldbridge.runtime.decoding.sampling import LatentNoise, sample
from worldbridge.runtime.decoding.schedule import WavefrontSchedule

SHAPES = [(4, 4, 1), (4, 4, 2), (3, 5, 2), (5, 3, 4), (1, 6, 1), (6, 1, 3), (4, 7, 3), (20, 32, 2)]


@pytest.mark.parametrize(("height", "width", "k"), SHAPES)
def test_steps_are_as_many_and_as_wide_as_they_should_be(height: int, width: int, k: int) -> None:
    waves = WavefrontSchedule(height, width, k, least_rows=2).waves
    assert len(waves) == width + (height - 1) * min(k, width)
    drawn = [token for wave in waves for token in wave.sampled]
    assert sorted(drawn) == list(range(height * width))
    assert len({len(wave.offsets) for wave in waves}) == 1  # one shape for all
    assert {wave.mask.shape for wave in waves} == {(len(w.offsets), w.end) for w in waves}


@pytest.mark.parametrize(("height", "width", "k"), SHAPES)
def test_rows_see_what_was_written_and_nothing_else(height: int, width: int, k: int) -> None:
    """Against a walk through the steps that keeps a list of what the places hold."""
    size, k_used = height * width, min(k, width)
    holds: dict[int, int] = {}  # by place: the token that was fed there
    for wave in WavefrontSchedule(height, width, k).waves:
        fed = [(p, s) for p, s in zip(wave.offsets.tolist(), wave.sources.tolist(), strict=True)]
        fed = [(place, source) for place, source in fed if place < size]
        for place, source in fed:
            # a token is fed after it was drawn; place 0 holds the newest one of the latent before
            assert source == 0 or source - 1 in holds.get(-1, ()), "fed before it was drawn"
            row, column = divmod(place, width)
            if source != place:
                assert column == 0 and source == (row - 1) * width + k_used
            assert holds.get(place) != place, "written twice"
            holds[place] = source
        for (place, _), mask in zip(fed, wave.mask, strict=False):
            own = {p for p, source in holds.items() if p == source and 0 <= p <= place}
            assert set(mask.nonzero().flatten().tolist()) == own | {place}
        holds[-1] = (*holds.get(-1, ()), *wave.sampled)  # type: ignore[assignment, misc]
    assert {p: source for p, source in holds.items() if p >= 0} == {p: p for p in range(size)}


def dense(model: VideoTransformer, past: Tensor, latent: Tensor, k: int) -> Tensor:
    """Logits [h * w, vocab] of a latent in one forward without a cache, by the mask of its steps.

    past [n]: the tokens before it; latent [h, w]. Stand-ins are rows of their own at the end.
    """
    config = model.config
    height, width = latent.shape
    lead = int(config.begin_of_video_token is not None)
    begin = len(past) + lead - 1  # the place of the token that leads to the latent
    row, column = (torch.arange(height * width) // width, torch.arange(height * width) % width)
    written = torch.where(column > 0, column + k * row, k * (row - 1) + width)
    written[0] = 0
    starts = torch.arange(1, height) * width
    tokens = torch.cat([past, latent.flatten()[:-1], latent[:-1, k - 1]])
    if lead:
        tokens = torch.cat([torch.tensor([config.begin_of_video_token]), tokens])
    places = torch.cat([torch.arange(begin + height * width), begin + starts])
    steps = torch.cat([torch.zeros(begin).long(), written, k * torch.arange(1, height)])
    own = torch.arange(len(places)) < begin + height * width
    # tokens before the latent are seen in raster order, those of the latent by their steps too
    mask = (places[None] <= places[:, None]) & (steps[None] <= steps[:, None]) & own[None]
    mask |= torch.eye(len(places), dtype=torch.bool)
    standing = ~own[:, None] & (places[None] == places[:, None]) & own[None]
    hidden = _layers(model, tokens, places, mask & ~standing)
    rows = torch.arange(begin, begin + height * width)
    rows[starts] = torch.arange(begin + height * width, len(places))
    return model.output(hidden[rows]).float()


def _layers(model: VideoTransformer, tokens: Tensor, places: Tensor, mask: Tensor) -> Tensor:
    executor = eager_decoder(model, 1, SAMPLING).executor  # for its tables of positions
    cos, sin = executor.cos[places], executor.sin[places]
    h = model.tok_embeddings(tokens)[None]
    for module in model.layers:
        block = cast(Block, module)
        if executor.absolute is not None:
            h = h + executor.absolute[places]
        q, key, v = block.attention.qkv(block.attention_norm(h), cos, sin)
        groups = q.shape[1] // key.shape[1]
        key, v = (x.repeat_interleave(groups, dim=1) for x in (key, v))
        score = (q @ key.transpose(-1, -2)) * q.shape[-1] ** -0.5
        mixed = score.masked_fill(~mask, -torch.inf).softmax(-1) @ v
        h = h + block.attention.wo(mixed.transpose(1, 2).flatten(2))
        h = h + block.feed_forward(block.ffn_norm(h))
    return model.norm(h)[0]


TEXTLESS = dataclasses.replace(VIDEO2WORLD, context_dim=None)


@torch.inference_mode()
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("config", [BASE, LONG, TEXTLESS])
def test_tokens_are_those_of_one_masked_forward_across_slides(
    config: TransformerConfig, k: int
) -> None:
    model = build(config)
    decoder = eager_decoder(model, 1, SAMPLING, "diagonal", row_lag=k)
    session = opened(decoder, 5)
    for number in range(1, 7):
        window = decoder.snapshot(session).codes
        codes = decoder.decode([session])[0]
        logits = dense(model, window.flatten(), codes, k)
        first = number * decoder.size
        noise = torch.cat([noise_at(config, 5, first + i) for i in range(decoder.size)])
        assert torch.equal(sample(logits, noise, SAMPLING), codes.flatten())


@pytest.mark.parametrize("config", [*CONFIGS, ACTIONS, CAMERA])
def test_from_the_width_on_it_is_sequential(config: TransformerConfig) -> None:
    model = build(config)
    width = config.latent_shape[2]
    expected = eager_decoder(model, 1, SAMPLING, "sequential")
    for k in (width, width + 3):
        other = eager_decoder(model, 1, SAMPLING, "diagonal", row_lag=k)
        assert other.rows == 1
        assert torch.equal(stream(other, 3, 6), stream(expected, 3, 6))


def stream(decoder: Decoder, seed: int, latents: int) -> Tensor:
    """What follows a prompt, under changing actions or cameras where the model takes them."""
    config = decoder.config
    told = torch.randn(latents + 1, 4, generator=torch.Generator().manual_seed(seed))
    poses = walk(latents + 1) if config.takes_camera else None
    if config.conditioning == "cross_attention":
        session = decoder.open(seed, prompt(config, 1, seed), conditions=told[:1])
        parts = [decoder.decode([session], action[None]) for action in told[1:]]
    elif poses is not None:
        session = decoder.open(seed, prompt(config, 1, seed), poses=poses[:1])
        parts = [decoder.decode([session], poses=pose[None]) for pose in poses[1:]]
    else:
        return run(decoder, opened(decoder, seed), latents)
    return torch.cat(parts)


@pytest.mark.parametrize("config", [BASE, LONG])
def test_it_is_an_approximation_and_says_so(config: TransformerConfig) -> None:
    model = build(config)
    expected = eager_decoder(model, 1, SAMPLING, "sequential")
    other = eager_decoder(model, 1, SAMPLING, "diagonal", row_lag=1)
    codes = run(expected, opened(expected), 4), run(other, opened(other), 4)
    assert torch.equal(codes[0][0, 0], codes[1][0, 0])  # the first row sees all there is before it
    assert not torch.equal(codes[0], codes[1])
    assert not is_exact("diagonal", config) and is_exact("diagonal", TINY)
    assert all(is_exact(mode, config) for mode in ("sequential", "jacobi", "medusa"))


class _Swayed(LatentNoise):
    """Noise that draws another code at one place of the latent."""

    place, code = 0, 0

    def at(self, positions: Sequence[int]) -> Tensor:
        rows = super().at(positions)
        for i, position in enumerate(positions):
            if position == self.place:
                rows[i, self.code] = 1e4
        return rows


@pytest.mark.parametrize(("place", "k"), [(3, 2), (7, 2), (9, 2), (0, 1), (6, 3)])
def test_a_token_reaches_no_one_who_may_not_see_it(
    monkeypatch: pytest.MonkeyPatch, place: int, k: int
) -> None:
    """Features, to the bit: of the tokens in later steps each is moved, of others none is."""
    decoder = eager_decoder(build(BASE), 1, SAMPLING, "diagonal", row_lag=k)
    before = features(decoder, monkeypatch)
    monkeypatch.setattr("worldbridge.runtime.decoding.executors.eager.LatentNoise", _Swayed)
    monkeypatch.setattr(_Swayed, "place", place)
    moved = torch.zeros(16, dtype=torch.bool)
    for code in range(3):
        monkeypatch.setattr(_Swayed, "code", code)
        moved |= (features(decoder, monkeypatch) != before).any(-1)
    row, column = torch.arange(16) // 4, torch.arange(16) % 4
    step = column + k * row
    # it is fed in the step after it was drawn, and seen by whoever comes behind it in raster order
    later = (step > step[place]) & (torch.arange(16) > place)
    assert torch.equal(moved, later), moved.view(4, 4)


def features(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What the tokens of the first latent are drawn from, [16, dim]."""
    session, found = opened(decoder), torch.zeros(16, BASE.dim)
    hidden_at = EagerExecutor.hidden_at

    def recorded(self: EagerExecutor, *given: Any) -> Tensor:
        hidden, wave = hidden_at(self, *given), given[2]
        found[list(wave.sampled)] = hidden[0, : len(wave.sampled)]
        return hidden

    with monkeypatch.context() as patch:
        patch.setattr(EagerExecutor, "hidden_at", recorded)
        decoder.decode([session])
    return found


@pytest.mark.parametrize("config", CONFIGS)
def test_a_session_never_depends_on_its_neighbours(config: TransformerConfig) -> None:
    model = build(config)
    alone = eager_decoder(model, 1, SAMPLING, "diagonal")
    expected = []
    for seed in range(3):
        expected.append(run(alone, opened(alone, seed), 6))
        gc.collect()
    together = eager_decoder(model, 3, SAMPLING, "diagonal")
    sessions = [opened(together, seed) for seed in range(3)]
    run(together, sessions[2], 2)  # this one is elsewhere in its stream
    for t in range(4):
        codes = together.decode(sessions)
        for seed, session_at in enumerate([t, t, t + 2]):
            assert torch.equal(codes[seed], expected[seed][session_at])


@pytest.mark.parametrize("config", CONFIGS)
def test_a_restored_session_draws_the_same_latents(config: TransformerConfig) -> None:
    decoder = eager_decoder(build(config), 2, SAMPLING, "diagonal", row_lag=1)
    session = opened(decoder, 7)
    taken, codes = [], []
    for _ in range(8):
        taken.append(decoder.snapshot(session))
        codes.append(decoder.decode([session])[0])
    for t, snapshot in enumerate(taken[:6]):
        again = decoder.restore(snapshot)
        assert torch.equal(run(decoder, again, 3), torch.stack(codes[t : t + 3]))
        del again
        gc.collect()


def test_the_cache_of_a_finished_latent_is_that_of_any_other_mode() -> None:
    """Its tokens are fed once more in raster order, so nothing of a diagonal stays behind."""
    decoder = eager_decoder(build(BASE), 2, SAMPLING, "diagonal", row_lag=1)
    session = opened(decoder, 1)
    codes = run(decoder, session, 1)
    again: DecodeSession = decoder.open(1, torch.cat([prompt(BASE, 1, 1), codes]))
    used = 2 * decoder.size - 1
    for memory in (decoder.cache.keys, decoder.cache.values):
        mine, other = memory[:, session.slot, :, :used], memory[:, again.slot, :, :used]
        assert torch.equal(mine, other)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_forwards_are_counted(k: int) -> None:
    decoder = eager_decoder(build(BASE), 2, SAMPLING, "diagonal", row_lag=k, padding=5)
    assert decoder.rows == 5
    begun: list[int] = []
    decoder.on_step = lambda: begun.append(0)
    sessions = [opened(decoder, 1), opened(decoder, 2)]
    begun.clear()
    decoder.decode(sessions)
    forwards = 4 + 3 * k
    assert decoder.counts.forwards == 2 * forwards and decoder.counts.tokens == 2 * 16
    assert len(begun) == forwards + 2  # each finished latent is fed once more, alone


@pytest.mark.parametrize("slide", ["reprefill", "rotate"])
def test_windows_slide(slide: str) -> None:
    decoder = eager_decoder(build(LONG), 1, SAMPLING, "diagonal", slide=slide)
    session = opened(decoder)
    codes = run(decoder, session, 12)
    assert session.latents == 13 and len(session.window) <= 5
    assert len(codes.unique(dim=0)) == 12


def test_a_diagonal_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="row_lag must be at least 1, got 0"):
        eager_decoder(build(BASE), 1, SAMPLING, "diagonal", row_lag=0)
