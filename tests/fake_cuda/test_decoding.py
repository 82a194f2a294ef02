"""Recorded steps on the fake CUDA device sample the tokens of `Decoder` on the CPU."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.cuda_models import (
    ACTIONS,
    SAMPLING,
    SHORT,
    VIDEO2WORLD,
    build,
    decode,
    heads_for,
    opened,
    run,
)
from tests.support.decoders import cuda_decoder, eager_decoder
from tests.support.fake_cuda import fake_cuda
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding import DecodeOptions, make_decoder
from worldbridge.runtime.decoding.executors.cuda import executor as cuda_executor
from worldbridge.runtime.decoding.executors.cuda.graphs import GraphSteps

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, about inf - inf
    pytest.mark.slow,
]


@pytest.mark.parametrize(
    ("config", "mode", "options"),
    [
        pytest.param(SHORT, "jacobi", {"jacobi_window": 4}, marks=pytest.mark.long),
        (SHORT, "medusa", {"heads": heads_for(SHORT, 3)}),
        (SHORT, "diagonal", {"row_lag": 1}),
        (VIDEO2WORLD, "jacobi", {"jacobi_window": 4}),
        pytest.param(ACTIONS, "medusa", {"heads": heads_for(SHORT, 2)}, marks=pytest.mark.long),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_recorded_steps_draw_the_tokens_of_the_reference(
    config: TransformerConfig, mode: str, options: dict[str, Any]
) -> None:
    model = build(config)
    plain = eager_decoder(model, 2, SAMPLING, mode, **options)
    expected = run(plain, opened(plain, 3, 2), 2)
    heads = options.pop("heads", None)
    with fake_cuda() as gpu:
        on_gpu = None if heads is None else copy.deepcopy(heads).to("cuda")
        decoder = cuda_decoder(
            copy.deepcopy(model).to("cuda"),
            2,
            SAMPLING,
            mode,
            heads=on_gpu,
            split=32,
            context_rows=9,
            **options,
        )
        assert isinstance(decoder.executor.steps, GraphSteps) and gpu.recorded == 2
        assert torch.equal(run(decoder, opened(decoder, 3, 2), 2).cpu(), expected)
        assert vars(decoder.counts) == vars(plain.counts)


def test_players_come_and_go_while_one_set_of_graphs_serves_them() -> None:
    """Of buckets 1, 2 and 3, with other memory in use by then."""
    model = build(SHORT)
    plain = eager_decoder(model, 3, SAMPLING, "jacobi", jacobi_window=4)
    expected = []
    for seed in (1, 2, 3):
        session = opened(plain, seed)
        expected.append(torch.stack([decode(plain, [session], step) for step in range(3)]))
        del session
        gc.collect()
    with fake_cuda() as gpu:
        decoder = cuda_decoder(
            copy.deepcopy(model).to("cuda"), 3, SAMPLING, "jacobi", jacobi_window=4, split=32
        )
        assert gpu.recorded == 3
        sessions = [opened(decoder, seed) for seed in (1, 2, 3)]
        assert decode(decoder, sessions[:1], 0).cpu().equal(expected[0][0])
        found = decode(decoder, sessions[1:], 0).cpu()
        assert found[0].equal(expected[1][0][0]) and found[1].equal(expected[2][0][0])
        found = decode(decoder, sessions, 1).cpu()
        for i in range(3):
            assert found[i].equal(expected[i][1][0])
        del sessions[1]
        gc.collect()
        assert decode(decoder, sessions[1:], 2)[0].cpu().equal(expected[2][2][0])


@pytest.mark.parametrize("precision", ["fp8", pytest.param("int8", marks=pytest.mark.long)])
def test_weights_of_one_byte_are_recorded(precision: Any) -> None:
    """What they draw is compared with launches that are not recorded."""
    model = build(SHORT)
    results = []
    for steps in (GraphSteps, lambda step, progress: cuda_executor.EagerSteps(step)):
        with fake_cuda(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda_executor, "GraphSteps", steps)
            decoder = cuda_decoder(
                copy.deepcopy(model).to("cuda"),
                1,
                SAMPLING,
                "jacobi",
                jacobi_window=4,
                split=32,
                weight_dtype=precision,
            )
            results.append(run(decoder, opened(decoder, 4), 1).cpu())
    assert torch.equal(*results)


@pytest.mark.parametrize("mode", ["jacobi", pytest.param("diagonal", marks=pytest.mark.long)])
def test_a_latent_waits_for_reports_and_twice_for_something_else(mode: str) -> None:
    with fake_cuda() as gpu:
        decoder = make_decoder(build(SHORT).to("cuda"), 1, SAMPLING, DecodeOptions(mode))
        session = opened(decoder, 3)
        decode(decoder, [session], 0)
        before, read, reports = gpu.waits, decoder.executor.reports.read, []
        decoder.executor.reports.read = lambda: reports.append(read()) or reports[-1]
        decode(decoder, [session], 1)
        assert reports[-1][0] == decoder.executor.step.state.feed.num_accepted[0].item()
        # where the session stands, and where its latent is fed
        assert gpu.waits - 1 - before <= len(reports) + 2
