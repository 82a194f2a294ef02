"""Map the controller's axes, camera pitch and theme to what a model is conditioned on.

The published recipe has one action vector per latent: 7 numbers for a robot's arm, 8 elsewhere.
Ours are axes in [-1, 1], `ACTION_NAMES`. A world's `world.json` may say, under `actions`, what each
number of its vector is: the name of an axis, `[name, factor]`, or null for 0. By default the axes
come first, in their order, and zeros follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldbridge.models.procedural.actions import ACTION_NAMES, PITCH_LIMIT_DEG, TRAINED_ACTIONS
from worldbridge.models.procedural.scene import THEMES

__all__ = ["CONDITION_DIM", "ActionLayout", "condition_vector"]

CONDITION_DIM = len(TRAINED_ACTIONS) + 1 + len(THEMES)


@dataclass(frozen=True, slots=True, eq=False)
class ActionLayout:
    """Weights `factors` [axes, size] from the axes to the numbers of an action vector."""

    factors: Tensor

    @classmethod
    def read(cls, entries: Any, size: int) -> ActionLayout:
        """Read the layout of a world.json, None if it has none. Raises ValueError."""
        if entries is None:
            known = len(ACTION_NAMES)
            entries = [*ACTION_NAMES, *[None] * max(0, size - known)][:size]
        if not isinstance(entries, list | tuple) or len(entries) != size:
            got = len(entries) if isinstance(entries, list | tuple) else repr(entries)
            raise ValueError(f"actions: expected {size} entries, as condition_dim says, got {got}")
        factors = torch.zeros(len(ACTION_NAMES), size)
        for place, entry in enumerate(entries):
            if entry is not None:
                axis, factor = _entry(entry)
                factors[axis, place] = factor
        return cls(factors)

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes that affect the model."""
        used = self.factors.any(-1).tolist()
        return tuple(name for name, use in zip(ACTION_NAMES, used, strict=True) if use)

    def vectors(self, actions: Tensor) -> Tensor:
        """Convert actions [..., axes] to vectors [..., size]."""
        return actions.to(self.factors) @ self.factors


def _entry(entry: Any) -> tuple[int, float]:
    """Return an axis and its factor. Raises ValueError."""
    name, factor = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (entry, 1.0)
    numeric = isinstance(factor, int | float) and not isinstance(factor, bool)
    if name not in ACTION_NAMES or not numeric or not math.isfinite(factor) or factor == 0:
        raise ValueError(
            f"actions: expected null, one of {ACTION_NAMES}, or such a name with a factor "
            f"([name, number]), got {entry!r}"
        )
    return ACTION_NAMES.index(name), float(factor)


def condition_vector(actions: Tensor, pitch: Tensor, theme: str) -> Tensor:
    """Join actions [..., axes] in [-1, 1], pitch [...] in radians and the theme.

    Returns [..., CONDITION_DIM], with those axes that the bundled world was trained with.

    The absolute pitch is included because the place of the horizon depends on it, and the theme
    so that a minute of play does not drift from one theme to another.
    """
    themes = torch.zeros(*actions.shape[:-1], len(THEMES))
    themes[..., THEMES.index(theme)] = 1.0
    gaze = (pitch / math.radians(PITCH_LIMIT_DEG))[..., None]
    return torch.cat([actions[..., : len(TRAINED_ACTIONS)].float(), gaze.float(), themes], dim=-1)
