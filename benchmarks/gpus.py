"""What is known of a GPU before anything is measured on it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch

from worldbridge.runtime.errors import NoDeviceError

__all__ = ["DATASHEET", "datasheet_bandwidth", "describe_gpu", "need_device", "percent"]

# Bytes per second of memory by NVIDIA's datasheets, under the names that the driver gives. A part
# of a GPU (MIG) has a name of its own, and none of these figures.
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


def datasheet_bandwidth(name: str) -> float | None:
    """Bytes per second, or None for a GPU that is not in the table."""
    return DATASHEET.get(name)


def describe_gpu(device: torch.device) -> dict[str, Any] | None:
    """Of a CUDA device; None for another one."""
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
    """A rate as a share of another, which may be unknown."""
    return None if of is None else round(100 * rate / of, 1)


def need_device(name: str) -> torch.device:
    """The device called `name`. Raises NoDeviceError when this machine has none."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise NoDeviceError(
            "this machine has no GPU that PyTorch can use",
            expected="an NVIDIA GPU, its driver, and a PyTorch built for CUDA",
            got=f"PyTorch {torch.__version__}, no CUDA device",
            remedy="measure with --device cpu, or install PyTorch for CUDA",
        )
    return device
