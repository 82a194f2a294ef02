"""What a world is told about each latent: the action that leads to it, the gaze, the theme."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldbridge.models.procedural.actions import PITCH_LIMIT_DEG
from worldbridge.models.procedural.scene import THEMES

__all__ = ["CONDITION_DIM", "condition_vector"]

CONDITION_DIM = 4 + 1 + len(THEMES)


def condition_vector(actions: Tensor, pitch: Tensor, theme: str) -> Tensor:
    """actions [..., 4] in [-1, 1] and pitch [...] in radians -> [..., 10].

    The absolute pitch stands beside its change because the horizon's place depends on it, and
    the theme because sixty seconds of free play must not drift from one theme to another.
    """
    themes = torch.zeros(*actions.shape[:-1], len(THEMES))
    themes[..., THEMES.index(theme)] = 1.0
    gaze = (pitch / math.radians(PITCH_LIMIT_DEG))[..., None]
    return torch.cat([actions.float(), gaze.float(), themes], dim=-1)
