"""What `worldbridge eval` tells of guesses."""

import dataclasses

import pytest
import torch

from tests.support.tiny_world import tiny_world
from worldbridge.benchmarks.quality.speculation import measure_drafts
from worldbridge.models.training.data import make_clip
from worldbridge.models.transformer import MedusaHeads
from worldbridge.runtime.worlds.autoregressive import ArWorld


def test_guesses_are_counted_against_the_worlds_own_stream() -> None:
    world = tiny_world()
    # a network that says the same of every slot, which heads that add nothing know too
    for block in world.transformer.layers:
        torch.nn.init.zeros_(block.attention.wo.weight)
        torch.nn.init.zeros_(block.feed_forward.w2.weight)
    dim = world.transformer.config.dim
    model = ArWorld(dataclasses.replace(world, heads=MedusaHeads(dim, 4)), capacity=2)
    found = measure_drafts(model, [make_clip("zoo", 4, 3), make_clip("city", 4, 3)], 2, seed=0)
    assert found.keys() == {"medusa", "jacobi"}
    kept = found["medusa"]["acceptance_per_head"]
    assert len(kept) == 4 and kept == sorted(kept, reverse=True) and 0 < kept[0] <= 1
    assert "acceptance_per_head" not in found["jacobi"]
    for mode, most in (("medusa", 5), ("jacobi", 16)):
        said = found[mode]
        assert (said["latents"], said["same_latents"]) == (2, 1.0)
        # 160 tokens a latent
        per_latent = said["forwards_per_latent"]
        assert said["tokens_per_forward"] == pytest.approx(160 / per_latent, 1e-3)
        assert 160 / most <= per_latent < 160


def test_a_world_without_heads_can_still_guess() -> None:
    found = measure_drafts(ArWorld(tiny_world(), capacity=1), [make_clip("zoo", 4, 3)], 2, 0)
    assert found.keys() == {"jacobi"} and found["jacobi"]["same_latents"] == 1.0
