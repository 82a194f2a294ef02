"""One kernel at one shape: its operands, its baselines and the bytes it moves.

The same cases are timed at the shapes of the 4B model and checked at small ones, so that only
checked kernels are timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from worldbridge.models.transformer.config import cosmos_4b_320p

__all__ = [
    "CHECKED",
    "PUBLISHED",
    "Case",
    "Maker",
    "Operands",
    "Sizes",
    "differing",
    "error_floor",
    "relative_error",
    "type_name",
]

NORM_EPS: Final = 1e-5


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest value."""
    worst = (found.double() - expected).abs().max()
    return float(worst / expected.abs().max())


@dataclass(frozen=True, slots=True)
class Operands:
    """One set of inputs that can be launched on repeatedly.

    The first of `baselines` computes what the kernel computes. `ours_left` and `torch_left` name
    further tensors that a launch writes; `reference` then returns all of them, flat, in this order.
    """

    ours: Callable[[], Tensor]
    baselines: Mapping[str, Callable[[], Tensor]]
    reference: Callable[[], Tensor]  # in float64
    ours_left: Sequence[Tensor] = ()
    torch_left: Sequence[Tensor] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one shape. `make` returns fresh operands in other memory."""

    kernel: str
    what: str
    shape: dict[str, int]
    weights: str  # type of most of what is read
    activations: str  # type of the rest, and of what is written
    bytes_moved: int
    formula: str
    make: Callable[[], Operands]
    # A check allows an error of `of_torch` times torch's, in the same types, and always `floor`.
    floor: float
    of_torch: float = 2.0
    error: Callable[[Tensor, Tensor], float] = relative_error
    measure: str = "largest difference / largest value"  # what `error` means

    def limit(self, torch_error: float) -> float:
        """Return the largest allowed `error` beside torch's."""
        return max(self.of_torch * torch_error, self.floor)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Shapes of a model and of the calls that decoding makes."""

    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    medusa: int  # heads
    rows: tuple[int, ...]
    medusa_rows: tuple[int, ...]
    contexts: tuple[int, ...]
    tokens: tuple[int, ...]  # per session of a forward
    batches: tuple[int, ...]
    patches: tuple[int, int, int]  # latent frames, rows, columns of Haar patches
    codes: tuple[int, int]  # rows and columns of a latent


_4B = cosmos_4b_320p()
PUBLISHED = Sizes(
    dim=_4B.dim,
    heads=_4B.n_heads,
    kv_heads=_4B.n_kv_heads,
    head_dim=_4B.head_dim,
    ffn=_4B.ffn_hidden_size,
    vocabulary=_4B.vocab_size,
    medusa=9,
    rows=(1, 10, 64, 128),
    medusa_rows=(1, 10),
    contexts=(3200, 12800),
    tokens=(1, 10, 64),
    batches=(1, 8),
    patches=(2, 80, 128),
    codes=(20, 32),
)
# Odd sizes, tiles that several programs share, more than one split of the context.
CHECKED = Sizes(
    dim=96,
    heads=8,
    kv_heads=2,
    head_dim=32,
    ffn=1100,
    vocabulary=700,
    medusa=3,
    rows=(1, 10),
    medusa_rows=(2,),
    contexts=(300,),
    tokens=(1, 5),
    batches=(2,),
    patches=(2, 6, 10),
    codes=(5, 7),
)


class Maker:
    """Make reproducible random tensors on a device."""

    def __init__(self, device: torch.device, seed: int = 7) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
        values = torch.empty(shape, dtype=dtype, device=self.device)
        return values.normal_(0, scale, generator=self._generator)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return int64 values below `high`."""
        return torch.randint(high, shape, generator=self._generator, device=self.device)


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a type on command lines and in tables."""
    names = {torch.bfloat16: "bf16", torch.float8_e4m3fn: "fp8"}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def differing(found: Tensor, expected: Tensor) -> float:
    """Return the share of entries that are not equal."""
    return float((found != expected).double().mean())


def error_floor(dtype: torch.dtype) -> float:
    """Return the error of rounding the largest value to `dtype` once; more for float32 sums.

    A smaller error of torch's is luck.
    """
    return torch.finfo(dtype).eps / 2 if dtype != torch.float32 else 1e-6
