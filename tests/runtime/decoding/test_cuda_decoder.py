"""Drawing by kernels gives the tokens of `Decoder`; here in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.runtime.decoding.test_raster_decoder import BASE
from tests.support.cuda_models import (
    ACTIONS,
    PLAIN,
    SAMPLING,
    SHORT,
    VIDEO2WORLD,
    build,
    decode,
    heads_for,
    opened,
    pair,
    poses,
    run,
)
from tests.support.decoders import cuda_decoder, eager_decoder
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding import Decoder
from worldbridge.runtime.decoding.executors.cuda.step import CudaStep
from worldbridge.runtime.decoding.sampling import Sampling

pytestmark = [
    pytest.mark.usefixtures("interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, about inf - inf
]


def tensors_of(owner: object) -> list[Tensor]:
    """Floating-point tensors among the attributes of an object, and of theirs."""
    names = getattr(owner, "__slots__", None) or vars(owner)
    values = [getattr(owner, name) for name in names]
    return [v for v in values if isinstance(v, Tensor) and v.dtype.is_floating_point]


def poison(step: CudaStep) -> None:
    """What no step may read before it has written it."""
    spaces = (step.product_space, step.sampling_space, step.attention_space)
    optional = (step.context_space, step.head_space)
    for owner in (step.buffers, *spaces, *(space for space in optional if space is not None)):
        for tensor in tensors_of(owner):
            tensor.fill_(torch.nan)
    for integers in (step.buffers.sampled, step.buffers.drafts, step.fed.tokens, step.fed.drafts):
        integers.fill_(10**9)


def poisoned(decoder: Decoder) -> None:
    """From now on, before every step; and what the rings do not hold yet, once."""
    for ring in (decoder.cache.keys, decoder.cache.values):
        ring.fill_(torch.nan)
    plain = decoder.executor.steps.run

    def run_poisoned(bucket: int, given: bool = False) -> None:
        poison(decoder.executor.step)
        plain(bucket, given)

    decoder.executor.steps.run = run_poisoned  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "mode", "options"),
    [
        (SHORT, "sequential", {}),
        (SHORT, "sequential", {"padding": 3}),
        (PLAIN, "jacobi", {"jacobi_window": 5}),
        (SHORT, "jacobi", {"jacobi_window": 8}),  # wider than a latent
        (SHORT, "jacobi", {"jacobi_window": 2, "heads": heads_for(SHORT, 3)}),
        (PLAIN, "medusa", {"heads": heads_for(PLAIN, 4)}),
        (SHORT, "medusa", {"heads": heads_for(SHORT, 7)}),  # more than tokens in a latent
        (SHORT, "medusa", {"heads": heads_for(SHORT, 3, 50.0)}),  # wrong nearly always
        (SHORT, "medusa", {"heads": heads_for(SHORT, 16)}),  # too many to guess behind every row
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tokens_and_counts_are_those_of_the_reference(
    config: TransformerConfig, mode: str, options: dict[str, Any]
) -> None:
    """Past a slide; and whatever the buffers held before."""
    plain, device = pair(config, 1, mode, **options)
    poisoned(device)
    seed = -3 if mode == "jacobi" else 5  # any 64 bits
    expected = run(plain, opened(plain, seed, 2), 2)
    assert torch.equal(run(device, opened(device, seed, 2), 2), expected)
    assert vars(device.counts) == vars(plain.counts)
    assert device.tokens_per_forward == plain.tokens_per_forward


@pytest.mark.parametrize("config", [SHORT, VIDEO2WORLD, ACTIONS], ids=["plain", "v2w", "actions"])
def test_logits_of_a_step_are_those_of_the_reference(config: TransformerConfig) -> None:
    """Which tokens alone would not show: a small error seldom changes one. Contexts are shorter
    than there is room for, of two lengths."""
    plain, device = pair(config, 2, "jacobi", jacobi_window=4)
    poisoned(device)
    lines, sessions = [], {}
    for decoder in (plain, device):
        own = [opened(decoder, 3, 1), opened(decoder, 4, 2)]
        if config is VIDEO2WORLD:
            own[1].context = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
            own[1].context_pairs = None
        for session in own if config.takes_camera else []:
            decoder.executor.look(session, poses(1, 0.7)[0], session.poses[0])
        sessions[decoder] = own
    for session in sessions[plain]:
        previous = session.window[-1].flatten()
        lines.append(torch.cat([previous[-1:], previous[:3]]))
    told = torch.tensor([0.3, -1.0, 0.5, 2.0]) if config.takes_actions else None
    with torch.inference_mode():
        mine = sessions[device]
        device.executor.write_state(device.executor.begin(mine, [told] * len(mine), None))
        device.executor.steps.run(2)
    found = device.executor.step.own_logits(2)
    for i, session in enumerate(sessions[plain]):
        expected = plain.executor.logits([session], lines[i][None], [0], told)[0]
        torch.testing.assert_close(found[i], expected, rtol=0, atol=2e-5 * float(expected.std()))


@pytest.mark.slow
@pytest.mark.parametrize(("config", "mode"), [(VIDEO2WORLD, "jacobi"), (ACTIONS, "medusa")])
def test_contexts_cameras_and_absolute_positions(config: TransformerConfig, mode: str) -> None:
    """Two sessions with contexts of their own, at different places, past a slide of one of them."""
    heads = heads_for(config, 3) if mode == "medusa" else None
    plain, device = pair(config, 2, mode, jacobi_window=4, heads=heads)
    poisoned(device)
    results = []
    for decoder in (plain, device):
        sessions = [opened(decoder, 3, 1), opened(decoder, 4, 3)]
        results.append([decode(decoder, sessions, step) for step in range(2)])
    for mine, expected in zip(results[1], results[0], strict=True):
        assert torch.equal(mine, expected)
    other = opened_alone(plain, 4, 3)
    assert torch.equal(results[0][0][1], other)  # and the reference knows no neighbours


def opened_alone(decoder: Decoder, seed: int, latents: int) -> Tensor:
    gc.collect()
    alone = eager_decoder(
        decoder.model, 1, SAMPLING, decoder.mode, jacobi_window=4, heads=decoder.heads
    )
    return decode(alone, [opened(alone, seed, latents)])[0]


@pytest.mark.slow
def test_batches_of_any_composition_and_places_nobody_uses() -> None:
    plain, device = pair(SHORT, 4, "medusa", heads=heads_for(SHORT, 3))
    poisoned(device)
    mine, expected = ([opened(d, s, 1 + s % 2) for s in (1, 2, 3)] for d in (device, plain))
    device.executor.steps.buckets = (2, 4)
    for step, who in enumerate([(2,), (0, 1), (2, 0, 1), (1,)]):
        found = decode(device, [mine[i] for i in who], step)
        assert torch.equal(found, decode(plain, [expected[i] for i in who], step))
    assert vars(device.counts) == vars(plain.counts)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["medusa", "jacobi"])
def test_heads_guess_behind_all_rows_of_few_sessions_and_behind_one_of_many(mode: str) -> None:
    """16 rows and 15 heads: 256 rows of one session are one product, those of two are not."""
    plain, device = pair(SHORT, 2, mode, jacobi_window=16, heads=heads_for(SHORT, 15))
    poisoned(device)
    assert [device.executor.weights.drafts_together(n * 16) for n in (1, 2)] == [True, False]
    mine, expected = ([opened(d, s, 1) for s in (1, 2)] for d in (device, plain))
    for step, who in enumerate([(0,), (1, 0), (1,)]):
        found = decode(device, [mine[i] for i in who], step)
        assert torch.equal(found, decode(plain, [expected[i] for i in who], step))
    assert vars(device.counts) == vars(plain.counts)


@pytest.mark.slow
def test_tokens_come_from_the_nucleus_as_in_the_reference() -> None:
    narrow = Sampling(temperature=0.9, top_p=0.8, top_k=12)
    plain, device = pair(
        SHORT, 1, "jacobi", jacobi_window=3, heads=heads_for(SHORT, 2), sampling=narrow
    )
    assert torch.equal(run(device, opened(device, 2), 1), run(plain, opened(plain, 2), 1))


def test_more_steps_than_needed_change_nothing() -> None:
    _, device = pair(SHORT, 2, "medusa", heads=heads_for(SHORT, 3))
    sessions = [opened(device, seed) for seed in (1, 2)]
    decode(device, sessions)
    feed = device.executor.step.state.feed
    watched = (feed.tokens, feed.num_accepted, feed.counts, device.cache.keys, device.cache.values)
    before = [tensor.clone() for tensor in watched]
    for _ in range(2):
        poison(device.executor.step)
        device.executor.steps.run(2)
    for tensor, was in zip(watched, before, strict=True):
        assert torch.equal(tensor, was)
    assert feed.num_accepted.tolist() == [6, 6]


@pytest.mark.slow
def test_steps_ahead_of_reports_draw_the_same() -> None:
    plain, device = pair(SHORT, 1, "jacobi", jacobi_window=3, group=2, ahead=3)
    calls: list[int] = []
    device.on_step = lambda: calls.append(1)
    steps = device.executor.steps.run
    ran: list[int] = []
    device.executor.steps.run = lambda bucket, given: (ran.append(bucket), steps(bucket))[1]  # type: ignore[method-assign]
    assert torch.equal(run(device, opened(device, 1), 2), run(plain, opened(plain, 1), 2))
    assert len(ran) > plain.counts.forwards  # some were for nothing
    assert vars(device.counts) == vars(plain.counts)
    assert len(calls) == len(ran) + 3  # before every step, the prompt, and what ends a latent


@pytest.mark.slow
def test_streams_move_between_the_decoders() -> None:
    """Snapshot, restore, force and window are one; a draw that was interrupted can be repeated."""
    plain, device = pair(SHORT, 2, "jacobi", jacobi_window=6)
    session = opened(plain, 7, 2)
    first = decode(plain, [session])
    moved = device.restore(plain.snapshot(session))
    assert device.window_start(5) == plain.window_start(5)

    def fail() -> None:
        raise RuntimeError("interrupted")

    device.on_step = fail
    with pytest.raises(RuntimeError, match="interrupted"):
        device.decode([moved])
    device.on_step = lambda: None
    expected = decode(plain, [session])
    assert torch.equal(decode(device, [moved]), expected)
    forced = opened(device, 7, 2)
    device.prefill(forced, first[0])
    assert torch.equal(decode(device, [forced]), expected)
    back = device.snapshot(moved)
    assert back.latents == 4 and torch.equal(back.codes[-1], expected[0])


def test_what_it_cannot_do_is_said() -> None:
    model = build(SHORT)
    for call, message in [
        (lambda: cuda_decoder(model, 1, SAMPLING, jacobi_window=65), "1 to 64 tokens per session"),
        (lambda: cuda_decoder(model, 1, SAMPLING, "sequential", padding=65), "1 to 64"),
        (lambda: cuda_decoder(model, 1, SAMPLING, "diagonal", padding=65), "larger row_lag"),
        (lambda: cuda_decoder(model, 1, SAMPLING, "diagonal", row_lag=0), "at least 1, got 0"),
        (lambda: cuda_decoder(model, 1, SAMPLING, "medusa"), "needs the model's heads"),
        (lambda: cuda_decoder(build(BASE), 1, SAMPLING), "at least 16 channels, got 12"),
        (lambda: cuda_decoder(model, 1, SAMPLING, weight_dtype="fp4"), "unknown weight_dtype"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    config = dataclasses.replace(VIDEO2WORLD, camera="none")
    told = cuda_decoder(build(config), 1, SAMPLING, context_rows=2)
    with pytest.raises(ValueError, match="at most 2 rows, got 6"):
        opened(told)
    assert len(told.cache.free) == 1
