"""The machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["describe"]

_PACKAGES = ("torch", "triton", "numpy", "aiortc", "av", "uvloop", "websockets", "pyzmq")
_NVIDIA = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")


def describe() -> dict[str, Any]:
    """Processor, cores, GPU with driver and clocks, versions, date."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **({"gpu_state": _gpu_state()} if torch.cuda.is_available() else {}),
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


def _gpu_state() -> dict[str, str]:
    """Driver, clocks and power limit, as nvidia-smi tells them; nothing where it is missing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_NVIDIA)}", "--format=csv,noheader", "-i", "0"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_NVIDIA, (part.strip() for part in told.stdout.split(",")), strict=False))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
