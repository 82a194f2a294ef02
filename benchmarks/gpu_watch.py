"""The GPU's clocks and power while something is measured on it, as nvidia-smi tells them."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from worldbridge.benchmarks.timing import percentiles

__all__ = ["GpuWatch", "watching"]

_EVERY_S = 2.0  # a query takes a tenth of a second of one core, and nothing of the GPU
_BUSY = 50.0  # percent; what is compiled or loaded meanwhile says nothing of the clocks
_FIXED = {"driver_version": "driver", "clocks.max.sm": "most_sm_clock_mhz"}
_MOVING = {
    "clocks.sm": "sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
}
_FIELDS = (*_FIXED, *_MOVING, "utilization.gpu")
_Sample = dict[str, str]


class GpuWatch:
    """Asks every two seconds, on a thread of its own, between `begin` and `end`.

    Of the GPU that `device` is for this process, whatever number it has for others. Of a device
    that is no GPU, and where nvidia-smi is missing or does not answer, it knows nothing.
    """

    def __init__(self, device: torch.device, every_s: float = _EVERY_S) -> None:
        self._uuid = _uuid(device) if device.type == "cuda" else None
        self._every_s = every_s
        self._samples: list[_Sample] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        if self._uuid is not None:
            self._thread = threading.Thread(target=self._ask, name="gpu-watch", daemon=True)
            self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def now(self) -> dict[str, Any]:
        """A state of this moment alone."""
        sample = None if self._uuid is None else _query(self._uuid)
        return {} if sample is None else state_of([sample])

    def state(self) -> dict[str, Any]:
        """Of all samples so far; of this moment if there is none; see `state_of`."""
        return state_of(self._samples) if self._samples else self.now()

    def _ask(self) -> None:
        assert self._uuid is not None
        while not self._ended.wait(self._every_s):
            sample = _query(self._uuid)
            if sample is None:
                return  # nor will it answer the next time
            self._samples.append(sample)


@contextmanager
def watching(device: torch.device) -> Iterator[GpuWatch]:
    """A watch that runs as long as the block does."""
    watch = GpuWatch(device)
    watch.begin()
    try:
        yield watch
    finally:
        watch.end()


def state_of(samples: Sequence[_Sample]) -> dict[str, Any]:
    """Driver and limits, and p10, p50 and p90 of clocks and power, of at least one sample.

    Only of samples of a GPU that was at work, where there are some: `samples` says how many.
    """
    busy = [s for s in samples if (_number(s["utilization.gpu"]) or 0.0) >= _BUSY]
    used = busy or samples
    state: dict[str, Any] = {"samples": len(used), "at_work": bool(busy)}
    for field, name in _FIXED.items():
        told = _number(used[-1][field]) if name.endswith("_mhz") else used[-1][field]
        state[name] = told
    for field, name in _MOVING.items():
        numbers = [n for s in used if (n := _number(s[field])) is not None]
        state[name] = percentiles(numbers) if numbers else None
    return state


def _number(text: str) -> float | None:
    """None for what a GPU does not tell, such as '[N/A]'."""
    try:
        return float(text)
    except ValueError:
        return None


def _uuid(device: torch.device) -> str:
    """As nvidia-smi knows it: the numbers of CUDA_VISIBLE_DEVICES are not its own."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _query(uuid: str) -> _Sample | None:
    command = [
        "nvidia-smi",
        f"--query-gpu={','.join(_FIELDS)}",
        "--format=csv,noheader,nounits",
        "-i",
        uuid,
    ]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    parts = [part.strip() for part in told.stdout.strip().split(",")]
    return dict(zip(_FIELDS, parts, strict=True)) if len(parts) == len(_FIELDS) else None
