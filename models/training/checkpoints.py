"""Checkpoints of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

__all__ = ["save_checkpoint"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint as a whole: a run that is killed while saving keeps the old one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(path)
