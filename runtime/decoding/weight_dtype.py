"""With how many bytes the weights of a world are read, and which worlds have a choice."""

from __future__ import annotations

from typing import Any

from worldbridge.runtime.config import WEIGHT_DTYPES, WeightDtype
from worldbridge.runtime.errors import WeightDtypeError

__all__ = ["WEIGHT_DTYPES", "WeightDtype", "check_weight_dtype"]


def check_weight_dtype(precision: str, manifest: dict[str, Any] | None, device: str) -> None:
    """Tells before weights are read whether a world can be served so. Raises WeightsError.

    manifest: the world's world.json; None for a world that draws no tokens.
    """
    if precision not in WEIGHT_DTYPES:
        raise WeightDtypeError(
            "there are no such weights",
            expected="one of " + ", ".join(WEIGHT_DTYPES),
            got=repr(precision),
            remedy="choose one of these, or leave --weights out",
        )
    if precision == "model":
        return
    if manifest is None:
        raise _impossible(precision, "a world that draws tokens", "one that is rendered")
    if manifest["transformer"].get("grid") is not None:
        raise _impossible(precision, "a converted Cosmos world", "one with a token grid")
    if device != "cuda":
        raise WeightDtypeError.no_kernels(precision, f"the device {device}")


def _impossible(precision: str, expected: str, got: str) -> WeightDtypeError:
    return WeightDtypeError(
        f"this world has no {precision} weights",
        expected=expected,
        got=got,
        remedy="leave --weights out",
    )
