"""What several decoders of one model share: weights that were packed for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["WeightStore"]

_Packed = TypeVar("_Packed")


class WeightStore:
    """Each thing is made once, and kept as long as both this and the module it was made of are.

    Packing reads all weights and writes gigabytes, which decoders that follow each other, as while
    the modes are measured, need not do again.
    """

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()

    def get(self, module: nn.Module, kind: str, make: Callable[[], _Packed]) -> _Packed:
        """What `make` gave, now or earlier, for this module and kind. It must not hold the module
        itself, only memory of it."""
        kinds = self._kept.setdefault(module, {})
        if kind not in kinds:
            kinds[kind] = make()
        packed: _Packed = kinds[kind]
        return packed
