"""How `--weight-dtype` of `worldbridge bench` are meant."""

from __future__ import annotations

from typing import cast

import torch

from worldbridge.runtime.decoding.options import WeightDtype

__all__ = ["precision_of"]


def precision_of(weights: str | None, own: torch.dtype | None) -> WeightDtype:
    """`weights` ("bf16", "fp8", "int8", None: the model's own type) of a model in the type `own`,
    None for a world without a transformer. Raises ValueError for bf16 of one in another type."""
    if weights in ("fp8", "int8"):
        return cast(WeightDtype, weights)
    if weights is not None and own != torch.bfloat16:
        got = "a world without weights" if own is None else f"one in {own}"
        raise ValueError(
            "expected --weight-dtype fp8 or int8, or bf16 for a model in bfloat16, got "
            f"{weights} for {got}; leave --weight-dtype out to read its own type"
        )
    return "model"
