"""The bookkeeping of a diagonal step against plain Python; idle sessions stay as they are."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.compile_kernels import compile_launches
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
from worldbridge.runtime.decoding.executors.cuda.step import tables_of
from worldbridge.runtime.decoding.schedule import WavefrontSchedule

CPU = torch.device("cpu")


def tables(height: int, width: int, k: int, least: int = 1) -> WaveTables:
    return tables_of(WavefrontSchedule(height, width, k, least), CPU)


def buffer_of(done: list[int], size: int) -> DraftBuffer:
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


def input_tensors(inputs: WaveInputs) -> list[Tensor]:
    return [inputs.tokens, inputs.entries, inputs.positions, inputs.seeds, inputs.mask]


def poisoned(sessions: int, rows: int, ring: int) -> WaveInputs:
    inputs = WaveInputs.allocate(sessions, rows, ring, CPU)
    for tensor in input_tensors(inputs)[:4]:
        tensor.fill_(-77)
    inputs.mask.fill_(True)
    return inputs


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("seed", range(6))
def test_matches_plain_python(seed: int) -> None:
    """Sessions at random steps, among them idle ones and wrong numbers; rings that end early."""
    choose = random.Random(seed)
    torch.manual_seed(seed)
    height, width = choose.randint(1, 4), choose.randint(1, 5)
    table = tables(height, width, choose.randint(1, 3), choose.choice([1, 1, 6]))
    size, steps = height * width, len(table.offsets)
    known = [0, steps - 1, steps, size + 7, -2, choose.randrange(steps)]
    buffer, ring = (
        buffer_of(choose.choices(known, k=3), size),
        49 + size + choose.choice([0, 3, 1024]),
    )
    seeds = torch.randint(-(2**62), 2**62, (3,))
    inputs = poisoned(3, table.rows, ring)
    gather_wave(buffer, table, seeds, inputs)
    expected = reference_gather_wave(buffer, table, seeds, ring)
    for mine, wanted in zip(input_tensors(inputs), input_tensors(expected), strict=True):
        assert torch.equal(mine, wanted)
    sampled = torch.randint(100, (3, table.rows))
    after = reference_accept_wave(buffer, table, sampled)
    accept_wave(buffer, table, sampled)
    for name in ("tokens", "num_accepted", "counts"):
        assert torch.equal(getattr(buffer, name), getattr(after, name)), name


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("height", "width", "k", "least"), [(3, 4, 1, 1), (3, 4, 2, 5), (2, 3, 3, 1)]
)
def test_a_step_sees_what_its_wave_says(height: int, width: int, k: int, least: int) -> None:
    """Masks come from the steps in which offsets are written; waves have them as tables."""
    schedule = WavefrontSchedule(height, width, k, least)
    table, size, first = tables_of(schedule, CPU), height * width, 7
    buffer = buffer_of([0], size)
    buffer.first_entries.fill_(first)
    for step, wave in enumerate(schedule.waves):
        buffer.num_accepted.fill_(step)
        inputs = poisoned(1, table.rows, first + size + 4)
        gather_wave(buffer, table, torch.zeros(1, dtype=torch.int64), inputs)
        used = wave.offsets < size
        assert torch.equal(inputs.entries[0, used], first + wave.offsets[used])
        assert torch.equal(inputs.tokens[0, used], buffer.tokens[0, wave.sources[used]])
        assert (inputs.positions[0] >= 0).sum() == len(wave.sampled)
        assert inputs.mask[0, used, :first].all()
        assert torch.equal(inputs.mask[0, used, first : first + wave.end], wave.mask[used])
        assert not inputs.mask[0, :, first + wave.end :].any() and not inputs.mask[0, ~used].any()
        assert (inputs.entries[0, ~used] == -1).all()


@pytest.mark.usefixtures("interpreter")
def test_idle_sessions_stay_as_they_are_however_often_they_are_stepped() -> None:
    table = tables(2, 3, 1)
    buffer = buffer_of([4, 6, -1], 6)
    before = [t.clone() for t in (buffer.tokens, buffer.num_accepted, buffer.counts)]
    inputs = poisoned(3, 2, 60)
    for _ in range(3):
        gather_wave(buffer, table, torch.ones(3, dtype=torch.int64), inputs)
        assert (inputs.entries == -1).all() and (inputs.positions == -1).all()
        assert not inputs.tokens.any() and not inputs.mask.any()
        accept_wave(buffer, table, torch.full((3, 2), 99))
    for mine, expected in zip(
        (buffer.tokens, buffer.num_accepted, buffer.counts), before, strict=True
    ):
        assert torch.equal(mine, expected)


def _given() -> dict[str, Any]:
    return {
        "buffer": buffer_of([0, 1], 6),
        "tables": tables(2, 3, 1),
        "seeds": torch.zeros(2, dtype=torch.int64),
        "out": poisoned(2, 2, 60),
    }


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("part", "change", "name"),
    [
        ("buffer", {"tokens": torch.zeros(2, 6, dtype=torch.int64)}, "buffer.tokens"),
        ("buffer", {"num_accepted": torch.zeros(3, dtype=torch.int64)}, "num_accepted"),
        ("buffer", {"first_entries": torch.zeros(2)}, "first_entries"),
        ("tables", {"written": torch.zeros(5, dtype=torch.int64)}, "tables.written"),
        ("tables", {"num_sampled": torch.zeros(9, dtype=torch.int64)}, "tables.num_sampled"),
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
        gather_wave(given["buffer"], given["tables"], given["seeds"], given["out"])
    assert caught.value.message == name


@pytest.mark.usefixtures("interpreter")
def test_draws_that_do_not_fit_are_refused() -> None:
    given = _given()
    with pytest.raises(KernelArgumentError, match="sampled"):
        accept_wave(given["buffer"], given["tables"], torch.zeros(2, 3, dtype=torch.int64))
    counts = dataclasses.replace(given["buffer"], counts=torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(KernelArgumentError, match="counts"):
        accept_wave(counts, given["tables"], torch.zeros(2, 2, dtype=torch.int64))


def test_compiles_for_hopper_without_spills() -> None:
    table = tables(20, 32, 1)
    buffer, inputs = buffer_of([0], 640), WaveInputs.allocate(1, 20, 3220, CPU)

    def launch() -> None:
        gather_wave(buffer, table, torch.zeros(1, dtype=torch.int64), inputs)
        accept_wave(buffer, table, torch.zeros(1, 20, dtype=torch.int64))

    found = compile_launches(launch, module.__name__)
    assert [kernel.name for kernel in found] == ["gather_wave_kernel", "accept_wave_kernel"]
    assert not any(kernel.spills for kernel in found)
