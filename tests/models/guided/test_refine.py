"""A decoder is refined for play; what the transformer was trained with stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldbridge.models.guided.config import GuidedConfig
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.training.guided.refine import RefineRecipe, refine
from worldbridge.models.training.guided.run import TrainingError
from worldbridge.models.training.guided.train_tokenizer import FramePool
from worldbridge.models.training.guided.world_stages import load_guided_tokenizer

SMALL = GuidedConfig(64, 96, trunk_dim=8, guide_dim=8, fine_dim=8, block_dim=16, blocks=1)
RECIPE = RefineRecipe(steps=4, batch=2, crop=(32, 48), warmup=1, save_every=2, sheet_every=4)


@pytest.fixture
def pool(tmp_path: Path) -> FramePool:
    random = np.random.default_rng(0)
    np.save(tmp_path / "pool_rgb.npy", random.integers(0, 255, (4, 3, 64, 96), dtype=np.uint8))
    np.save(tmp_path / "pool_near.npy", random.uniform(0.05, 1, (4, 64, 96)).astype(np.float16))
    np.save(tmp_path / "pool_pitch.npy", np.zeros(4, np.float32))
    return FramePool(tmp_path / "pool")


def small() -> GuidedTokenizer:
    torch.manual_seed(0)
    return GuidedTokenizer(SMALL)


def test_only_the_decoder_learns_and_the_result_is_a_tokenizer(
    pool: FramePool, tmp_path: Path
) -> None:
    before = small().state_dict()
    refined = refine(small(), pool, RECIPE, tmp_path / "run", log_every=1)
    after = refined.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"decoder"}
    loaded = load_guided_tokenizer(tmp_path / "run" / "tokenizer.pt").state_dict()
    assert all(torch.equal(loaded[name], after[name]) for name in after)
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert (tmp_path / "run" / "sheet-000004.png").stat().st_size > 0


def test_an_interrupted_run_takes_the_steps_that_it_would_have_taken(
    pool: FramePool, tmp_path: Path
) -> None:
    whole = refine(small(), pool, RECIPE, tmp_path / "whole")

    def interrupt(text: str, _: float) -> None:
        if "step 3" in text:  # the checkpoint is that of step 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(small(), pool, RECIPE, tmp_path / "parts", log_every=1, progress=interrupt)
    again = refine(small(), pool, RECIPE, tmp_path / "parts")
    pairs = zip(whole.parameters(), again.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_a_loss_that_is_no_number_stops_the_run(pool: FramePool, tmp_path: Path) -> None:
    broken = small()
    with torch.no_grad():
        broken.decoder.paint.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="lower the rate"):
        refine(broken, pool, RECIPE, tmp_path)
