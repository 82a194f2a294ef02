"""Raster decoding: every mode, batch and restart gives the tokens of one forward per token."""

import dataclasses
import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.decoders import eager_decoder
from worldbridge.models.convert.reference import TOLERANCE, load_reference
from worldbridge.models.transformer import KVCache, TransformerConfig, VideoTransformer
from worldbridge.models.transformer.config import Yarn
from worldbridge.models.transformer.positions import rotate_time
from worldbridge.runtime.decoding import Decoder, DecodeSession, SavedTokens
from worldbridge.runtime.decoding.sampling import Sampling, gumbel, position_noise, sample

GOLDEN = Path(__file__).parents[2] / "golden"
SAMPLING = Sampling(temperature=1.0, top_p=0.9, top_k=64)

BASE = TransformerConfig(
    dim=48,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    head_dim=12,
    ffn_hidden_size=96,
    vocab_size=64,
    latent_shape=(3, 4, 4),
)
VIDEO2WORLD = dataclasses.replace(
    BASE,
    n_layers=2,
    input_vocab_rows=72,
    begin_of_video_token=64,
    apply_abs_pos_emb=True,
    context_dim=20,
)
# more than one latent is dropped at a slide, and the sizes do not divide by anything
LONG = dataclasses.replace(BASE, n_layers=2, vocab_size=60, latent_shape=(5, 3, 5), yarn=Yarn())
ACTIONS = dataclasses.replace(
    BASE, n_layers=2, context_dim=20, conditioning="cross_attention", condition_dim=4
)
CONFIGS = [BASE, VIDEO2WORLD, LONG]


def build(config: TransformerConfig) -> VideoTransformer:
    """A random model whose logits are sharp enough for every token to depend on the past."""
    torch.manual_seed(0)
    model = VideoTransformer(config).eval()
    torch.nn.init.normal_(model.output.weight, std=config.dim**-0.5)
    return model.requires_grad_(False)


def prompt(config: TransformerConfig, latents: int, seed: int = 0) -> Tensor:
    shape = (latents, *config.latent_shape[1:])
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, shape, generator=generator)


def context_of(config: TransformerConfig, seed: int = 0) -> Tensor | None:
    if config.context_dim is None or config.conditioning != "none":
        return None
    return torch.randn(6, config.context_dim, generator=torch.Generator().manual_seed(seed))


def opened(decoder: Decoder, seed: int = 0, latents: int = 1) -> DecodeSession:
    config = decoder.config
    codes = prompt(config, latents, seed)
    return decoder.open(seed, codes, context=context_of(config, seed))


def run(decoder: Decoder, session: DecodeSession, latents: int) -> Tensor:
    return torch.cat([decoder.decode([session]) for _ in range(latents)])


