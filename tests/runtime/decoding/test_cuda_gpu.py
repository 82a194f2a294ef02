"""On a GPU: recorded steps are what they were recorded from, and nothing changes a token."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.cuda_models import build, decode, heads_for, opened, run
from tests.support.decoders import cuda_decoder, eager_decoder
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding import Decoder
from worldbridge.runtime.decoding.executors.cuda.graphs import EagerSteps
from worldbridge.runtime.decoding.sampling import Sampling

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SAMPLING = Sampling(temperature=1.0, top_p=0.9, top_k=2000)
# the 4B's heads, narrower and with two layers
CONFIG = TransformerConfig(
    dim=1024,
    n_layers=2,
    n_heads=32,
    n_kv_heads=8,
    head_dim=128,
    ffn_hidden_size=3584,
    vocab_size=4000,
    latent_shape=(3, 6, 8),
)
CONDITIONED = dataclasses.replace(
    CONFIG,
    input_vocab_rows=4064,
    begin_of_video_token=4000,
    apply_abs_pos_emb=True,
    context_dim=64,
    camera="pluecker",
)
MODES: list[tuple[str, dict[str, Any]]] = [
    ("sequential", {}),
    ("jacobi", {"jacobi_window": 16}),
    ("medusa", {"heads": 9}),
]
DIAGONALS: list[tuple[str, dict[str, Any]]] = [("diagonal", {})]  # which draw other tokens


def device(
    config: TransformerConfig, capacity: int, mode: str, dtype: torch.dtype, **options: Any
) -> Decoder:
    model = build(config).to("cuda", dtype)
    heads = options.pop("heads", None)
    if heads is not None:
        heads = heads_for(config, heads, 0.004).to("cuda", dtype)
    return cuda_decoder(model, capacity, SAMPLING, mode, heads=heads, **options)


@pytest.mark.parametrize("config", [CONFIG, CONDITIONED], ids=["plain", "conditioned"])
@pytest.mark.parametrize(("mode", "options"), MODES + DIAGONALS)
def test_recorded_steps_are_the_launches_they_were_recorded_from(
    config: TransformerConfig, mode: str, options: dict[str, Any]
) -> None:
    results = []
    for recorded in (True, False):
        decoder = device(config, 1, mode, torch.bfloat16, **options)
        if not recorded:
            decoder.executor.steps = EagerSteps(decoder.executor.step)
        results.append((run(decoder, opened(decoder, 3, 2), 3), decoder.cache.keys.clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])  # to the bit


def test_float32_draws_the_tokens_of_the_reference() -> None:
    for mode, options in MODES + DIAGONALS:
        decoder = device(CONFIG, 1, mode, torch.float32, **options)
        plain = eager_decoder(
            decoder.model, 1, SAMPLING, mode, jacobi_window=16, heads=decoder.heads
        )
        expected = run(plain, opened(plain, 5), 2)
        found = run(decoder, opened(decoder, 5), 2)
        # near ties fall either way, and what follows one within a latent is another stream
        assert int((found == expected).flatten().int().cumprod(0).sum()) >= 40
        assert decoder.counts.tokens == plain.counts.tokens == 96


def test_logits_of_bfloat16_are_as_near_to_float64_as_torchs() -> None:
    decoder = device(CONFIG, 1, "jacobi", torch.bfloat16, jacobi_window=16)
    session = opened(decoder, 1)
    previous = session.window[-1].flatten()
    line = torch.cat([previous[-1:], previous])[None, :16]
    plain = decoder.executor.logits([session], line, [0])[0]
    exact = eager_decoder(decoder.model.double(), 1, SAMPLING)
    expected = exact.executor.logits([opened(exact, 1)], line, [0])[0]
    with torch.inference_mode():
        decoder.executor.write_state(decoder.executor.begin([session], [None], None))
        decoder.executor.steps.run(1)
    mine = decoder.executor.step.own_logits(1)[0]
    assert (mine - expected).norm() <= 2 * (plain - expected).norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_all_modes_draw_the_same_tokens_with_equal_rows(dtype: torch.dtype) -> None:
    found = []
    for mode, options in MODES:
        decoder = device(CONFIG, 1, mode, dtype, padding=16, **options)
        found.append(run(decoder, opened(decoder, 7), 3))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(("mode", "options"), MODES + DIAGONALS)
def test_a_session_never_depends_on_its_neighbours(mode: str, options: dict[str, Any]) -> None:
    """In buckets of 1, 2, 4 (with an idle place) and 6, and of 9 x 16 rows at last."""
    alone = device(CONFIG, 1, mode, torch.bfloat16, padding=16, **options)
    expected = []
    for seed in (1, 2, 3):
        session = opened(alone, seed)
        expected.append(torch.cat([decode(alone, [session], step) for step in range(2)]))
        del session
        gc.collect()
    decoder = device(CONFIG, 9, mode, torch.bfloat16, padding=16, **options)
    for count in (1, 2, 3, 5, 9):
        sessions = [opened(decoder, 1 + i % 3) for i in range(count)]
        for step in range(2):
            codes = decode(decoder, sessions, step)
            for i in range(count):
                assert torch.equal(codes[i], expected[i % 3][step]), (count, i)
        del sessions
        gc.collect()


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_weights_of_one_byte_draw_alike_recorded_or_not(precision: Any) -> None:
    results = []
    for recorded in (True, False):
        decoder = device(CONFIG, 2, "medusa", torch.bfloat16, heads=9, weight_dtype=precision)
        if not recorded:
            decoder.executor.steps = EagerSteps(decoder.executor.step)
        results.append(run(decoder, opened(decoder, 4), 2))
        assert bool(decoder.executor.step.own_logits(1).isfinite().all())
    assert torch.equal(*results)


@pytest.mark.parametrize(("mode", "heads", "most"), [("medusa", 9, 48), ("diagonal", None, 8)])
def test_a_latent_is_drawn_without_any_wait_but_for_reports(
    mode: str, heads: int | None, most: int
) -> None:
    decoder = device(CONFIG, 1, mode, torch.bfloat16, heads=heads)
    session = opened(decoder, 1)
    decode(decoder, [session])
    with torch.inference_mode():
        decoder.executor.write_state(decoder.executor.begin([session], [None], None))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")  # whatever makes the host wait is an error now
        try:
            for _ in range(4):
                decoder.executor.steps.run(1)
                decoder.executor.step.run(1)
            decoder.executor.reports.note(1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert 8 <= decoder.executor.reports.read()[0] <= most
