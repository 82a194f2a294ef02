"""Where the axes of a controller stand in an action vector of any size."""

from __future__ import annotations

import math

import pytest
import torch

from worldbridge.models.conditioning.actions import ActionLayout

ACTION = torch.tensor([[0.1, -0.2, 0.3, -0.4]])


@pytest.mark.parametrize("size", [1, 2, 4, 7, 8, 20])
def test_without_a_layout_the_axes_come_first(size: int) -> None:
    layout = ActionLayout.read(None, size)
    known = min(size, 4)
    vector = layout.vectors(ACTION)
    assert vector.shape == (1, size)
    torch.testing.assert_close(vector[:, :known], ACTION[:, :known])
    assert not vector[:, known:].any()
    assert layout.axes == ("strafe", "forward", "yaw", "pitch")[:known]


def test_a_layout_places_and_scales_them() -> None:
    """A vector of metres and radians per latent, as robots have it."""
    entries = ["strafe", None, ["forward", -1.28], None, ["yaw", 0.7], ["yaw", 2], None]
    layout = ActionLayout.read(entries, 7)
    expected = torch.tensor([[0.1, 0, 0.256, 0, 0.21, 0.6, 0]])
    torch.testing.assert_close(layout.vectors(ACTION), expected)
    assert layout.axes == ("strafe", "forward", "yaw")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["yaw"], "expected 2 entries, as condition_dim says, got 1"),
        ("yaw", "got 'yaw'"),
        (["yaw", "jump"], "got 'jump'"),
        (["yaw", ["yaw"]], r"got \['yaw'\]"),
        (["yaw", ["yaw", "2"]], "got"),
        (["yaw", ["yaw", math.nan]], "nan"),
        (["yaw", ["yaw", True]], "True"),
        (["yaw", ["yaw", 0]], "0"),
        (["yaw", {"yaw": 1}], "got {'yaw': 1}"),
    ],
)
def test_what_is_no_layout_is_refused(entries: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionLayout.read(entries, 2)