def noise_at(config: TransformerConfig, seed: int, position: int) -> Tensor:
    lanes = -(-config.vocab_size // 8) * 8
    return gumbel(position_noise(seed, position, 1, lanes)[:, : config.vocab_size])


@torch.inference_mode()
def naive(model: VideoTransformer, seed: int, latents: int, keep: int) -> tuple[Tensor, Tensor]:
    """Without a cache, one whole forward for every token: codes and the logits they came from."""
    config = model.config
    trained, height, width = config.latent_shape
    context = context_of(config, seed)
    pairs = None if context is None else model.context_keys_values(context[None])
    begin = [] if config.begin_of_video_token is None else [config.begin_of_video_token]
    window = prompt(config, 1, seed).flatten().tolist()
    size, position, drawn, logits = height * width, height * width, [], []
    for _ in range(latents):
        if len(window) == trained * size:
            window = window[-keep * size :]
        for _ in range(size):
            logits.append(model(torch.tensor([begin + window]), context=pairs)[:, -1])
            noise = noise_at(config, seed, position)
            drawn.append(int(sample(logits[-1], noise, SAMPLING)))
            window.append(drawn[-1])
            position += 1
    return torch.tensor(drawn).view(latents, height, width), torch.cat(logits)


def test_a_window_is_kept_to_its_newest_latents_by_number_alone() -> None:
    decoder = eager_decoder(build(LONG), 1, SAMPLING, keep=2)
    starts = [decoder.window_start(n) for n in range(13)]
    assert starts == [0, 0, 0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9]


@pytest.mark.parametrize("config", CONFIGS)
def test_sequential_is_a_whole_forward_per_token_across_slides(config: TransformerConfig) -> None:
    model = build(config)
    keep = 2 if config is LONG else 1
    decoder = eager_decoder(model, 1, SAMPLING, "sequential", keep=keep)
    expected, logits = naive(model, 5, 8, keep)
    assert torch.equal(run(decoder, opened(decoder, 5), 8), expected)
    assert decoder.tokens_per_forward == 1
    # a test of draws needs draws that are neither random nor always the same
    kept = (logits.softmax(-1) > 1e-3).sum(-1).float().mean()
    assert 4 < kept and len(expected.unique()) > config.vocab_size // 2


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("width", [4, 8, 16])
def test_jacobi_draws_the_sequential_tokens(config: TransformerConfig, width: int) -> None:
    model = build(config)
    for seed in range(3):
        one = eager_decoder(model, 1, SAMPLING, "sequential")
        many = eager_decoder(model, 1, SAMPLING, "jacobi", jacobi_window=width)
        assert torch.equal(run(many, opened(many, seed), 6), run(one, opened(one, seed), 6))
        assert 1 < many.tokens_per_forward <= width
        assert many.counts.tokens == one.counts.tokens == one.counts.forwards


def test_padding_changes_nothing_but_the_row_count() -> None:
    model = build(BASE)
    expected = eager_decoder(model, 1, SAMPLING, "sequential")
    padded = eager_decoder(model, 1, SAMPLING, "sequential", padding=8)
    assert padded.rows == 8
    assert torch.equal(run(padded, opened(padded), 6), run(expected, opened(expected), 6))
    assert padded.tokens_per_forward == 1


@pytest.mark.parametrize("mode", ["sequential", "jacobi"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_session_never_depends_on_its_neighbours(config: TransformerConfig, mode: str) -> None:
    model = build(config)
    alone = eager_decoder(model, 1, SAMPLING, mode, jacobi_window=8)
    expected = []
    for seed in range(3):
        session = opened(alone, seed)
        expected.append(run(alone, session, 6))
        del session
        gc.collect()
    together = eager_decoder(model, 3, SAMPLING, mode, jacobi_window=8)
    sessions = [opened(together, seed) for seed in range(3)]
    run(together, sessions[2], 2)  # this one is elsewhere in its stream
    for t in range(4):
        codes = together.decode(sessions)
        for seed, session_at in enumerate([t, t, t + 2]):
            assert torch.equal(codes[seed], expected[seed][session_at])


def test_a_prompt_of_two_latents_continues_as_if_they_had_been_forced() -> None:
    decoder = eager_decoder(build(BASE), 2, SAMPLING)
    codes = prompt(BASE, 2, 3)
    first, second = decoder.open(3, codes), decoder.open(3, codes[:1])
    decoder.prefill(second, codes[1])
    assert torch.equal(run(decoder, first, 4), run(decoder, second, 4))


@pytest.mark.parametrize("mode", ["sequential", "jacobi"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_restored_session_draws_the_same_latents(config: TransformerConfig, mode: str) -> None:
    """At every place of a window: in its middle, when it is full, and after it has slid."""
    decoder = eager_decoder(build(config), 2, SAMPLING, mode, jacobi_window=8)
    session = opened(decoder, 7)
    taken: list[SavedTokens] = []
    codes = []
    for _ in range(8):
        taken.append(decoder.snapshot(session))
        codes.append(decoder.decode([session])[0])
    for t, snapshot in enumerate(taken[:6]):
        assert snapshot.latents == t + 1
        assert len(snapshot.codes) == t + 1 - decoder.window_start(t + 1)
        again = decoder.restore(snapshot)
        assert torch.equal(run(decoder, again, 3), torch.stack(codes[t : t + 3]))
        del again
        gc.collect()


def test_a_restored_cache_is_the_same_to_the_bit() -> None:
    decoder = eager_decoder(build(LONG), 2, SAMPLING, jacobi_window=7)
    session = opened(decoder, 1)
    run(decoder, session, 6)  # once slid, and two latents drawn since
    again = decoder.restore(decoder.snapshot(session))
    assert len(session.window) == len(again.window) == 4
    used = 4 * decoder.size - 1
    for memory in (decoder.cache.keys, decoder.cache.values):
        mine, other = memory[:, session.slot, :, :used], memory[:, again.slot, :, :used]
        assert torch.equal(mine, other)


@pytest.mark.parametrize("slide", ["reprefill", "rotate"])
def test_memory_stays_the_same_over_a_long_stream(slide: str) -> None:
    decoder = eager_decoder(build(BASE), 1, SAMPLING, slide=slide)
    session = opened(decoder)
    shape, place = decoder.cache.keys.shape, decoder.cache.keys.data_ptr()
    codes = run(decoder, session, 20)
    assert session.latents == 21 and len(session.window) <= 3
    assert (decoder.cache.keys.shape, decoder.cache.keys.data_ptr()) == (shape, place)
    assert len(codes.unique(dim=0)) == 20  # noise never repeats, so neither do latents


@pytest.mark.parametrize("mode", ["sequential", "jacobi"])
def test_both_modes_agree_when_windows_slide_by_rotation(mode: str) -> None:
    model = build(LONG)
    expected = eager_decoder(model, 1, SAMPLING, "sequential", slide="rotate", keep=2)
    other = eager_decoder(model, 3, SAMPLING, mode, slide="rotate", keep=2, jacobi_window=6)
    codes = run(expected, opened(expected, 2), 10)
    sessions = [opened(other, seed) for seed in (0, 2, 4)]
    for t in range(10):
        assert torch.equal(other.decode(sessions)[1], codes[t])


@pytest.mark.parametrize("config", [BASE, LONG, dataclasses.replace(BASE, begin_of_video_token=3)])
def test_a_rotated_window_has_the_first_layers_keys_of_a_new_one(config: TransformerConfig) -> None:
    model = build(config)
    decoders = [eager_decoder(model, 1, SAMPLING, slide=s) for s in ("reprefill", "rotate")]
    full = prompt(config, config.latent_shape[0])
    sessions, logits = [], []
    for decoder in decoders:
        session = decoder.open(0, full[:-1])
        sessions.append(session)
        decoder.prefill(session, full[-1])
        decoder.make_room(session)
        assert len(session.window) == decoder.keep
        logits.append(
            decoder.executor.logits([session], session.window[-1].flatten()[None, -1:], [0])
        )
    used = decoders[0].executor.next_entry(sessions[0])
    (keys, values), (turned, moved) = (
        (d.cache.keys[:, 0, :, :used], d.cache.values[:, 0, :, :used]) for d in decoders
    )
    torch.testing.assert_close(turned[0], keys[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[0], values[0], rtol=0, atol=1e-5)
    assert not torch.allclose(turned[-1], keys[-1], rtol=0, atol=1e-3)
    deviation = float((logits[1] - logits[0]).std() / logits[0].std())
    assert 0 < deviation < 0.2  # deeper layers still know of what was dropped


def test_turning_keys_forth_and_back_changes_nothing() -> None:
    keys = torch.randn(2, 7, LONG.head_dim, generator=torch.Generator().manual_seed(0))
    turned = rotate_time(LONG, keys, -3)
    assert not torch.allclose(turned, keys, atol=1e-2)
    torch.testing.assert_close(rotate_time(LONG, turned, 3), keys, rtol=0, atol=1e-6)


def test_absolute_positions_cannot_be_rotated() -> None:
    with pytest.raises(ValueError, match="use slide 'reprefill'"):
        eager_decoder(build(VIDEO2WORLD), 1, SAMPLING, slide="rotate")


def test_an_action_leads_to_the_latent_it_came_with() -> None:
    """Against the model's own cached forward: a position sees the action of what it predicts."""
    model = build(ACTIONS)
    actions = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    codes, size = prompt(ACTIONS, 1), 16
    decoder = eager_decoder(model, 3, SAMPLING, jacobi_window=5)
    session = decoder.open(9, codes, conditions=actions[:1])
    mine = torch.cat([decoder.decode([session], actions[t][None]) for t in (1, 2)])
    with torch.inference_mode():
        cache = KVCache.allocate(ACTIONS, 1, 3 * size, model.norm.weight)
        pairs = [model.action_keys_values(a[None]) for a in actions]
        model(codes.flatten()[None, :-1], cache, pairs[0])
        token, drawn = codes.flatten()[-1:], []
        for position in range(size, 3 * size):
            logits = model(token[None], cache, pairs[position // size])[:, -1]
            token = sample(logits, noise_at(ACTIONS, 9, position), SAMPLING)
            drawn.append(token)
    assert torch.equal(mine.flatten(), torch.cat(drawn))
    # two players, two actions; and a rebuilt session knows its old ones
    again = decoder.restore(decoder.snapshot(session))
    other = decoder.restore(decoder.snapshot(session))
    both = decoder.decode([session, other], actions[[3, 0]])
    assert torch.equal(decoder.decode([again], actions[3][None])[0], both[0])
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("name", ["ar_base", "ar_video2world_yarn"])
def test_logits_are_those_of_the_published_network(name: str) -> None:
    """A prompt of one latent, then the rest of the tokens at once and one by one."""
    model, tensors = load_reference(GOLDEN / name)
    _, height, width = model.config.latent_shape
    lead = int(model.config.begin_of_video_token is not None)
    tokens = tensors["tokens"].long()
    size, scale = height * width, tensors["logits"].abs().max()
    context = tensors["context"].float() if "context" in tensors else None
    decoder = eager_decoder(model, 1, SAMPLING)
    codes = tokens[lead : lead + 2 * size].view(2, height, width)
    session = decoder.open(0, codes, context=context)
    rest = tokens[None, lead + 2 * size - 1 :]
    expected = tensors["logits"][lead + 2 * size - 1 :]
    whole = decoder.executor.logits([session], rest, [0])[0]
    steps = [
        decoder.executor.logits([session], t, [i])[0] for i, t in enumerate(rest.split(1, dim=1))
    ]
    assert whole.dtype == torch.float32
    for mine in (whole, torch.cat(steps)):
        assert float((mine - expected).abs().max() / scale) <= TOLERANCE


def test_every_token_comes_from_the_nucleus() -> None:
    model = build(BASE)
    narrow = Sampling(temperature=1.0, top_p=0.3, top_k=64)
    decoder = eager_decoder(model, 1, narrow, jacobi_window=8)
    session = opened(decoder, 4)
    codes = torch.cat([prompt(BASE, 1, 4), run(decoder, session, 2)]).flatten()
    with torch.inference_mode():
        probability = model(codes[None])[0, 15:-1].softmax(-1)
    best, order = probability.sort(-1, descending=True)
    inside = (best.cumsum(-1) - best <= 0.3 + 1e-5) & (order == codes[16:, None])
    assert inside.any(-1).all()
    rank = (order == codes[16:, None]).long().argmax(-1)
    assert rank.max() > 0  # not only the most likely ones


def test_places_return_when_sessions_are_forgotten() -> None:
    decoder = eager_decoder(build(BASE), 1, SAMPLING)
    session = opened(decoder)
    with pytest.raises(RuntimeError, match="all 1 are taken"):
        opened(decoder)
    del session
    gc.collect()
    opened(decoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "magic"}, "unknown decode mode 'magic'"),
        ({"slide": "jump"}, "unknown slide 'jump'"),
        ({"max_latents": 4}, r"max_latents must be in 2\.\.3"),
        ({"keep": 3}, r"keep must be in 1\.\.2"),
        ({"jacobi_window": 0}, "jacobi_window must be at least 1"),
    ],
)
def test_bad_options_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eager_decoder(build(BASE), 1, SAMPLING, **change)


def test_prompts_that_do_not_fit_are_refused() -> None:
    decoder = eager_decoder(build(BASE), 1, SAMPLING)
    codes = prompt(BASE, 2)
    for call, message in [
        (lambda: decoder.open(0, codes[0]), r"expected codes \[latents, 4, 4\]"),
        (lambda: decoder.open(0, codes[:0]), "at least 1"),
        (lambda: decoder.open(0, codes[:1], latents=2), "its newest 2"),
        (lambda: decoder.open(0, codes + 64), r"codes must be in 0\.\.63"),
        (lambda: decoder.open(0, codes, context=torch.zeros(2, 8)), "takes no context"),
        (lambda: decoder.open(0, codes, conditions=torch.zeros(2, 8)), "takes no condition"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert len(decoder.cache.free) == 1
    told = eager_decoder(build(VIDEO2WORLD), 2, SAMPLING)
    with pytest.raises(ValueError, match="takes a context"):
        told.open(0, codes)
    sessions = [told.open(0, codes, context=torch.zeros(m, 20)) for m in (2, 3)]
    with pytest.raises(ValueError, match="cannot be decoded together"):
        told.decode(sessions)
    acting = eager_decoder(build(ACTIONS), 1, SAMPLING)
    with pytest.raises(ValueError, match="expected one condition per latent"):
        acting.open(0, codes)
