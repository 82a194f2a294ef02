"""The bookkeeping of a diagonal step against plain Python; idle sessions stay as they are."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.kernels.ahead_of_time import compile_launches
from worldbridge.kernels import wavefront as module
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.speculative import DraftBuffer
from worldbridge.kernels.wavefront import (
    WaveInputs,
    WaveTables,
    accept_wave,
    gather_wave,
    reference_accept_wave,
    reference_gather_wave,
)
from worldbridge.runtime.decoding.executors.cuda.wavefront import tables_of
from worldbridge.runtime.decoding.schedule import WavefrontSchedule

CPU = torch.device("cpu")


def tables(height: int, width: int, k: int, least: int = 1) -> WaveTables:
    return tables_of(WavefrontSchedule(height, width, k, least), CPU)


def feed_of(done: list[int], size: int) -> DraftBuffer:
    sessions = len(done)
    return DraftBuffer(
        torch.randint(100, (sessions, 3 + size)),
        torch.tensor(done),
        torch.randint(50, (sessions,)),
        torch.randint(10**12, (sessions,)),
        torch.randint(9, (sessions, 3)),
        size,
        1,
    )


def fed_tensors(fed: WaveInputs) -> list[Tensor]:
    return [fed.tokens, fed.slots, fed.positions, fed.seeds, fed.mask]


def poisoned(sessions: int, rows: int, ring: int) -> WaveInputs:
    fed = WaveInputs.allocate(sessions, rows, ring, CPU)
    for tensor in fed_tensors(fed)[:4]:
        tensor.fill_(-77)
    fed.mask.fill_(True)
    return fed


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("seed", range(6))
def test_matches_plain_python(seed: int) -> None:
    """Sessions at random steps, among them idle ones and wrong numbers; rings that end early."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    height, width = choose.randint(1, 4), choose.randint(1, 5)
    table = tables(height, width, choose.randint(1, 3), choose.choice([1, 1, 6]))
    size, steps = height * width, len(table.places)
    known = [0, steps - 1, steps, size + 7, -2, choose.randrange(steps)]
    feed, ring = feed_of(choose.choices(known, k=3), size), 49 + size + choose.choice([0, 3, 1024])
    seeds = torch.randint(-(2**62), 2**62, (3,))
    fed = poisoned(3, table.rows, ring)
    gather_wave(feed, table, seeds, fed)
    expected = reference_gather_wave(feed, table, seeds, ring)
    for mine, wanted in zip(fed_tensors(fed), fed_tensors(expected), strict=True):
        assert torch.equal(mine, wanted)
    drawn = torch.randint(100, (3, table.rows))
    after = reference_accept_wave(feed, table, drawn)
    accept_wave(feed, table, drawn)
    for name in ("line", "done", "counts"):
        assert torch.equal(getattr(feed, name), getattr(after, name)), name


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("height", "width", "k", "least"), [(3, 4, 1, 1), (3, 4, 2, 5), (2, 3, 3, 1)]
)
def test_a_step_sees_what_its_stair_says(height: int, width: int, k: int, least: int) -> None:
    """Masks come from the steps in which places are written; stairs have them as tables."""
    staircase = WavefrontSchedule(height, width, k, least)
    table, size, first = tables_of(staircase, CPU), height * width, 7
    feed = feed_of([0], size)
    feed.places.fill_(first)
    for step, stair in enumerate(staircase.stairs):
        feed.done.fill_(step)
        fed = poisoned(1, table.rows, first + size + 4)
        gather_wave(feed, table, torch.zeros(1, dtype=torch.int64), fed)
        used = stair.places < size
        assert torch.equal(fed.slots[0, used], first + stair.places[used])
        assert torch.equal(fed.tokens[0, used], feed.line[0, stair.sources[used]])
        assert (fed.positions[0] >= 0).sum() == len(stair.drawn)
        assert fed.mask[0, used, :first].all()
        assert torch.equal(fed.mask[0, used, first : first + stair.end], stair.mask[used])
        assert not fed.mask[0, :, first + stair.end :].any() and not fed.mask[0, ~used].any()
        assert (fed.slots[0, ~used] == -1).all()


@pytest.mark.usefixtures("interpreter")
def test_idle_sessions_stay_as_they_are_however_often_they_are_stepped() -> None:
    table = tables(2, 3, 1)
    feed = feed_of([4, 6, -1], 6)
    before = [t.clone() for t in (feed.line, feed.done, feed.counts)]
    fed = poisoned(3, 2, 60)
    for _ in range(3):
        gather_wave(feed, table, torch.ones(3, dtype=torch.int64), fed)
        assert (fed.slots == -1).all() and (fed.positions == -1).all()
        assert not fed.tokens.any() and not fed.mask.any()
        accept_wave(feed, table, torch.full((3, 2), 99))
    for mine, expected in zip((feed.line, feed.done, feed.counts), before, strict=True):
        assert torch.equal(mine, expected)


def _given() -> dict[str, Any]:
    return {
        "feed": feed_of([0, 1], 6),
        "tables": tables(2, 3, 1),
        "seeds": torch.zeros(2, dtype=torch.int64),
        "out": poisoned(2, 2, 60),
    }


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("part", "change", "name"),
    [
        ("feed", {"line": torch.zeros(2, 6, dtype=torch.int64)}, "line"),
        ("feed", {"done": torch.zeros(3, dtype=torch.int64)}, "done"),
        ("feed", {"places": torch.zeros(2)}, "places"),
        ("tables", {"written": torch.zeros(5, dtype=torch.int64)}, "tables.written"),
        ("tables", {"drawing": torch.zeros(9, dtype=torch.int64)}, "tables.drawing"),
        ("tables", {"sources": torch.zeros(4, 3, dtype=torch.int64)}, "tables.sources"),
        ("out", {"tokens": torch.zeros(2, 3, dtype=torch.int64)}, "out.tokens"),
        ("out", {"mask": torch.zeros(2, 2, 60)}, "mask"),
        ("out", {"mask": torch.zeros(2, 2, 120, dtype=torch.bool)[..., ::2]}, "mask"),
    ],
)
def test_what_does_not_fit_is_refused(part: str, change: dict[str, Tensor], name: str) -> None:
    given = _given()
    given[part] = dataclasses.replace(given[part], **change)
    with pytest.raises(KernelArgumentError) as caught:
        gather_wave(given["feed"], given["tables"], given["seeds"], given["out"])
    assert caught.value.message == name


@pytest.mark.usefixtures("interpreter")
def test_draws_that_do_not_fit_are_refused() -> None:
    given = _given()
    with pytest.raises(KernelArgumentError, match="drawn"):
        accept_wave(given["feed"], given["tables"], torch.zeros(2, 3, dtype=torch.int64))
    counts = dataclasses.replace(given["feed"], counts=torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(KernelArgumentError, match="counts"):
        accept_wave(counts, given["tables"], torch.zeros(2, 2, dtype=torch.int64))


def test_compiles_for_hopper_without_spills() -> None:
    table = tables(20, 32, 1)
    feed, fed = feed_of([0], 640), WaveInputs.allocate(1, 20, 3220, CPU)

    def launch() -> None:
        gather_wave(feed, table, torch.zeros(1, dtype=torch.int64), fed)
        accept_wave(feed, table, torch.zeros(1, 20, dtype=torch.int64))

    found = compile_launches(launch, module.__name__)
    assert [kernel.name for kernel in found] == ["gather_wave_kernel", "accept_wave_kernel"]
    assert not any(kernel.spills for kernel in found)
