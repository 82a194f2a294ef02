"""The machine that a figure is measured on: processor, GPU, clocks, versions."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from worldbridge.benchmarks.timing import percentiles
from worldbridge.runtime.errors import NoDeviceError

__all__ = [
    "DATASHEET",
    "GpuWatch",
    "datasheet_bandwidth",
    "describe",
    "describe_gpu",
    "need_device",
    "percent",
    "watching",
]

_PACKAGES = ("torch", "triton", "numpy", "aiortc", "av", "uvloop", "websockets", "pyzmq")
_EVERY_S = 2.0  # a query takes a tenth of a second of one core, and nothing of the GPU
_BUSY = 50.0  # percent; while code compiles or loads, the clocks say nothing
_FIXED = {"driver_version": "driver", "clocks.max.sm": "most_sm_clock_mhz"}
_MOVING = {
    "clocks.sm": "sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
}
_FIELDS = (*_FIXED, *_MOVING, "utilization.gpu")
_Sample = dict[str, str]
# Memory bandwidth in bytes per second by NVIDIA's datasheets, under the driver's names. A part of a
# GPU (MIG) has its own name and none of these figures.
DATASHEET = MappingProxyType(
    {
        "NVIDIA A10": 600e9,
        "NVIDIA A10G": 600e9,
        "NVIDIA A100-PCIE-40GB": 1555e9,
        "NVIDIA A100-SXM4-40GB": 1555e9,
        "NVIDIA A100 80GB PCIe": 1935e9,
        "NVIDIA A100-SXM4-80GB": 2039e9,
        "NVIDIA B200": 8000e9,
        "NVIDIA GeForce RTX 3090": 936e9,
        "NVIDIA GeForce RTX 4090": 1008e9,
        "NVIDIA GeForce RTX 5090": 1792e9,
        "NVIDIA H100 80GB HBM3": 3350e9,
        "NVIDIA H100 NVL": 3900e9,
        "NVIDIA H100 PCIe": 2000e9,
        "NVIDIA H200": 4800e9,
        "NVIDIA H200 NVL": 4800e9,
        "NVIDIA L4": 300e9,
        "NVIDIA L40": 864e9,
        "NVIDIA L40S": 864e9,
        "Tesla T4": 320e9,
        "Tesla V100-SXM2-16GB": 900e9,
        "Tesla V100-SXM2-32GB": 900e9,
    }
)


def describe(watch: GpuWatch | None = None) -> dict[str, Any]:
    """Return processor, cores, GPU with driver and clocks, versions and date.

    The clocks are those that `watch` saw during the measurement. Without it they are the current
    ones, which say little about an idle GPU.
    """
    gpu = torch.cuda.is_available()
    if gpu and watch is None:
        watch = GpuWatch(torch.device("cuda", torch.cuda.current_device()))
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        **({"gpu_state": watch.state()} if gpu and watch is not None else {}),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "packages": {name: v for name in _PACKAGES if (v := _version(name)) is not None},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# --- GPUs ----------------------------------------------------------------------------------------


def datasheet_bandwidth(name: str) -> float | None:
    """Return bytes per second, or None for a GPU that is not in the table."""
    return DATASHEET.get(name)


def describe_gpu(device: torch.device) -> dict[str, Any] | None:
    """Return the properties of a CUDA device, or None for another device."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    peak = datasheet_bandwidth(properties.name)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_cache_mib": round(properties.L2_cache_size / 2**20, 1),
        "datasheet_bandwidth_gb_s": None if peak is None else peak / 1e9,
        "cuda": torch.version.cuda,
    }


def percent(rate: float, of: float | None) -> float | None:
    """Return a rate as a percentage of another rate, which may be unknown."""
    return None if of is None else round(100 * rate / of, 1)


def need_device(name: str) -> torch.device:
    """Return the device called `name`. Raises NoDeviceError if this machine has none."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise NoDeviceError(
            "this machine has no GPU that PyTorch can use",
            expected="an NVIDIA GPU, its driver, and a PyTorch built for CUDA",
            got=f"PyTorch {torch.__version__}, no CUDA device",
            remedy="measure with --device cpu, or install PyTorch for CUDA",
        )
    return device


class GpuWatch:
    """Sample a GPU's clocks and power with nvidia-smi, on a thread, between `begin` and `end`.

    Samples nothing for a device that is not a GPU, and where nvidia-smi is missing or silent.
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
        """Return the current state."""
        sample = None if self._uuid is None else _query(self._uuid)
        return {} if sample is None else state_of([sample])

    def state(self) -> dict[str, Any]:
        """Return the state over all samples, or the current one without any; see `state_of`."""
        return state_of(self._samples) if self._samples else self.now()

    def _ask(self) -> None:
        assert self._uuid is not None
        while not self._ended.wait(self._every_s):
            sample = _query(self._uuid)
            if sample is None:
                return  # it will not answer the next time either
            self._samples.append(sample)


@contextmanager
def watching(device: torch.device) -> Iterator[GpuWatch]:
    """Yield a watch that runs as long as the block."""
    watch = GpuWatch(device)
    watch.begin()
    try:
        yield watch
    finally:
        watch.end()


def state_of(samples: Sequence[_Sample]) -> dict[str, Any]:
    """Return driver, limits, and p10, p50 and p90 of clocks and power, of at least one sample.

    Uses only samples of a busy GPU if there are any; `samples` is their number.
    """
    busy = [s for s in samples if (_number(s["utilization.gpu"]) or 0.0) >= _BUSY]
    used = busy or samples
    state: dict[str, Any] = {"samples": len(used), "at_work": bool(busy)}
    for field, name in _FIXED.items():
        state[name] = _number(used[-1][field]) if name.endswith("_mhz") else used[-1][field]
    for field, name in _MOVING.items():
        numbers = [n for s in used if (n := _number(s[field])) is not None]
        state[name] = percentiles(numbers) if numbers else None
    return state


def _number(text: str) -> float | None:
    """Return a number, or None for what a GPU does not report, such as '[N/A]'."""
    try:
        return float(text)
    except ValueError:
        return None


def _uuid(device: torch.device) -> str:
    """Return nvidia-smi's name of a GPU, whose numbers differ from CUDA_VISIBLE_DEVICES'."""
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
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    parts = [part.strip() for part in done.stdout.strip().split(",")]
    return dict(zip(_FIELDS, parts, strict=True)) if len(parts) == len(_FIELDS) else None
