"""The machine that a result was measured on, and where results are kept."""

from __future__ import annotations

import json
import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "describe", "read_results", "write_result"]

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "aiortc", "av", "uvloop", "websockets", "pyzmq", "numpy")


def describe() -> dict[str, Any]:
    """Processor, cores, GPU, versions, date."""
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "packages": {name: version(name) for name in _PACKAGES},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def machine_name(environment: dict[str, Any]) -> str:
    """A folder name: the GPU, or the processor and its cores."""
    text = environment["gpu"] or f"{environment['processor']} {environment['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write `results/<machine>/<name>.json` with the environment beside the result."""
    environment = describe()
    folder = RESULTS / machine_name(environment)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"environment": environment, **result}, indent=1) + "\n")
    return path


def read_results(name: str) -> list[dict[str, Any]]:
    """That result of every machine."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"*/{name}.json"))]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
