"""The bookkeeping of a decode step against plain Python; idle sessions stay as they are."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.kernels.ahead_of_time import compile_launches
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


def fed_tensors(fed: StepInputs) -> list[Tensor]:
    return [fed.tokens, fed.drafts, fed.slots, fed.positions, fed.limits]


def feed_of(done: list[int], size: int, count: int, width: int, heads: int) -> DraftBuffer:
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
    fed = StepInputs.allocate(sessions, count, torch.device("cpu"))
    for tensor in fed_tensors(fed):
        tensor.fill_(-77)
    return fed


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("seed", range(12))
def test_matches_plain_python(seed: int) -> None:
    """Sessions at random places, among them idle ones, ones at the end, and wrong numbers."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    size, count = choose.randint(2, 20), choose.choice([1, 2, 5, 16])
    width = choose.randint(1, count)
    follow = choose.random() < 0.5
    heads = choose.choice([0, width - 1, 3])
    done = [
        choose.choice([0, size - 1, size, size + 7, -2, choose.randrange(size)]) for _ in "abcd"
    ]
    feed = feed_of(done, size, count, width, heads)
    fed = poisoned(4, count)
    gather_inputs(feed, fed)
    for mine, expected in zip(
        fed_tensors(fed), fed_tensors(reference_gather_inputs(feed, count)), strict=True
    ):
        assert torch.equal(mine, expected)
    drawn = torch.randint(100, (4, count))
    gains = [choose.randint(1, min(width, size - n)) if 0 <= n < size else 10**6 for n in done]
    after, where = reference_accept_drafts(feed, drawn, torch.tensor(gains), follow=follow)
    guessing = DraftTargets.allocate(4, torch.device("cpu"))
    for tensor in (guessing.rows, guessing.bases, guessing.positions):
        tensor.fill_(-77)
    accept_drafts(feed, drawn, torch.tensor(gains), follow=follow, guessing=guessing)
    for name in ("line", "done", "counts"):
        assert torch.equal(getattr(feed, name), getattr(after, name)), name
    for name in DraftTargets.__slots__:
        assert torch.equal(getattr(guessing, name), getattr(where, name)), name
    guesses = torch.randint(100, (4, 1 + max(1, heads)))
    expected_line = reference_scatter_drafts(feed, guesses, guessing)
    scatter_drafts(feed, guesses, guessing)
    assert torch.equal(feed.line, expected_line)


@pytest.mark.usefixtures("interpreter")
def test_idle_sessions_stay_as_they_are_however_often_they_are_stepped() -> None:
    feed = feed_of([6, 6, -1], 6, 4, 4, 3)
    before = [t.clone() for t in (feed.line, feed.done, feed.counts)]
    fed, guessing = poisoned(3, 4), DraftTargets.allocate(3, torch.device("cpu"))
    for _ in range(3):
        gather_inputs(feed, fed)
        assert fed.slots.tolist() == fed.positions.tolist() == [-1, -1, -1]
        assert not fed.tokens.any() and not fed.limits.any()
        accept_drafts(feed, torch.full((3, 4), 99), fed.limits, follow=True, guessing=guessing)
        scatter_drafts(feed, torch.full((3, 4), 99), guessing)
    for mine, expected in zip((feed.line, feed.done, feed.counts), before, strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.usefixtures("interpreter")
def test_first_sessions_are_views() -> None:
    feed = feed_of([0, 3, 6], 6, 4, 4, 2)
    accept_drafts(feed.first(2), torch.full((2, 4), 7), torch.tensor([1, 2]), follow=False)
    assert feed.done.tolist() == [1, 5, 6] and feed.line[0, 1:5].tolist() == [7] * 4
    assert feed.heads == 2


def _given() -> dict[str, Any]:
    return {"feed": feed_of([0, 1], 6, 4, 4, 2), "out": poisoned(2, 4)}


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("part", "change", "name"),
    [
        ("feed", {"line": torch.zeros(2, 9, dtype=torch.int64)}, "line"),
        ("feed", {"line": torch.zeros(2, 11)}, "line"),
        ("feed", {"done": torch.zeros(3, dtype=torch.int64)}, "done"),
        ("feed", {"places": torch.zeros(2)}, "places"),
        ("feed", {"width": 5}, "width"),
        ("feed", {"width": 0}, "width"),
        ("out", {"tokens": torch.zeros(3, 4, dtype=torch.int64)}, "tokens"),
        ("out", {"drafts": torch.zeros(2, 4, dtype=torch.int64)}, "drafts"),
        ("out", {"limits": torch.zeros(2, dtype=torch.int32)}, "limits"),
    ],
)
def test_refuses_what_it_cannot_take(part: str, change: dict[str, Any], name: str) -> None:
    given = _given()
    given[part] = dataclasses.replace(given[part], **change)
    with pytest.raises(KernelArgumentError) as caught:
        gather_inputs(given["feed"], given["out"])
    assert caught.value.message == name


@pytest.mark.usefixtures("interpreter")
def test_refuses_draws_and_guesses_that_do_not_fit() -> None:
    feed, guessing = _given()["feed"], DraftTargets.allocate(2, torch.device("cpu"))
    drawn, one = torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    for call, name in [
        (lambda: accept_drafts(feed, drawn[:1], one, follow=True), "drawn"),
        (lambda: accept_drafts(feed, drawn, one[:1], follow=True), "accepted"),
        (
            lambda: accept_drafts(
                dataclasses.replace(feed, counts=feed.counts[:, :6]), drawn, one, follow=True
            ),
            "counts",
        ),
        (lambda: accept_drafts(feed, drawn, one, follow=True, guessing=guessing.first(1)), "rows"),
        (lambda: scatter_drafts(feed, drawn[:1], guessing), "guesses"),
    ]:
        with pytest.raises(KernelArgumentError) as caught:
            call()
        assert caught.value.message == name


def test_refuses_the_cpu_without_an_interpreter() -> None:
    with pytest.raises(KernelArgumentError, match="CUDA"):
        gather_inputs(**_given())


@pytest.mark.parametrize("count", [1, 10, 64])
def test_compiles_for_hopper_without_spills(count: int) -> None:
    feed = feed_of([0], 640, count, count, 9)
    guessing = DraftTargets.allocate(1, torch.device("cpu"))

    def launch() -> None:
        gather_inputs(feed, poisoned(1, count))
        drawn, accepted = torch.zeros(1, count, dtype=torch.int64), torch.ones(1).long()
        accept_drafts(feed, drawn, accepted, follow=True, guessing=guessing)
        scatter_drafts(feed, torch.zeros(1, 10, dtype=torch.int64), guessing)

    found = compile_launches(launch, module.__name__)
    assert len(found) == 3 and not any(kernel.spills for kernel in found)
