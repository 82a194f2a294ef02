"""Tensors of PyTorch files as views of the file: nothing is copied, nothing can be changed.

`torch.load(mmap=True)` maps a file privately and writable, which the kernel refuses for a file that
is larger than the machine's memory. Here the file's description is read without its tensors, and
these are views of a mapping that can only be read.
"""

from __future__ import annotations

import mmap
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["MappedFile", "describe"]

_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's record: ends with the lengths of two fields


def describe(path: Path) -> Any:
    """What `torch.save` was given, without code being run, its tensors without data ("meta").

    Raises what `torch.load` raises.
    """
    return torch.load(path, map_location="meta", weights_only=True)


class MappedFile:
    """A zip file of `torch.save`, whose records lie in it as they are in memory."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._sizes = _records(path, self._memory)

    def view(self, described: Tensor) -> Tensor:
        """The tensor that `describe` told of; holds the file open.

        Raises ValueError when it is not where the file says: a record of its size has to be there.
        """
        storage = described.untyped_storage()
        size, offset = storage.nbytes(), getattr(storage, "_checkpoint_offset", None)
        if offset is None or self._sizes.get(offset) != size:
            raise ValueError(f"no uncompressed record of {size} bytes begins at {offset}")
        if size == 0:
            return torch.empty(described.shape, dtype=described.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            flat = torch.frombuffer(self._memory, dtype=torch.uint8, count=size, offset=offset)
        return flat.view(described.dtype).as_strided(
            described.shape, described.stride(), described.storage_offset()
        )


def _records(path: Path, memory: mmap.mmap) -> dict[int, int]:
    """Where each uncompressed record's data begin, and its bytes."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.compress_type == zipfile.ZIP_STORED:
                name, extra = _LOCAL_HEADER.unpack_from(memory, record.header_offset)
                begin = record.header_offset + _LOCAL_HEADER.size + name + extra
                if begin + record.file_size <= len(memory):
                    found[begin] = record.file_size
    return found
