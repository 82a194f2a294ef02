import json

import numpy as np
import pytest
import torch
from PIL import Image

from worldbridge.models.training.guided import train_tokenizer
from worldbridge.models.training.guided.frame_pool import write_frames
from worldbridge.models.training.guided.train_tokenizer import (
    FramePool,
    TokenizerRecipe,
    TrainingError,
    train,
)

RECIPE = TokenizerRecipe(steps=6, batch=2, crop=(64, 96), warmup=2, save_every=2, sheet_every=3)


@pytest.fixture
def pool(tmp_path):
    random = np.random.default_rng(0)
    np.save(tmp_path / "a_rgb.npy", random.integers(0, 256, (3, 3, 96, 128), dtype=np.uint8))
    np.save(tmp_path / "a_near.npy", random.uniform(0.02, 1, (3, 96, 128)).astype(np.float16))
    np.save(tmp_path / "a_pitch.npy", np.zeros(3))
    return FramePool(tmp_path / "a")


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def test_an_interrupted_run_continues_to_the_same_weights(pool, tmp_path, monkeypatch):
    whole = train(pool, pool, RECIPE, tmp_path / "whole")
    learn = train_tokenizer._Run.learn

    def interrupted(run, batch):
        if run.step == 3:
            raise KeyboardInterrupt
        return learn(run, batch)

    monkeypatch.setattr(train_tokenizer._Run, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(pool, pool, RECIPE, tmp_path / "cut")
    monkeypatch.undo()
    continued = train(pool, pool, RECIPE, tmp_path / "cut")
    assert torch.equal(weights(whole), weights(continued))
    with Image.open(tmp_path / "whole" / "sheet-000003.png") as sheet:
        assert sheet.size == (2 * 5 * 96, 6 * 64)
        sheet.load()
    entries = [json.loads(x) for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert any("psnr_new_db" in entry for entry in entries)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(pool, tmp_path):
    train(pool, pool, RECIPE, tmp_path / "out")
    kept = (tmp_path / "out" / "tokenizer.pt").read_bytes()
    run = train_tokenizer._Run(RECIPE, tmp_path / "out")
    batch = pool.batch(RECIPE, np.random.default_rng(0))
    batch.color.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 6"):
        run.learn(batch)
    assert (tmp_path / "out" / "tokenizer.pt").read_bytes() == kept


def test_a_pool_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        FramePool(tmp_path / "nothing")


def test_a_run_begins_with_the_weights_of_another_as_far_as_they_fit(pool, tmp_path):
    train(pool, pool, RECIPE, tmp_path / "first")
    state = torch.load(tmp_path / "first" / "tokenizer.pt", weights_only=True)
    state["average"]["decoder.paint.weight"] = torch.zeros(1, 2, 1, 1)
    run = train_tokenizer._Run(RECIPE, tmp_path / "second", state["average"])
    own = run.model.state_dict()
    assert torch.equal(own["encoder.stem.weight"], state["average"]["encoder.stem.weight"])
    assert own["decoder.paint.weight"].shape[0] == 4 * 6
    assert torch.equal(own["encoder.stem.weight"], run.average.state_dict()["encoder.stem.weight"])


def test_crispness_tells_a_step_from_a_ramp():
    color = torch.full((1, 3, 16, 16), -1.0)
    color[..., 4:] = 1.0
    new = torch.ones(1, 16, 16, dtype=torch.bool)
    step = train_tokenizer._crispness(color, new)
    assert step == {"edge_windows": 0.5, "steepness": 1.0}
    ramp = torch.linspace(-1, 1, 8).repeat(2).expand(1, 3, 16, 16)
    assert train_tokenizer._crispness(ramp, new)["steepness"] < 0.2
    assert train_tokenizer._crispness(color, ~new)["edge_windows"] == 0.0


def test_frames_are_rendered_once_and_held_out_ones_are_of_other_scenes(tmp_path):
    write_frames(tmp_path / "frames000000", range(2), 32, 48)
    pool = FramePool(tmp_path / "frames")
    rgb, near, _ = pool.frame(9)
    assert (len(pool), rgb.shape, near.shape) == (10, (3, 32, 48), (32, 48))
    assert not list(tmp_path.glob(".*"))
    assert float(near.max()) > 0.05
