"""Training of the guided transformer: samples of play, steps, going on later, what goes wrong."""

import dataclasses
import json
import math
import struct
from pathlib import Path

import pytest
import torch

from worldbridge.models.errors import InputError
from worldbridge.models.guided.checkpoint import load_guided_world
from worldbridge.models.guided.config import GuidedConfig
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.guided.transformer import (
    GUIDED_CONDITION_DIM,
    GUIDED_TRANSFORMER,
    block_guide,
    draw_active,
    guided_condition,
)
from worldbridge.models.procedural.plain import PLAIN_THEMES
from worldbridge.models.training.guided import run
from worldbridge.models.training.guided.event_file import crc32c
from worldbridge.models.training.guided.run import write_log
from worldbridge.models.training.guided.samples import (
    Samples,
    clip_samples,
    load_samples,
    write_samples,
)
from worldbridge.models.training.guided.train_world import (
    WorldRecipe,
    WorldTraining,
    measure,
    take_batch,
    train_world,
    unigram_nats,
)
from worldbridge.models.training.guided.world_stages import make_world
from worldbridge.models.training.play_clips import ClipPlan, make_play_clip, write_clip_shards

SMALL = GuidedConfig(
    height=64, width=96, trunk_dim=8, guide_dim=8, fine_dim=8, block_dim=16, blocks=1
)
NET = dataclasses.replace(
    GUIDED_TRANSFORMER,
    dim=32,
    n_layers=1,
    n_heads=2,
    head_dim=16,
    ffn_hidden_size=32,
    condition_hidden=16,
    latent_shape=(1, 4, 6),
    grid=dataclasses.replace(GUIDED_TRANSFORMER.grid, summary=(2, 2), head_hidden=16),
)
RECIPE = WorldRecipe(
    steps=12, batch=4, warmup=3, save_every=5, measure_every=6, held_out=1, rate=2e-3
)


@pytest.fixture(scope="module")
def tokenizer() -> GuidedTokenizer:
    torch.manual_seed(0)
    return GuidedTokenizer(SMALL).eval()


@pytest.fixture(scope="module")
def samples(tokenizer: GuidedTokenizer) -> list[Samples]:
    clips = [make_play_clip(t, 5, 6, height=64, width=96) for t in ("zoo", "city")]
    return [
        clip_samples(c, tokenizer, own_frames=own) for c, own in zip(clips, (0, 1), strict=True)
    ]


def test_the_first_frame_is_new_and_what_stands_still_is_not(
    tokenizer: GuidedTokenizer, samples: list[Samples]
) -> None:
    for part in samples:
        assert part.active[0].all()
        assert not part.follows[0] and part.follows[1:].all()
        assert part.active[1:].float().mean() < 0.9
    clip = make_play_clip("zoo", 5, 1, height=64, width=96)
    still = dataclasses.replace(
        clip,
        **{
            k: getattr(clip, k).repeat_interleave(3, 0)
            for k in ("frames", "nearness", "poses", "cameras", "actions")
        },
    )
    assert not clip_samples(still, tokenizer).active[1:].any()
    assert not clip_samples(still, tokenizer, own_frames=True).active[1:].any()


def test_the_latent_before_counts_where_it_was_active(samples: list[Samples]) -> None:
    part = samples[0]
    before = part.previous(torch.tensor([0, 1, 2]))
    assert (before[0] == -1).all()
    assert torch.equal(before[1], part.digits[0].long())
    assert torch.equal((before[2] >= 0).all(-1), part.active[1])


def test_a_guide_is_averaged_within_its_block() -> None:
    guide = torch.zeros(1, 6, 32, 48)
    guide[0, 2, 16:20, 36:40] = 1.0
    blocks = block_guide(guide)
    assert blocks.shape == (1, 2, 3, 96)
    assert blocks[0, 1, 2, 2 * 16 + 1] == 1.0
    assert blocks.sum() == 1.0


