"""How a GPU turns a converted world's latents into pictures, and which worlds have a choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldbridge.runtime.errors import DetokenizerError

__all__ = ["COMPILED", "EAGER", "check_detokenizer"]

EAGER = "eager"  # PyTorch, operation by operation
COMPILED = "compiled"  # torch.compile; anything else is a folder of `worldbridge export tensorrt`


def check_detokenizer(pixels: str, manifest: dict[str, Any] | None, device: str) -> None:
    """Tells before weights are read whether a world's pictures can be made so. Raises PixelsError.

    manifest: the world's world.json; None for a world that draws no tokens.
    """
    if pixels == EAGER:
        return
    if pixels != COMPILED and not (Path(pixels) / "export.json").is_file():
        raise DetokenizerError(
            "there is no such way to make pictures",
            expected=f"{EAGER}, {COMPILED}, or a folder made by `worldbridge export tensorrt`",
            got=repr(pixels),
            remedy="choose one of these, or leave --pixels out",
        )
    if manifest is None or manifest["transformer"].get("grid") is not None:
        raise DetokenizerError(
            "this world makes its pictures in one way only",
            expected="a converted Cosmos world",
            got="one that is rendered" if manifest is None else "one with a token grid",
            remedy="leave --pixels out",
        )
    if device != "cuda":
        raise DetokenizerError(
            "a CPU makes pictures in one way only",
            expected="--device cuda",
            got=f"the device {device}",
            remedy="add --device cuda, or leave --pixels out",
        )
