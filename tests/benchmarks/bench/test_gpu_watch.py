"""Clocks of a GPU, from an nvidia-smi that is a script."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from worldbridge.benchmarks import machine
from worldbridge.benchmarks.machine import GpuWatch, state_of, watching

GPU = torch.device("cuda:0")
UUID = "0f1c7d3e-9a52-4c1b-8a5f-3d0b6c2e7a11"
LINE = "570.86.15, 1980, {sm}, 3201, 612.50, 700.00, {busy}"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a nvidia-smi that says these lines in turn, the last one again and again."""
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=UUID)
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def says(*lines: str) -> Path:
        (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
        script = tmp_path / "nvidia-smi"
        script.write_text(
            f'#!/bin/sh\ncd {tmp_path}; echo "$@" >> asked\n'
            "head -n $(wc -l < asked) lines | tail -n 1\n"
        )
        script.chmod(0o755)
        return tmp_path / "asked"

    return says


def test_samples_of_a_gpu_at_work_count(smi: Callable[..., Path]) -> None:
    asked = smi(
        LINE.format(sm=345, busy=3),
        LINE.format(sm=1755, busy=98),
        LINE.format(sm=1755, busy=99),
        LINE.format(sm=1905, busy=100),
    )
    watch = GpuWatch(GPU, every_s=0.01)
    watch.begin()
    deadline = time.monotonic() + 30
    while len(asked.read_text().splitlines() if asked.exists() else []) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    watch.end()
    state = watch.state()
    assert state["driver"] == "570.86.15" and state["most_sm_clock_mhz"] == 1980
    assert state["at_work"] and state["samples"] == len(asked.read_text().splitlines()) - 1
    assert state["sm_clock_mhz"]["p10"] >= 1755 and state["sm_clock_mhz"]["p90"] == 1905
    assert state["memory_clock_mhz"]["p50"] == 3201 and state["power_limit_w"]["p50"] == 700


def test_it_is_asked_for_by_its_own_name(smi: Callable[..., Path]) -> None:
    """CUDA_VISIBLE_DEVICES gives GPUs other numbers than nvidia-smi does."""
    asked = smi(LINE.format(sm=345, busy=0))
    state = GpuWatch(GPU).now()
    assert f"-i GPU-{UUID}" in asked.read_text()
    assert state["sm_clock_mhz"]["p50"] == 345 and not state["at_work"]


def test_what_a_gpu_does_not_tell_is_unknown(smi: Callable[..., Path]) -> None:
    smi("570.86.15, 1980, 1755, 3201, [N/A], [N/A], [N/A]")
    state = GpuWatch(GPU).now()
    assert state["power_w"] is None and state["sm_clock_mhz"]["p50"] == 1755


@pytest.mark.parametrize("lines", [("No devices were found",), ("",)])
def test_nothing_is_known_where_nobody_answers(
    smi: Callable[..., Path], lines: tuple[str, ...]
) -> None:
    smi(*lines)
    with watching(GPU) as watch:
        pass
    assert watch.state() == {}


def test_nothing_is_known_without_nvidia_smi_or_without_a_gpu(
    smi: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert GpuWatch(GPU).state() == {}
    with watching(torch.device("cpu")) as watch:
        pass
    assert watch.state() == {}


def test_the_environment_tells_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    sample = dict(
        zip(
            (
                "driver_version",
                "clocks.max.sm",
                "clocks.sm",
                "clocks.mem",
                "power.draw",
                "power.limit",
                "utilization.gpu",
            ),
            ("1", "2", "3", "4", "5", "6", "100"),
            strict=True,
        )
    )
    watch = GpuWatch(torch.device("cpu"))
    watch._samples.append(sample)
    said = machine.describe(watch)
    assert said["gpu"] == "NVIDIA H200" and said["gpu_state"] == state_of([sample])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "gpu_state" not in machine.describe(watch)