def test_a_locality_is_also_its_theme() -> None:
    condition = guided_condition(torch.zeros(4), torch.tensor(0.1), "city/paris")
    assert condition.shape == (GUIDED_CONDITION_DIM,)
    named = [PLAIN_THEMES[i] for i in condition[5:].nonzero()[:, 0].tolist()]
    assert sorted(named) == ["city", "city/paris"]
    with pytest.raises(ValueError, match="Atlantis"):
        guided_condition(torch.zeros(4), torch.tensor(0.1), "Atlantis")


def test_training_lowers_the_loss_and_writes_what_it_did(
    samples: list[Samples], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(RECIPE, steps=60)
    before = measure(WorldTraining(recipe, tmp_path / "a", NET).average, samples[0])
    model = train_world(samples, recipe, tmp_path / "b", NET, log_every=5)
    after = measure(model, samples[0])
    assert after["nats_start"] < before["nats_start"] - 0.5
    lines = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert lines[0]["unigram_nats"] == pytest.approx(unigram_nats(samples[1]), abs=1e-4)
    assert lines[-1]["step"] == 60


def test_an_interrupted_run_takes_the_same_steps(samples: list[Samples], tmp_path: Path) -> None:
    whole = train_world(samples, RECIPE, tmp_path / "whole", NET)
    first = WorldTraining(RECIPE, tmp_path / "parts", NET)
    for step in range(5):
        first.learn(take_batch(samples[0], RECIPE, step))
    first.save()
    rest = train_world(samples, RECIPE, tmp_path / "parts", NET)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name


def test_a_loss_that_is_no_number_stops_with_the_last_checkpoint(
    samples: list[Samples], tmp_path: Path
) -> None:
    run = WorldTraining(RECIPE, tmp_path, NET)
    run.learn(take_batch(samples[0], RECIPE, 0))
    run.save()
    kept = run.checkpoint.read_bytes()
    broken = take_batch(samples[0], RECIPE, 1)
    broken.guide.fill_(math.nan)
    with pytest.raises(RuntimeError, match=r"step 1: .*transformer\.pt is good"):
        run.learn(broken)
    assert run.checkpoint.read_bytes() == kept
    assert WorldTraining(RECIPE, tmp_path, NET).step == 1


def test_a_full_disk_keeps_the_last_checkpoint(samples: list[Samples], tmp_path: Path) -> None:
    run = WorldTraining(RECIPE, tmp_path, NET)
    run.learn(take_batch(samples[0], RECIPE, 0))
    run.save()
    kept = run.checkpoint.read_bytes()
    run.learn(take_batch(samples[0], RECIPE, 1))
    partial = run.checkpoint.with_suffix(".partial")
    partial.symlink_to("/dev/full")  # every write fails there as on a full disk
    with pytest.raises(InputError, match="cannot be written"):
        run.save()
    assert run.checkpoint.read_bytes() == kept
    assert WorldTraining(RECIPE, tmp_path, NET).step == 1
    run.save()
    assert WorldTraining(RECIPE, tmp_path, NET).step == 2


def test_too_little_memory_is_named(
    samples: list[Samples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "meminfo"
    monkeypatch.setattr(run, "MEMORY_FILE", file)
    file.write_text("MemTotal: 4000000 kB\nMemAvailable:    12 kB\n")
    with pytest.raises(InputError, match="too little memory"):
        run.require_memory()
    with pytest.raises(InputError, match="too little memory"):
        train_world(samples, RECIPE, tmp_path / "out", NET)
    assert not (tmp_path / "out").exists(), "nothing began"
    file.write_text("MemAvailable: 3000000 kB\n")
    run.require_memory()


def test_figures_are_in_an_event_file(tmp_path: Path) -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    write_log(tmp_path, {"step": 300, "loss": 1.5})
    write_log(tmp_path, {"step": 301, "loss": 1.25})
    (file,) = tmp_path.glob("events.out.tfevents.*")
    data, records = file.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        body, check = data[12 : 12 + length], data[12 + length : 16 + length]
        crc = crc32c(body)
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        assert check == struct.pack("<I", masked)
        records.append(body)
        data = data[16 + length :]
    assert records[0].endswith(b"brain.Event:2")
    assert b"\x10\xac\x02" in records[1], "step 300"
    assert b"\x0a\x04loss\x15" + struct.pack("<f", 1.25) in records[2]


def test_an_outlier_changes_nothing(samples: list[Samples], tmp_path: Path) -> None:
    run = WorldTraining(RECIPE, tmp_path, NET)
    run.norms.extend([1e-9] * 30)
    before = [p.clone() for p in run.model.parameters()]
    run.learn(take_batch(samples[0], RECIPE, 0))
    assert run.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


def test_samples_are_written_once_and_damage_is_found(
    tokenizer: GuidedTokenizer, tmp_path: Path
) -> None:
    plan = ClipPlan(clips=2, frames=3, height=64, width=96)
    write_clip_shards(tmp_path / "clips", plan)
    write_samples(tmp_path / "clips", tokenizer, tmp_path / "samples")
    (path,) = (tmp_path / "samples").iterdir()
    written = path.stat().st_mtime_ns
    write_samples(tmp_path / "clips", tokenizer, tmp_path / "samples")
    assert path.stat().st_mtime_ns == written
    assert 2 <= len(load_samples(tmp_path / "samples")[0]) <= 6
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="expected whole samples"):
        load_samples(tmp_path / "samples")
    with pytest.raises(FileNotFoundError, match="found none"):
        load_samples(tmp_path / "nothing")


def test_drawing_fills_active_blocks_alone(samples: list[Samples], tmp_path: Path) -> None:
    model = WorldTraining(RECIPE, tmp_path, NET).average
    part = samples[0]
    generator = torch.Generator().manual_seed(0)
    guide, condition = part.guide[2].float() / 127, part.condition[2]
    previous = part.previous(torch.tensor([2]))[0]
    digits = draw_active(model, part.active[2], guide, previous, condition, generator)
    assert torch.equal((digits >= 0).all(-1), part.active[2])
    assert int(digits.max()) <= 7


def test_a_tokenizer_becomes_a_world_folder(tmp_path: Path, tokenizer: GuidedTokenizer) -> None:
    checkpoint = tmp_path / "tokenizer.pt"
    small = dataclasses.replace(SMALL, height=80, width=128)  # the summary divides its blocks
    torch.save({"average": tokenizer.state_dict(), "config": dataclasses.asdict(small)}, checkpoint)
    plan = ClipPlan(clips=11, frames=2, clips_per_shard=6, height=80, width=128)
    recipe = dataclasses.replace(RECIPE, steps=2, measure_every=2)
    world = make_world(tmp_path / "out", checkpoint, plan, recipe)
    assert load_guided_world(world).manifest["training"]["steps"] == 2
    sheet = (tmp_path / "out" / "sheet-000002.png").read_bytes()
    assert sheet.startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no checkpoint of a guided tokenizer"):
        make_world(tmp_path / "out", tmp_path / "nothing.pt", plan, recipe)


def test_a_deeper_network_begins_as_the_one_it_starts_from(
    samples: list[Samples], tmp_path: Path
) -> None:
    start = WorldTraining(RECIPE, tmp_path / "a", NET).model
    deeper = dataclasses.replace(NET, n_layers=3)
    run = WorldTraining(RECIPE, tmp_path / "b", deeper, start)
    assert measure(run.model, samples[1]) == pytest.approx(measure(start, samples[1]))
    before = run.model.layers[2].attention.wo.weight.clone()
    for step in range(2):
        run.learn(take_batch(samples[1], RECIPE, step))
    assert not torch.equal(run.model.layers[2].attention.wo.weight, before)


def test_a_network_of_another_width_or_with_fewer_layers_cannot_be_started_from(
    tmp_path: Path,
) -> None:
    start = WorldTraining(RECIPE, tmp_path / "a", dataclasses.replace(NET, n_layers=2)).model
    for other in (NET, dataclasses.replace(NET, n_layers=2, ffn_hidden_size=64)):
        with pytest.raises(ValueError, match="up to . layers of width 32"):
            WorldTraining(RECIPE, tmp_path / "b", other, start)
