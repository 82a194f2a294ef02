"""The bookkeeping of a decode step against plain Python; idle sessions stay as they are."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.compile_kernels import compile_launches
from worldbridge.kernels import speculative as module
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.speculative import (
    DraftBuffer,
    DraftTargets,
    StepInputs,
    accept_drafts,
    gather_inputs,
    reference_accept_drafts,
    reference_gather_inputs,
    reference_scatter_drafts,
    scatter_drafts,
)


def input_tensors(inputs: StepInputs) -> list[Tensor]:
    return [inputs.tokens, inputs.drafts, inputs.entries, inputs.positions, inputs.limits]


def buffer_of(done: list[int], size: int, count: int, width: int, heads: int) -> DraftBuffer:
    sessions = len(done)
    return DraftBuffer(
        torch.randint(100, (sessions, 1 + size + count)),
        torch.tensor(done),
        torch.randint(50, (sessions,)),
        torch.randint(10**12, (sessions,)),
        torch.randint(9, (sessions, 3 + 2 * heads)),
        size,
        width,
    )


def poisoned(sessions: int, count: int) -> StepInputs:
    inputs = StepInputs.allocate(sessions, count, torch.device("cpu"))
    for tensor in input_tensors(inputs):
        tensor.fill_(-77)
    return inputs


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("seed", range(12))
def test_matches_plain_python(seed: int) -> None:
    """Sessions at random offsets, among them idle ones, ones at the end, and wrong numbers."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    size, count = choose.randint(2, 20), choose.choice([1, 2, 5, 16])
    width = choose.randint(1, count)
    follow = choose.random() < 0.5
    heads = choose.choice([0, width - 1, 3])
    done = [
        choose.choice([0, size - 1, size, size + 7, -2, choose.randrange(size)]) for _ in "abcd"
    ]
    buffer = buffer_of(done, size, count, width, heads)
    inputs = poisoned(4, count)
    gather_inputs(buffer, inputs)
    for mine, expected in zip(
        input_tensors(inputs), input_tensors(reference_gather_inputs(buffer, count)), strict=True
    ):
        assert torch.equal(mine, expected)
    sampled = torch.randint(100, (4, count))
    gains = [choose.randint(1, min(width, size - n)) if 0 <= n < size else 10**6 for n in done]
    after, where = reference_accept_drafts(buffer, sampled, torch.tensor(gains), follow=follow)
    targets = DraftTargets.allocate(4, torch.device("cpu"))
    for tensor in (targets.rows, targets.offsets, targets.positions):
        tensor.fill_(-77)
    accept_drafts(buffer, sampled, torch.tensor(gains), follow=follow, targets=targets)
    for name in ("tokens", "num_accepted", "counts"):
        assert torch.equal(getattr(buffer, name), getattr(after, name)), name
    for name in DraftTargets.__slots__:
        assert torch.equal(getattr(targets, name), getattr(where, name)), name
    drafts = torch.randint(100, (4, 1 + max(1, heads)))
    expected_tokens = reference_scatter_drafts(buffer, drafts, targets)
    scatter_drafts(buffer, drafts, targets)
    assert torch.equal(buffer.tokens, expected_tokens)


@pytest.mark.usefixtures("interpreter")
def test_idle_sessions_stay_as_they_are_however_often_they_are_stepped() -> None:
    buffer = buffer_of([6, 6, -1], 6, 4, 4, 3)
    before = [t.clone() for t in (buffer.tokens, buffer.num_accepted, buffer.counts)]
    inputs, targets = poisoned(3, 4), DraftTargets.allocate(3, torch.device("cpu"))
    for _ in range(3):
        gather_inputs(buffer, inputs)
        assert inputs.entries.tolist() == inputs.positions.tolist() == [-1, -1, -1]
        assert not inputs.tokens.any() and not inputs.limits.any()
        accept_drafts(buffer, torch.full((3, 4), 99), inputs.limits, follow=True, targets=targets)
        scatter_drafts(buffer, torch.full((3, 4), 99), targets)
    for mine, expected in zip(
        (buffer.tokens, buffer.num_accepted, buffer.counts), before, strict=True
    ):
        assert torch.equal(mine, expected)


