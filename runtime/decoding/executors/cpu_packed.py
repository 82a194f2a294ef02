"""Matrix products for a few rows on a CPU.

A decode step multiplies a handful of rows by every weight of the model, so it is bound by reading
the weights. Where the CPU has the instructions (x86 with AVX2), weights are packed once as float16
and multiplied in float32: half the bytes, and no packing per call (192 -> 1152 with 8 rows: 72 us
against 260 us for float32 `linear`, one thread of an AMD EPYC).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PackedLinear", "independent_counts"]


class PackedLinear(nn.Module):
    """x [rows, in] -> x @ weight.T [rows, out]; the fastest way that this machine has."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().contiguous())
        self.packed: torch.ScriptObject | None = None
        if weight.device.type == "cpu" and _has_float16_products():
            self.packed = torch.ops.quantized.linear_prepack_fp16(self.weight, None)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight)
        result: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return result


def _has_float16_products() -> bool:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX")


@torch.inference_mode()
def independent_counts(layers: list[PackedLinear], most: int) -> list[int]:
    """Row counts for which no row's result depends on how many rows there are, ascending.

    Kernels for odd remainders sum in another order. By padding to one of these counts, a player's
    world never depends on who else is playing, nor on the way of decoding. Empty when there is no
    such set on this machine; then sessions have to be decoded one by one.
    """
    generator = torch.Generator().manual_seed(0)
    good = set(range(1, most + 1))
    for layer in layers:
        x = torch.randn(most + 8, layer.weight.shape[1], generator=generator)
        x = x.to(layer.weight)
        whole = layer(x)
        good = {n for n in good if torch.equal(layer(x[:n].contiguous()), whole[:n])}
    return sorted(good)
