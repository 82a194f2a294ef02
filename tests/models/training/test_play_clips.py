"""Clip caches: what is read is what was played, and an interrupted cache is continued."""

from pathlib import Path

import pytest
import torch

from worldbridge.models.training.play_clips import (
    HELD_OUT_SEEDS,
    ClipPlan,
    ClipShards,
    clip_source,
    make_play_clip,
    write_clip_shards,
)

PLAN = ClipPlan(clips=5, frames=3, clips_per_shard=2, height=40, width=64)


def test_a_cache_holds_the_clips_that_are_made_on_the_fly(tmp_path: Path) -> None:
    write_clip_shards(tmp_path, PLAN, range(1))
    write_clip_shards(tmp_path, PLAN)
    shards = ClipShards(tmp_path)
    assert len(shards) == 5
    for index in (0, 3):
        theme, seed, stubborn, lead_in = clip_source(index, PLAN.seed)
        made = make_play_clip(
            theme, seed, 3, stubborn=stubborn, lead_in=lead_in, height=40, width=64
        )
        read = shards.clip(index, 1, 3)
        assert (read.theme, read.place, read.seed) == (made.theme, made.place, made.seed)
        for name in ("frames", "nearness", "poses", "cameras", "actions"):
            assert torch.equal(getattr(read, name), getattr(made, name)[1:3]), name


def test_training_never_sees_a_held_out_scene() -> None:
    seeds = {clip_source(index, seed)[1] for index in range(0, 5000, 7) for seed in range(0, 40, 3)}
    assert not any(seed in HELD_OUT_SEEDS for seed in seeds)


def test_a_cache_of_another_plan_is_refused(tmp_path: Path) -> None:
    write_clip_shards(tmp_path, PLAN, range(1))
    other = ClipPlan(clips=5, frames=4, clips_per_shard=2, height=40, width=64)
    with pytest.raises(ValueError, match="use another folder, or delete this one"):
        write_clip_shards(tmp_path, other)


def test_a_disk_that_is_too_small_is_named_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="GB free for clips"):
        write_clip_shards(tmp_path, ClipPlan(clips=10**7, frames=100))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_clip_shards(tmp_path, PLAN, range(2))
    damaged = tmp_path / "shard00001" / "nearness.npy"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(ValueError, match="whole clip shard in .*shard00001"):
        ClipShards(tmp_path)
    with pytest.raises(FileNotFoundError, match="found no shards"):
        ClipShards(tmp_path / "nowhere")
