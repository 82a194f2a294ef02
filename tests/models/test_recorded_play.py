"""Recorded play in tar shards: what comes back, what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.models.guided.test_world_training import SMALL
from worldbridge.cli import app
from worldbridge.models.errors import InputError
from worldbridge.models.guided.checkpoint import load_guided_world
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.training.guided.frame_pool import write_recorded_pools
from worldbridge.models.training.guided.train_tokenizer import FramePool
from worldbridge.models.training.play_clips import ClipShards, PlayClip, make_play_clip
from worldbridge.models.training.recorded_play import import_play, read_play, write_play

SIZE = (64, 96)


@pytest.fixture(scope="module")
def clip() -> PlayClip:
    return make_play_clip("zoo", 3, 5, height=SIZE[0], width=SIZE[1])


def test_a_recording_comes_back_as_it_was(clip: PlayClip, tmp_path: Path) -> None:
    write_play(tmp_path / "a.tar", [clip, clip])
    first, second = read_play(tmp_path / "a.tar", *SIZE)
    assert (first.theme, first.place, first.seed) == ("zoo", clip.place, 3)
    assert torch.equal(first.frames, clip.frames) and torch.equal(second.frames, clip.frames)
    assert torch.allclose(first.nearness.float(), clip.nearness.float(), rtol=2e-3, atol=1e-4)
    assert torch.equal(first.actions, clip.actions) and torch.equal(first.poses, clip.poses)
    assert torch.allclose(first.cameras, clip.cameras, atol=1e-5)


def test_a_cache_of_recordings(clip: PlayClip, tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    write_play(shard, [clip] * 15)
    plan = import_play(tmp_path / "clips", [shard], 2, 32, 48)
    assert (plan.clips, plan.frames) == (30, 2)  # two clips of each, one frame is left over
    clips = ClipShards(tmp_path / "clips")
    assert len(clips) == 30
    found = clips.clip(1)
    assert found.frames.shape == (2, 3, 32, 48) and torch.equal(found.poses, clip.poses[2:4])
    assert import_play(tmp_path / "clips", [shard], 2, 32, 48) == plan
    with pytest.raises(InputError, match="something else"):
        import_play(tmp_path / "clips", [shard], 3, 32, 48)
    with pytest.raises(InputError, match="too little") as caught:
        import_play(tmp_path / "few", [shard], 5, 32, 48)
    assert caught.value.got == "15"


def test_frames_of_recordings_for_the_tokenizer(clip: PlayClip, tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    write_play(shard, [clip] * 100)
    pools = write_recorded_pools(tmp_path / "frames", [shard], 32, 48)
    known, held_out = (FramePool(prefix) for prefix in pools)
    assert (len(known), len(held_out)) == (90, 10)
    color, nearness, pitch = known.frame(3)
    assert color.shape == (3, 32, 48) and nearness.shape == (32, 48)
    assert pitch == pytest.approx(float(clip.cameras[0, 3]), abs=1e-5)
    assert write_recorded_pools(tmp_path / "frames", [shard], 32, 48) == pools
    write_play(tmp_path / "b.tar", [clip])
    with pytest.raises(InputError, match="holds other frames"):
        write_recorded_pools(tmp_path / "frames", [tmp_path / "b.tar"], 32, 48)
    with pytest.raises(InputError, match="too little"):
        write_recorded_pools(tmp_path / "few", [tmp_path / "b.tar"], 32, 48)


def test_a_video_instead_of_frames(clip: PlayClip, tmp_path: Path) -> None:
    data = io.BytesIO()
    with av.open(data, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=15)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "bgr0"
        for frame in clip.frames.permute(0, 2, 3, 1).numpy():
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    write_play(tmp_path / "a.tar", [clip])
    changed(tmp_path / "a.tar", tmp_path / "b.tar", {"frames.npy": ("mkv", data.getvalue())})
    (found,) = read_play(tmp_path / "b.tar", *SIZE)
    assert torch.equal(found.frames, clip.frames)


def changed(source: Path, target: Path, fields: dict[str, tuple[str, bytes]]) -> None:
    """Copy a shard with some of its files replaced."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for entry in old:
            content = old.extractfile(entry)
            assert content is not None
            key, _, field = entry.name.partition(".")
            name, data = fields.get(field, (field, content.read()))
            entry.name, entry.size = f"{key}.{name}", len(data)
            new.addfile(entry, io.BytesIO(data))


def npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


@pytest.mark.parametrize(
    ("field", "data", "said"),
    [
        ("json", json.dumps({"theme": "atlantis"}).encode(), "atlantis"),
        ("json", b"{", "JSONDecodeError"),
        ("poses.npy", npy(np.full((5, 8), np.nan)), "finite"),
        ("poses.npy", npy(np.zeros((4, 8))), "expected poses"),
        ("depth.npy", npy(np.zeros((3, 8, 8))), "expected depth"),
        ("actions.npy", b"not an array", "ValueError"),
        ("frames.npy", npy(np.zeros((5, 8, 8))), "uint8"),
    ],
)
def test_what_is_wrong_is_named(
    clip: PlayClip, tmp_path: Path, field: str, data: bytes, said: str
) -> None:
    write_play(tmp_path / "a.tar", [clip])
    changed(tmp_path / "a.tar", tmp_path / "b.tar", {field: (field, data)})
    with pytest.raises(InputError, match="'000000'") as caught:
        list(read_play(tmp_path / "b.tar", *SIZE))
    assert said in caught.value.got


def test_a_damaged_shard_is_named(clip: PlayClip, tmp_path: Path) -> None:
    write_play(tmp_path / "a.tar", [clip])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "odd.tar").write_bytes(b"something else" * 100)
    for name in ("cut.tar", "odd.tar"):
        with pytest.raises(InputError, match=name):
            list(read_play(tmp_path / name, *SIZE))
    with pytest.raises(InputError, match="none.tar"):
        import_play(tmp_path / "clips", [tmp_path / "none.tar"], 2, *SIZE)


def test_a_world_is_trained_on_recorded_play(clip: PlayClip, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = replace(SMALL, height=80, width=128)  # the summary divides its blocks
    state = {"average": GuidedTokenizer(small).state_dict(), "config": asdict(small)}
    torch.save(state, tmp_path / "tokenizer.pt")
    write_play(tmp_path / "a.tar", [clip] * 15)
    options = ["--out", "run", "--tokenizer", "tokenizer.pt", "--recorded", "a.tar"]
    paths = [str(tmp_path / o) if not o.startswith("--") else o for o in options]
    found = CliRunner().invoke(
        app, ["train", "world", *paths, "--frames", "2", "--steps", "2", "--nice", "0"]
    )
    assert found.exit_code == 0, found.output
    trained = load_guided_world(tmp_path / "run" / "world").manifest["training"]
    assert trained == {"clips": 30, "frames": 60, "steps": 2}