@pytest.mark.usefixtures("interpreter")
def test_first_sessions_are_views() -> None:
    buffer = buffer_of([0, 3, 6], 6, 4, 4, 2)
    accept_drafts(buffer.first(2), torch.full((2, 4), 7), torch.tensor([1, 2]), follow=False)
    assert buffer.num_accepted.tolist() == [1, 5, 6] and buffer.tokens[0, 1:5].tolist() == [7] * 4
    assert buffer.heads == 2


def _given() -> dict[str, Any]:
    return {"buffer": buffer_of([0, 1], 6, 4, 4, 2), "out": poisoned(2, 4)}


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("part", "change", "name"),
    [
        ("buffer", {"tokens": torch.zeros(2, 9, dtype=torch.int64)}, "buffer.tokens"),
        ("buffer", {"tokens": torch.zeros(2, 11)}, "buffer.tokens"),
        ("buffer", {"num_accepted": torch.zeros(3, dtype=torch.int64)}, "num_accepted"),
        ("buffer", {"first_entries": torch.zeros(2)}, "first_entries"),
        ("buffer", {"width": 5}, "width"),
        ("buffer", {"width": 0}, "width"),
        ("out", {"tokens": torch.zeros(3, 4, dtype=torch.int64)}, "tokens"),
        ("out", {"drafts": torch.zeros(2, 4, dtype=torch.int64)}, "drafts"),
        ("out", {"limits": torch.zeros(2, dtype=torch.int32)}, "limits"),
    ],
)
def test_refuses_what_it_cannot_take(part: str, change: dict[str, Any], name: str) -> None:
    given = _given()
    given[part] = dataclasses.replace(given[part], **change)
    with pytest.raises(KernelArgumentError) as caught:
        gather_inputs(given["buffer"], given["out"])
    assert caught.value.message == name


@pytest.mark.usefixtures("interpreter")
def test_refuses_samples_and_drafts_that_do_not_fit() -> None:
    buffer, targets = _given()["buffer"], DraftTargets.allocate(2, torch.device("cpu"))
    sampled, one = torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    for call, name in [
        (lambda: accept_drafts(buffer, sampled[:1], one, follow=True), "sampled"),
        (lambda: accept_drafts(buffer, sampled, one[:1], follow=True), "accepted"),
        (
            lambda: accept_drafts(
                dataclasses.replace(buffer, counts=buffer.counts[:, :6]), sampled, one, follow=True
            ),
            "counts",
        ),
        (
            lambda: accept_drafts(buffer, sampled, one, follow=True, targets=targets.first(1)),
            "rows",
        ),
        (lambda: scatter_drafts(buffer, sampled[:1], targets), "drafts"),
    ]:
        with pytest.raises(KernelArgumentError) as caught:
            call()
        assert caught.value.message == name


def test_refuses_the_cpu_without_an_interpreter() -> None:
    with pytest.raises(KernelArgumentError, match="CUDA"):
        gather_inputs(**_given())


@pytest.mark.parametrize("count", [1, 10, 64])
def test_compiles_for_hopper_without_spills(count: int) -> None:
    buffer = buffer_of([0], 640, count, count, 9)
    targets = DraftTargets.allocate(1, torch.device("cpu"))

    def launch() -> None:
        gather_inputs(buffer, poisoned(1, count))
        sampled, accepted = torch.zeros(1, count, dtype=torch.int64), torch.ones(1).long()
        accept_drafts(buffer, sampled, accepted, follow=True, targets=targets)
        scatter_drafts(buffer, torch.zeros(1, 10, dtype=torch.int64), targets)

    found = compile_launches(launch, module.__name__)
    assert len(found) == 3 and not any(kernel.spills for kernel in found)
