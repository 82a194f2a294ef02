"""What `worldbridge eval` tells of the heads' guesses."""

import dataclasses

import pytest
import torch

from tests.runtime.tiny_world import tiny_world
from worldbridge.models.training.data import make_clip
from worldbridge.models.transformer import MedusaHeads
from worldbridge.runtime.ar_world import ArWorld
from worldbridge.runtime.speculation import measure_heads


def test_guesses_are_counted_against_the_worlds_own_stream() -> None:
    world = tiny_world()
    # a network that says the same of every slot, which heads that add nothing know too
    for block in world.transformer.layers:
        torch.nn.init.zeros_(block.attention.wo.weight)
        torch.nn.init.zeros_(block.feed_forward.w2.weight)
    dim = world.transformer.config.dim
    model = ArWorld(dataclasses.replace(world, heads=MedusaHeads(dim, 4)), capacity=2)
    found = measure_heads(model, [make_clip("zoo", 4, 3), make_clip("city", 4, 3)], 2, seed=0)
    assert (found["heads"], found["latents"], found["same_latents"]) == (4, 2, 1.0)
    kept = found["acceptance_per_head"]
    assert len(kept) == 4 and kept == sorted(kept, reverse=True) and 0 < kept[0] <= 1
    # 160 tokens a latent; every forward but the first has guesses of the heads
    assert found["tokens_per_forward"] == pytest.approx(160 / found["forwards_per_latent"], 1e-3)
    assert 32 <= found["forwards_per_latent"] < 160


def test_a_world_without_heads_has_no_guesses() -> None:
    with pytest.raises(ValueError, match="'tiny' has no Medusa heads"):
        measure_heads(ArWorld(tiny_world(), capacity=1), [], 2, seed=0)
