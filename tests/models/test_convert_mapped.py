"""Tensors of PyTorch files as views: the same numbers, no memory, no writing, no trust."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worldbridge.models.convert.files import read
from worldbridge.models.convert.mapped import MappedFile, describe
from worldbridge.models.errors import ConvertError


def saved(path: Path) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(30, 20, generator=generator)
    state = {
        "table": table,
        "turned": table.t(),
        "piece": table[3:7, 5:],
        "half": torch.randn(7, 3, generator=generator).to(torch.bfloat16),
        "number": torch.tensor(4.5),
        "nothing": torch.empty(0, 5),
    }
    torch.save(state, path)
    return state


def test_views_are_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = saved(path)
    found = read(path, state)
    assert list(found) == list(state)
    for name, value in state.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_the_file_is_mapped_for_reading_only(tmp_path: Path) -> None:
    """A private writable mapping counts as memory: one larger than the machine's is refused."""
    path = tmp_path / "model.pt"
    saved(path)
    found = read(path, ["table"])
    lines = Path("/proc/self/maps").read_text().splitlines()
    ways = {line.split()[1] for line in lines if line.endswith(str(path))}
    assert ways == {"r--s"} and found["table"].any()


def rezipped(path: Path, change: Callable[[str, bytes], bytes], compression: int) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


@pytest.mark.parametrize("way", ["packed", "short", "moved"])
def test_tensors_that_are_not_where_the_file_says_are_refused(way: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = saved(path)
    compression = zipfile.ZIP_DEFLATED if way == "packed" else zipfile.ZIP_STORED

    def change(name: str, data: bytes) -> bytes:
        return data[:-4] if way == "short" and "/data/" in name else data

    rezipped(path, change, compression)  # "moved": without the padding that places are told by
    try:
        found = read(path, ["table"])["table"]
    except ConvertError as error:
        assert "cannot be read" in str(error) or "not a checkpoint" in str(error)
    else:
        assert way == "moved" and torch.equal(found, state["table"])


def test_a_view_of_another_file_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.pt")
    torch.save({"table": torch.zeros(99)}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="no uncompressed record of 2400 bytes"):
        MappedFile(tmp_path / "b.pt").view(describe(tmp_path / "a.pt")["table"])
