"""The training recipe: its parts, and the whole of it on a small scale."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from worldbridge.models.checkpoint import load_world, read_manifest
from worldbridge.models.conditioning.actions import CONDITION_DIM, condition_vector
from worldbridge.models.errors import DamagedWorldError
from worldbridge.models.procedural import THEMES
from worldbridge.models.training import cli
from worldbridge.models.training.data import EVALUATION_SEEDS, clip_identity, make_clip, make_play
from worldbridge.models.training.recipe import Recipe, TimedSchedule
from worldbridge.models.training.stages import run_stages
from worldbridge.models.training.train_tokenizer import sample_crops
from worldbridge.models.training.train_transformer import as_seen, disturb, stray

LEVELS = (8, 8, 8)


def test_training_never_sees_an_evaluation_scene() -> None:
    for recipe_seed in (0, 1, 7, 12345):
        for index in (0, 4, 99_999):
            theme, seed = clip_identity(index, recipe_seed)
            assert theme in THEMES
            assert seed not in EVALUATION_SEEDS


def test_condition_says_action_gaze_and_theme() -> None:
    vector = condition_vector(torch.tensor([1.0, -1.0, 0.5, 0.0]), torch.tensor(-0.4363323), "zoo")
    assert vector.shape == (CONDITION_DIM,)
    assert vector[:4].tolist() == [1.0, -1.0, 0.5, 0.0]
    assert float(vector[4]) == pytest.approx(-1.0)
    assert vector[5:].tolist() == [float(theme == "zoo") for theme in THEMES]


def test_clips_are_play_of_the_right_scene() -> None:
    clip = make_clip("hospital", 3, 4)
    assert clip.frames.shape == (4, 3, 320, 512) and clip.frames.dtype == torch.uint8
    assert clip.condition.shape == (4, CONDITION_DIM)
    assert bool(clip.condition[:, 5 + THEMES.index("hospital")].all())
    assert torch.equal(clip.condition[:, :4], clip.actions)
    assert torch.equal(make_clip("hospital", 3, 4).frames, clip.frames)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_disturbed_codes_are_codes_and_as_many_as_asked(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(512, (2, 3, 10, 16), generator=generator)
    changed = disturb(codes, torch.tensor([[share] * 3, [0.0] * 3]), LEVELS, generator)
    assert int(changed.min()) >= 0 and int(changed.max()) < 512
    assert torch.equal(changed[1], codes[1])
    different = float((changed[0] != codes[0]).float().mean())
    assert different <= share + 0.1
    assert different >= 0.5 * share  # a digit at its end stays


def test_a_stream_is_seen_with_its_own_draws_in_part() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.zeros(200, 4, 10, 16, dtype=torch.long)
    own = torch.full_like(codes, 511)
    recipe = Recipe(disturbed_tokens=0.0, drawn_tokens=0.6)
    seen = as_seen(codes, own, recipe, LEVELS, generator)
    assert set(seen.unique().tolist()) == {0, 511}
    share = (seen == own).float().mean((2, 3))
    assert float(share.max()) < 0.75
    rough = recipe.disturbed_clips * recipe.disturbed_latents
    assert float((share > 0).float().mean()) == pytest.approx(rough, abs=0.08)
    assert float(share.mean()) == pytest.approx(rough * recipe.drawn_tokens / 2, abs=0.04)
    assert torch.equal(as_seen(codes, None, recipe, LEVELS, generator), codes)


def test_some_clips_begin_in_another_and_nothing_is_told_there() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.zeros(2_000, 6, 2, 3, dtype=torch.long)
    recipe = Recipe(strayed_clips=0.25)
    seen, taken = stray(codes, torch.ones_like(codes), recipe, generator)
    assert torch.equal(seen, taken[..., None, None].long().expand_as(seen))
    assert float(taken[:, 0].float().mean()) == pytest.approx(0.25, abs=0.04)
    lengths = taken.sum(1)[taken[:, 0]]
    assert torch.equal(taken, torch.arange(6) < taken.sum(1, keepdim=True))  # beginnings only
    assert set(lengths.tolist()) == {1, 2, 3, 4}  # at least two latents are left to tell


def test_the_last_clips_are_of_a_stubborn_player_under_way() -> None:
    recipe = Recipe(token_clips=10, stubborn_share=0.4, token_frames=3)
    careful, stubborn = make_play(5, recipe), make_play(6, recipe)
    assert torch.equal(careful.actions[0], torch.zeros(4))
    same = make_clip(stubborn.theme, stubborn.seed, 3)
    assert not torch.equal(stubborn.frames[0], same.frames[0])
    again = make_play(6, recipe)
    assert torch.equal(stubborn.frames, again.frames)


def test_rate_warms_up_and_decays_with_the_time() -> None:
    schedule = TimedSchedule(1.0, minutes=1.0, warmup_steps=10)
    assert schedule.value(0) == pytest.approx(0.1, abs=0.01)
    assert schedule.value(100) == pytest.approx(1.0, abs=0.01)
    late = TimedSchedule(1.0, minutes=1.0, warmup_steps=10, spent=0.5)
    assert late.value(100) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 2), abs=0.01)
    assert TimedSchedule(1.0, 1.0, 10, spent=1.0).share() == 1.0


def test_crops_are_consecutive_frames_in_range() -> None:
    recipe = Recipe()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 320, 512), dtype=np.uint8)
    crops = sample_crops(pictures, recipe, np.random.default_rng(1))
    height, width = recipe.tokenizer_crop
    assert crops.shape == (recipe.tokenizer_batch, 3, recipe.tokenizer_clip, height, width)
    assert -1 <= float(crops.min()) < -0.9 and 0.9 < float(crops.max()) <= 1


def test_plan_spends_the_minutes_it_is_given() -> None:
    recipe = cli.plan(100.0, None, quick=False, threads=2)
    assert 5 < recipe.heads_minutes < 8
    assert recipe.tokenizer_minutes + recipe.transformer_minutes + recipe.heads_minutes < 100
    assert recipe.token_clips * recipe.token_frames > 10_000
    assert cli.plan(10.0, 640, quick=False, threads=2).token_clips == 20


def test_unknown_stages_and_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown stage 'magic'"):
        cli.train(out=tmp_path, stage="magic")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="use --device cpu"):
            cli.train(out=tmp_path, device="cuda")
    with pytest.raises(ValueError, match="expected the folder of an earlier run"):
        cli.train(out=tmp_path, resume=tmp_path / "nothing")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_recipe_makes_a_world_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Recipe(
        picture_clips=2,
        picture_frames=3,
        token_clips=2,
        token_frames=9,
        tokenizer_minutes=0.05,
        transformer_minutes=0.05,
        heads_minutes=0.05,
        transformer_batch=1,
        threads=2,
    )
    monkeypatch.setattr(cli, "plan", lambda *args: small)
    folder = cli.train(out=tmp_path, device="cpu")
    assert "finished" in capsys.readouterr().out
    world = load_world(folder)
    assert world.tokenizer.config.vocabulary == world.transformer.config.vocab_size
    assert world.heads is not None and bool(world.heads.weight.any())
    told = world.manifest["training"]
    assert told["heads_steps"] > 0 and told["network_nats_with_heads"] > 0
    # heads alone, from another folder's transformer: what is there already stays
    second = cli.train(out=tmp_path / "second", stage="heads", resume=tmp_path, device="cpu")
    again = load_world(second).heads
    assert again is not None and torch.equal(again.weight, world.heads.weight)
    # heads of another transformer are not put beside this one
    state = torch.load(tmp_path / "heads.pt", weights_only=True)
    torch.save(state | {"base": "another"}, tmp_path / "second" / "heads.pt")
    run_stages(tmp_path / "second", small, ("export",))
    assert load_world(second).heads is None
    # a second run of the same command has nothing left to do
    before = (tmp_path / "transformer.pt").stat().st_mtime_ns
    cli.train(out=tmp_path, stage="data", device="cpu")
    assert (tmp_path / "transformer.pt").stat().st_mtime_ns == before

    weights = folder / "tokenizer.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DamagedWorldError, match="are damaged: expected sha256"):
        load_world(folder)
    weights.unlink()
    with pytest.raises(DamagedWorldError, match="are missing"):
        load_world(folder)
    (folder / "world.json").write_text("{")
    with pytest.raises(DamagedWorldError, match="cannot be read"):
        read_manifest(folder)
