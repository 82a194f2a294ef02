"""The estimate of a frame's depth: its shape, its edges and its training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from worldbridge.models.guided.checkpoint import GUIDED_WORLD, load_guided_world, save_guided_world
from worldbridge.models.guided.config import floor_nearness
from worldbridge.models.guided.depth import DepthNet
from worldbridge.models.procedural.actions import FOV_Y_DEG
from worldbridge.models.training.guided.train_depth import DepthRecipe, train_depth
from worldbridge.models.training.guided.train_tokenizer import FramePool

FLOOR = floor_nearness(torch.zeros(1), 64, 96, FOV_Y_DEG)


def pool(folder: Path, name: str, count: int = 6) -> FramePool:
    """Return frames of a wall with a door whose distance tells its color."""
    rgb, near = (
        np.full((count, 3, 64, 96), 200, np.uint8),
        np.full((count, 64, 96), 0.1, np.float16),
    )
    for i in range(count):
        rgb[i, :, 10:50, 20 + i : 40 + i] = 30
        near[i, 10:50, 20 + i : 40 + i] = 0.5
    np.save(folder / f"{name}_rgb.npy", rgb)
    np.save(folder / f"{name}_near.npy", near)
    np.save(folder / f"{name}_pitch.npy", np.zeros(count, np.float32))
    return FramePool(folder / name)


def test_nearness_is_that_of_the_scale_and_edges_of_depth_lie_on_edges_of_the_frame() -> None:
    torch.manual_seed(0)
    net = DepthNet(64, 96).eval()
    with (
        torch.no_grad()
    ):  # two surfaces in every cell, a dark and near one and a bright and far one
        net.paint.weight.zero_()
        net.cut.weight.zero_()
        bias = torch.zeros(4, 6)
        bias[0, :4], bias[1, :4] = (
            torch.tensor([-1.0, -1, -1, 0.3]),
            torch.tensor([1.0, 1, 1, -0.3]),
        )
        bias[2:, :3] = 5.0
        net.paint.bias.copy_(bias.flatten())
        net.cut.bias.zero_()
        color = torch.ones(1, 3, 64, 96)
        color[..., 13:29, 37:59] = -1.0
        nearness = net(color, FLOOR)
    assert nearness.shape == (1, 64, 96)
    near = nearness > nearness.mean()
    assert torch.equal(near, color[:, 0] < 0)


def test_a_world_that_gets_other_weights_keeps_how_its_codes_are_drawn(tmp_path: Path) -> None:
    bundled = load_guided_world(GUIDED_WORLD)
    given = {"sampling": {"temperature": 0.5, "top_p": 1.0, "top_k": 8}, "training": {"steps": 7}}
    save_guided_world(tmp_path / "a", bundled.tokenizer, bundled.transformer, given)
    first = load_guided_world(tmp_path / "a")
    assert first.depth is None and first.settings == given
    parts = first.tokenizer, first.transformer
    save_guided_world(tmp_path / "b", *parts, first.settings, bundled.depth)
    second = load_guided_world(tmp_path / "b")
    assert second.settings == given and second.depth is not None


def test_training_lowers_the_error_and_continues(tmp_path: Path) -> None:
    recipe = DepthRecipe(steps=30, batch=2, rate=3e-3, warmup=5, sheet_every=15, save_every=10)
    known, held_out = pool(tmp_path, "pool"), pool(tmp_path, "held")
    whole = train_depth(known, held_out, recipe, tmp_path / "run", log_every=10)
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.95 * losses[0]  # means of all steps so far
    assert any("depth_within_10_percent" in line for line in lines)
    assert (tmp_path / "run" / "sheet-000030.png").exists()
    again = train_depth(known, held_out, recipe, tmp_path / "run")  # is finished
    pairs = zip(whole.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
