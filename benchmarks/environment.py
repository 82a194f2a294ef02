"""The machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from worldbridge.benchmarks.gpu_watch import GpuWatch

__all__ = ["describe"]

_PACKAGES = ("torch", "triton", "numpy", "aiortc", "av", "uvloop", "websockets", "pyzmq")


def describe(watch: GpuWatch | None = None) -> dict[str, Any]:
    """Processor, cores, GPU with driver and clocks, versions, date.

    The clocks are those that `watch` saw while something was measured; without it, those of now,
    which say little of a GPU that has nothing to do.
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
