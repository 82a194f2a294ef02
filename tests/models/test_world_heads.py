"""Medusa heads in a world folder: beside the networks, checked like them, and optional."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.tiny_world import tiny_world
from worldbridge.models.checkpoint import describe_file, load_world, read_manifest, save_world
from worldbridge.models.errors import DamagedWorldError
from worldbridge.models.transformer import MedusaHeads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    world = tiny_world()
    dim = world.transformer.config.dim
    heads = MedusaHeads.merged([torch.full((dim, dim), 0.5 * k) for k in range(1, 4)])
    save_world(tmp_path, world.tokenizer, world.transformer, {"name": "tiny"}, heads)
    return tmp_path


def test_heads_come_back_with_their_world(folder: Path) -> None:
    world = load_world(folder)
    assert world.heads is not None
    assert [float(m[0, 0]) for m in world.heads.matrices()] == [0.5, 1.0, 1.5]
    assert world.heads.weight.dtype == torch.float32 and not world.heads.weight.requires_grad
    kept = load_world(folder, keep_types=True).heads
    assert kept is not None and kept.weight.dtype == torch.float16


def test_a_world_without_heads_loads_as_before(folder: Path) -> None:
    world = tiny_world()
    save_world(folder, world.tokenizer, world.transformer)
    assert not (folder / "heads.safetensors").exists()
    assert "heads" not in read_manifest(folder)
    assert load_world(folder).heads is None


def test_altered_and_missing_heads_are_refused(folder: Path) -> None:
    path = folder / "heads.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedWorldError, match="heads.safetensors are damaged: expected sha256"):
        load_world(folder)
    path.unlink()
    with pytest.raises(DamagedWorldError, match="heads.safetensors are missing"):
        load_world(folder)


@pytest.mark.parametrize("count", [2, 0, "9", None])
def test_heads_of_another_number_are_refused(folder: Path, count: object) -> None:
    manifest = read_manifest(folder)
    manifest["heads"] = {"count": count}
    (folder / "world.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedWorldError, match="Medusa heads of .* do not fit"):
        load_world(folder)


def test_heads_of_another_network_are_refused(folder: Path) -> None:
    path = folder / "heads.safetensors"
    save_file({"weight": torch.zeros(3 * 16, 16)}, path)
    manifest = read_manifest(folder)
    manifest["files"]["heads"] = describe_file(path)
    (folder / "world.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedWorldError, match=r"got 3 heads with \{'weight': \[48, 16\]\}"):
        load_world(folder)
    del manifest["files"]["heads"]
    (folder / "world.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedWorldError, match="train --stage heads"):
        load_world(folder)
