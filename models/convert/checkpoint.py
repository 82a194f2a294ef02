"""A model on disk: one file, several, or one for each tensor-parallel rank."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldbridge.models.convert import files
from worldbridge.models.convert.files import Info
from worldbridge.models.errors import ConvertError

__all__ = ["Checkpoint", "compare", "split_dimension"]

_RANK_FILE = re.compile(r"(?P<stem>.*_model_mp_)(?P<rank>\d+)\.pt")
_LISTED = 20

# The dimension along which tensor-parallel ranks divide a tensor. Each rank has all of the others.
_DIVIDED = {
    **dict.fromkeys(("tok_embeddings", "output", "wq", "wk", "wv", "w1", "w3"), 0),
    **dict.fromkeys(("wo", "w2"), 1),
}


def split_dimension(name: str) -> int | None:
    """Return the dimension along which the ranks divide a tensor; None: each has all of it."""
    return _DIVIDED.get(name.split(".")[-2]) if "." in name else None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tensors of a model by their published names; none is held in memory.

    `ranks` has one entry per tensor-parallel rank, each with the files that make it up.
    """

    ranks: tuple[tuple[Path, ...], ...]
    infos: Mapping[str, Info]  # of the merged tensors

    @classmethod
    def open(cls, source: Path) -> Checkpoint:
        """Open a file, one of the files of several ranks, or a folder. Raises ConvertError."""
        ranks = _find_ranks(source)
        if len(ranks) == 1:
            return cls(ranks, _union(ranks[0]))
        return cls(ranks, _merged_infos(ranks))

    @classmethod
    def of_files(cls, paths: Iterable[Path]) -> Checkpoint:
        """Open files that hold different tensors of one model."""
        rank = tuple(paths)
        return cls((rank,), _union(rank))

    def read(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return copies of the named tensors, merged, and close the files again."""
        pieces: list[dict[str, Tensor]] = []
        for rank in self.ranks:
            found: dict[str, Tensor] = {}
            for path in rank:
                found |= files.read(path, names)
            pieces.append(found)
        return {name: _merge(name, [piece[name] for piece in pieces]) for name in names}


def compare(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Info]) -> str | None:
    """Return the differences from the expected tensors, by name; None if there are none."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    wrong = []
    for name in (name for name in expected if name in found):
        if found[name].shape != expected[name]:
            wrong.append(f"{name} {list(found[name].shape)} instead of {list(expected[name])}")
        elif found[name].dtype is None:
            wrong.append(f"{name} is not of type bfloat16, float16 or float32")
    differences = [
        f"{len(names)} {kind} ({_shortened(names)})"
        for kind, names in (("missing", missing), ("unexpected", extra), ("misshapen", wrong))
        if names
    ]
    return "; ".join(differences) or None


def _shortened(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _find_ranks(source: Path) -> tuple[tuple[Path, ...], ...]:
    if source.is_dir():
        return _find_in_folder(source)
    match = _RANK_FILE.fullmatch(source.name)
    if match is None or not source.is_file():
        return ((source,),)
    return _ranks_like(source.parent, match["stem"])


def _find_in_folder(folder: Path) -> tuple[tuple[Path, ...], ...]:
    if (folder / "model.pt").is_file():
        return ((folder / "model.pt",),)
    stems = {m["stem"] for p in folder.iterdir() if (m := _RANK_FILE.fullmatch(p.name))}
    if len(stems) == 1:
        return _ranks_like(folder, stems.pop())
    parts = sorted(p for p in folder.glob("*.safetensors") if not p.name.startswith("tokenizer"))
    if parts and not stems:
        return (tuple(parts),)
    raise ConvertError(
        f"no checkpoint in {folder}" if not stems else f"{len(stems)} checkpoints in {folder}",
        expected="model.pt, NAME_model_mp_0.pt and so on, or safetensors files",
        got=_shortened(sorted(p.name for p in folder.iterdir())) or "an empty folder",
        remedy="pass the file itself",
    )


def _ranks_like(folder: Path, stem: str) -> tuple[tuple[Path, ...], ...]:
    """Return the files of all ranks in order. Raises ConvertError if one is missing."""
    by_rank = {
        int(m["rank"]): p
        for p in folder.iterdir()
        if (m := _RANK_FILE.fullmatch(p.name)) and m["stem"] == stem
    }
    absent = sorted(set(range(max(by_rank) + 1)) - set(by_rank))
    if absent:
        raise ConvertError(
            f"shards of {folder / stem}* are missing",
            expected=f"ranks 0 to {max(by_rank)}",
            got=f"no {', '.join(f'{stem}{rank}.pt' for rank in absent[:_LISTED])}",
            remedy="put the files of all ranks into one folder",
        )
    return tuple((by_rank[rank],) for rank in sorted(by_rank))


def _union(paths: tuple[Path, ...]) -> dict[str, Info]:
    found: dict[str, Info] = {}
    for path in paths:
        part = files.contents(path)
        twice = [name for name in part if name in found]
        if twice:
            raise ConvertError(
                f"{path} repeats tensors of another file",
                expected="files with different tensors of one model",
                got=_shortened(twice),
                remedy="pass one model only",
            )
        found |= part
    return found


def _merged_infos(ranks: tuple[tuple[Path, ...], ...]) -> dict[str, Info]:
    parts = [_union(rank) for rank in ranks]
    whole = [name for name in parts[0] if split_dimension(name) is None]
    for part, rank in zip(parts[1:], ranks[1:], strict=True):
        _check_same_names(parts[0], part, rank[0])
        _check_same_values(ranks[0][0], rank[0], whole)
    return {name: _merged_info(name, [part[name] for part in parts]) for name in parts[0]}


def _check_same_names(first: Mapping[str, Info], other: Mapping[str, Info], path: Path) -> None:
    differences = compare({name: info.shape for name, info in first.items()}, other)
    if differences is not None:
        raise ConvertError(
            f"{path} does not fit the other shards",
            expected="the same names and shapes in the files of all ranks",
            got=differences,
            remedy="pass the shards of one model",
        )


def _check_same_values(first: Path, other: Path, names: list[str]) -> None:
    ours, theirs = files.read(first, names), files.read(other, names)
    different = [name for name in names if not torch.equal(ours[name], theirs[name])]
    if different:
        raise ConvertError(
            f"{other} belongs to another model than {first.name}",
            expected="equal norms in the files of all ranks",
            got=f"different {_shortened(different)}",
            remedy="pass the shards of one model",
        )


def _merged_info(name: str, parts: list[Info]) -> Info:
    dimension = split_dimension(name)
    shape = list(parts[0].shape)
    if dimension is not None and dimension < len(shape):
        shape[dimension] *= len(parts)
    dtype = parts[0].dtype if len({part.dtype for part in parts}) == 1 else None
    return Info(tuple(shape), dtype)


def _merge(name: str, parts: list[Tensor]) -> Tensor:
    dimension = split_dimension(name)
    if len(parts) == 1 or dimension is None:
        return parts[0].clone(memory_format=torch.contiguous_format)
    return torch.cat(parts, dimension)
