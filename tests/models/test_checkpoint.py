"""World folders that are damaged, or made to do harm, are refused with the cause."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.test_convert_files import POINTER
from worldbridge.models.checkpoint import (
    EMBEDDED_WORLD,
    check_file,
    describe_file,
    load_tokenizer,
    load_world,
    read_manifest,
)
from worldbridge.models.conditioning.text import load_embeddings
from worldbridge.models.errors import DamagedWorldError, ExportError, TextError
from worldbridge.models.export.manifest import Exported


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A copy of the bundled world, which may be changed."""
    folder = tmp_path / "world"
    shutil.copytree(EMBEDDED_WORLD, folder)
    return folder


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = read_manifest(folder)
    edit(manifest)
    (folder / "world.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("way", ["parent", "absolute", "link", "folder"])
def test_a_manifest_cannot_name_files_outside_its_folder(
    way: str, world: Path, tmp_path: Path
) -> None:
    """Even one that is exactly as the manifest says: its checksum must not be revealed."""
    outside = tmp_path / "outside" / "tokenizer.safetensors"
    outside.parent.mkdir()
    inside = world / outside.name
    inside.rename(outside)
    entry = describe_file(outside)
    if way == "link":
        inside.symlink_to(outside)
    elif way == "folder":
        (world / "deeper").symlink_to(outside.parent)
        entry["file"] = f"deeper/{outside.name}"
    else:
        entry["file"] = str(outside) if way == "absolute" else f"../outside/{outside.name}"
    change(world, lambda manifest: manifest["files"].update(tokenizer=entry))
    for load in (load_world, load_tokenizer):
        with pytest.raises(DamagedWorldError, match="names a file outside of that folder"):
            load(world)


def test_the_manifest_of_an_export_cannot_either(tmp_path: Path) -> None:
    outside = tmp_path / "decoder.onnx"
    outside.write_bytes(b"graph")
    entry = describe_file(outside) | {"file": "../decoder.onnx"}
    folder = tmp_path / "export"
    folder.mkdir()
    with pytest.raises(ExportError, match="names a file outside of that folder"):
        check_file(folder, entry, ExportError)
    exported = object.__new__(Exported)
    object.__setattr__(exported, "folder", folder)
    object.__setattr__(exported, "files", {"decoder": entry})
    with pytest.raises(ExportError, match="names a file outside of that folder"):
        exported.path("decoder")


@pytest.mark.parametrize("entry", [None, 3, "tokenizer.safetensors", {}, {"file": 3}, [[]]])
def test_an_entry_that_describes_no_file(entry: Any, world: Path) -> None:
    change(world, lambda manifest: manifest["files"].update(tokenizer=entry))
    with pytest.raises(DamagedWorldError, match="is damaged"):
        load_world(world)


@pytest.mark.parametrize("key", ["files", "tokenizer", "transformer", "name"])
def test_a_key_that_is_missing(key: str, world: Path) -> None:
    change(world, lambda manifest: manifest.pop(key))
    with pytest.raises(DamagedWorldError, match=f"KeyError: '{key}'"):
        load_world(world)


def test_sizes_that_lie_cost_no_memory(world: Path) -> None:
    change(world, lambda manifest: manifest["tokenizer"].update(channels=1 << 20))
    with pytest.raises(DamagedWorldError, match="size mismatch"):
        load_world(world)


def test_a_git_lfs_pointer_is_named(world: Path, tmp_path: Path) -> None:
    """A clone made without git-lfs has a pointer in the place of each large file."""
    (world / "transformer.safetensors").write_text(POINTER)
    with pytest.raises(DamagedWorldError, match="Git LFS pointer.*git lfs pull"):
        load_world(world)
    for suffix in (".safetensors", ".npy", ".pt"):
        path = tmp_path / f"prompt{suffix}"
        path.write_text(POINTER)
        with pytest.raises(TextError, match="Git LFS pointer.*git lfs pull"):
            load_embeddings(path, 1024)


def test_a_world_is_loaded_through_a_link_to_its_folder(world: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(world)
    assert load_world(tmp_path / "link").name == "embedded"
