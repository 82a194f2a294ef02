"""Diagonals drawn by kernels are the tokens of `Decoder`; here in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.runtime.decoding.test_cuda_decoder import tensors_of
from tests.support.cuda_models import ACTIONS, PLAIN, SHORT, VIDEO2WORLD, decode, opened, pair, run
from tests.support.decoders import eager_decoder
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding import Decoder
from worldbridge.runtime.decoding.executors.cuda.step import WavefrontStep
from worldbridge.runtime.decoding.executors.eager import EagerExecutor
from worldbridge.runtime.decoding.sampling import Sampling
from worldbridge.runtime.decoding.schedule import RowLagWave

pytestmark = [
    pytest.mark.usefixtures("interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, about inf - inf
]


def poison(step: WavefrontStep) -> None:
    """What no step may read before it has written it."""
    spaces = (step.product_space, step.sampling_space, step.attention_space, step.context_space)
    for owner in (step.buffers, *(space for space in spaces if space is not None)):
        for tensor in tensors_of(owner):
            tensor.fill_(torch.nan)
    fed = step.fed
    for integers in (step.buffers.sampled, fed.tokens, fed.entries, fed.positions, fed.seeds):
        integers.fill_(10**9)
    fed.mask.fill_(True)


def watched(decoder: Decoder) -> list[Tensor]:
    """Buffers are poisoned before every step; the list gets the logits [n, rows, vocab] of each."""
    step, plain, logits = step_of(decoder), decoder.executor.steps.run, []
    for ring in (decoder.cache.keys, decoder.cache.values):
        ring.fill_(torch.nan)

    def run_poisoned(bucket: int, given: bool = False) -> None:
        poison(step)
        plain(bucket, given)
        found = step.buffers.logits[: bucket * step.shape.rows].clone()
        logits.append(found.view(bucket, step.shape.rows, -1))

    decoder.executor.steps.run = run_poisoned  # type: ignore[method-assign]
    return logits


def step_of(decoder: Decoder) -> WavefrontStep:
    assert isinstance(decoder.executor.step, WavefrontStep)
    return decoder.executor.step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "k", "seeds", "options"),
    [
        (SHORT, 1, (5, -3), {}),
        (PLAIN, 2, (1,), {}),
        (SHORT, 2, (8,), {"padding": 3, "slide": "rotate"}),
        (SHORT, 3, (2,), {}),  # the width of a latent: sequential
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_tokens_and_counts_are_those_of_the_reference(
    config: TransformerConfig, k: int, seeds: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Whatever the buffers held before."""
    plain, device = pair(config, len(seeds), "diagonal", row_lag=k, **options)
    watched(device)
    mine, expected = ([opened(d, seed, 2) for seed in seeds] for d in (device, plain))
    latents = 1 if config is PLAIN else 2  # the second one comes after a slide
    for own, reference in zip(mine, expected, strict=True):
        assert torch.equal(run(device, own, latents), run(plain, reference, latents))
    assert vars(device.counts) == vars(plain.counts)
    assert device.least_forwards == plain.least_forwards and device.rows == plain.rows
    if k == 3:
        sequential = eager_decoder(plain.model, 1, plain.executor.sampling, "sequential")
        again = run(sequential, opened(sequential, seeds[0], 2), 2)
        assert torch.equal(torch.stack(mine[0].window[-2:]), again)


@pytest.mark.slow
@pytest.mark.parametrize("config", [VIDEO2WORLD, ACTIONS], ids=["v2w", "actions"])
def test_contexts_cameras_and_absolute_positions(
    config: TransformerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And logits, as a small error seldom changes a token. Two sessions with contexts of their own
    at different places, one past a slide, and a place of the batch that nobody uses."""
    expected: list[Tensor] = []
    hidden_at = EagerExecutor.hidden_at

    def recorded(self: EagerExecutor, *given: Any) -> Tensor:
        hidden, wave = hidden_at(self, *given), given[2]
        assert isinstance(wave, RowLagWave)
        expected.append(self.model.output(hidden[:, : len(wave.sampled)]).float())
        return hidden

    monkeypatch.setattr(EagerExecutor, "hidden_at", recorded)
    plain, device = pair(config, 3, "diagonal", row_lag=1)
    logits = watched(device)
    device.executor.steps.buckets = (3,)
    codes = [decode(d, [opened(d, 3, 1), opened(d, 4, 3)]) for d in (plain, device)]
    assert torch.equal(*codes)
    assert len(logits) == len(expected) == 4
    for mine, wanted in zip(logits, expected, strict=True):
        found = mine[:2, : wanted.shape[1]]
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * float(wanted.std()))


@pytest.mark.slow
def test_batches_of_any_composition_and_streams_that_move() -> None:
    """Snapshots go both ways, and a draw that was interrupted is repeated."""
    plain, device = pair(SHORT, 4, "diagonal", row_lag=2)
    watched(device)
    mine, expected = ([opened(d, s, 1 + s % 2) for s in (1, 2, 3)] for d in (device, plain))
    device.executor.steps.buckets = (2, 4)
    who = (2, 0, 1)
    found = decode(device, [mine[i] for i in who])
    assert torch.equal(found, decode(plain, [expected[i] for i in who]))
    moved = device.restore(plain.snapshot(expected[0]))
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("interrupted")

    device.on_step = fail
    with pytest.raises(RuntimeError, match="interrupted"):
        decode(device, [moved])
    device.on_step = lambda: calls.append(1)
    back = plain.restore(device.snapshot(moved))
    calls.clear()
    assert torch.equal(decode(device, [moved]), decode(plain, [back]))
    assert len(calls) == 5 + 1  # before every step, and before what ends a latent


def test_more_steps_than_needed_change_nothing() -> None:
    _, device = pair(SHORT, 2, "diagonal", row_lag=1)
    sessions = [opened(device, seed) for seed in (1, 2)]
    decode(device, sessions)
    feed = device.executor.step.state.feed
    kept = (feed.tokens, feed.num_accepted, feed.counts, device.cache.keys, device.cache.values)
    before = [tensor.clone() for tensor in kept]
    poison(step_of(device))
    device.executor.steps.run(2)
    for tensor, was in zip(kept, before, strict=True):
        assert torch.equal(tensor, was)
    assert feed.num_accepted.tolist() == [4, 4]


@pytest.mark.slow
def test_tokens_come_from_the_nucleus_as_in_the_reference() -> None:
    narrow = Sampling(temperature=0.9, top_p=0.8, top_k=12)
    plain, device = pair(SHORT, 1, "diagonal", row_lag=1, sampling=narrow)
    watched(device)
    assert torch.equal(run(device, opened(device, 2), 1), run(plain, opened(plain, 2), 1))


def test_a_device_that_did_not_do_its_steps_is_told() -> None:
    _, device = pair(SHORT, 1, "diagonal", row_lag=1)
    session = opened(device, 1)
    device.executor.steps.run = lambda bucket, given: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"after 4 steps of a latent, the device reports \[0\]"):
        decode(device, [session])
