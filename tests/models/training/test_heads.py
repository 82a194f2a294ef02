"""Training of Medusa heads: what learns, what stays, and going on later."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.transformer.test_grid import TINY, tiny
from worldbridge.models.training.recipe import Recipe
from worldbridge.models.training.train_heads import (
    HeadsTrainer,
    fingerprint,
    head_rows,
    train_heads,
)
from worldbridge.models.transformer import MedusaHeads, VideoTransformer

RECIPE = Recipe(
    transformer_batch=4,
    transformer_clip=4,
    heads_unfrozen_layers=1,
    heads_rows=60,
    heads_rate=5e-3,
    warmup_steps=5,
)


def play(clips: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Latents whose tokens count on in raster order, so that a guess can be right."""
    random = np.random.default_rng(0)
    _, height, width = TINY.latent_shape
    count = np.arange(height * width).reshape(height, width)
    begin = random.integers(0, 16, (clips, 6, 1, 1))
    condition = random.standard_normal((clips, 6, 3)).astype(np.float32)
    return ((begin + count) % 16).astype(np.int32), condition


def trainer(recipe: Recipe = RECIPE, count: int = 3) -> tuple[HeadsTrainer, VideoTransformer]:
    model = tiny()
    return HeadsTrainer(model, MedusaHeads(TINY.dim, count), *play(), recipe, "cpu"), model


def weights(model: VideoTransformer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_head_k_is_told_the_token_k_slots_later() -> None:
    codes = torch.arange(12).view(2, 6) * 7
    targets, inside = head_rows(codes, 4)
    assert targets.shape == inside.shape == (2, 6, 4)
    for slot in range(6):
        for k in range(1, 5):
            assert bool(inside[1, slot, k - 1]) == (slot + k < 6)
            if slot + k < 6:
                assert int(targets[1, slot, k - 1]) == int(codes[1, slot + k])


@pytest.mark.parametrize("unfrozen", [0, 1, 2])
def test_heads_learn_with_the_end_of_the_network_alone(unfrozen: int) -> None:
    one, model = trainer(dataclasses.replace(RECIPE, heads_unfrozen_layers=unfrozen))
    before = weights(model)
    first = [one.step(1.0) for _ in range(5)]
    last = [one.step(1.0) for _ in range(40)][-5:]
    assert sum(last) < 0.98 * sum(first)
    assert bool(one.heads.weight.any())
    learning = ("layers.0.", "layers.1.")[2 - unfrozen :] + ("output.",) * (unfrozen > 0)
    for name, value in model.state_dict().items():
        # a norm of keys may have no gradient here, so only matrices must have moved
        if not name.startswith(learning or "-"):
            assert torch.equal(value, before[name]), name
        elif value.ndim == 2:
            assert not torch.equal(value, before[name]), name


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "heads.pt"
    one, model = trainer()
    for _ in range(7):
        one.step(1.0)
    one.share = 0.4
    one.save(path)
    two, _ = trainer()
    two.resume(path)
    assert (two.steps, two.share, two.loss_before) == (7, 0.4, one.loss_before)
    for name, value in two.trained.items():
        assert torch.equal(value, one.trained[name])
        assert torch.equal(two.average[name], one.average[name])
    two.step(1.0)
    # heads of another number, or of another network, are begun anew
    other, _ = trainer(count=2)
    other.resume(path)
    assert other.steps == 0
    with torch.no_grad():
        model.norm.weight.add_(1)
    changed = HeadsTrainer(model, MedusaHeads(TINY.dim, 3), *play(), RECIPE, "cpu")
    changed.resume(path)
    assert changed.steps == 0


@pytest.mark.parametrize(("tolerance", "kept"), [(100.0, True), (-100.0, False)])
def test_a_network_that_got_worse_is_put_back_and_keeps_its_heads(
    tmp_path: Path, tolerance: float, kept: bool
) -> None:
    recipe = dataclasses.replace(RECIPE, heads_minutes=0.02, heads_tolerance=tolerance)
    model, heads, path = tiny(), MedusaHeads(TINY.dim, 3), tmp_path / "heads.pt"
    before = weights(model)
    told: list[str] = []
    train_heads(model, heads, *play(), recipe, path, lambda text, _: told.append(text))
    assert ("was put back" in told[-1]) != kept
    assert bool(heads.weight.any())
    same = all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert same != kept
    state = torch.load(path, weights_only=True)
    assert (state["share"], state["base"]) == (1.0, fingerprint(before))
    assert torch.equal(state["average"]["heads.weight"], heads.weight)
    assert torch.equal(state["average"]["output.weight"], model.state_dict()["output.weight"])
    # called again it has nothing to do but to give the same
    again, other = MedusaHeads(TINY.dim, 3), tiny()
    train_heads(other, again, *play(), recipe, path, lambda text, share: None)
    assert torch.equal(again.weight, heads.weight)
    assert torch.equal(state["average"]["output.weight"], other.state_dict()["output.weight"])


def test_a_loss_that_is_no_number_ends_it(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, heads_minutes=0.1)
    model = tiny()
    with torch.no_grad():
        model.output.weight.fill_(torch.nan)
    with pytest.raises(RuntimeError, match=r"diverged at step 1.*lower Recipe.heads_rate"):
        train_heads(
            model,
            MedusaHeads(TINY.dim, 3),
            *play(),
            recipe,
            tmp_path / "heads.pt",
            lambda text, share: None,
        )
