"""Read weight files that others wrote, as data: nothing in them is ever executed.

A PyTorch file, TorchScript or not, is a zip archive: a pickle that describes the tensors, and one
record per storage. `_Unpickler` reads the pickle without calling anything that it names. Tensors
are views of a read-only mapping of the file, so opening one costs no memory, and a file may be
larger than the machine's memory. What is read counts as memory of this process until the last
tensor of that opening is dropped.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldbridge.models.checkpoint import check_weights_file
from worldbridge.models.errors import ConvertError

__all__ = ["FLOATS", "Info", "contents", "read"]

FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

_PREFIX = "model."
# The action embedder of both published training codes (cosmos-predict1, and NeMo's action control)
# is a sequence in which the activation stands between the two linear layers.
_RENAMED = {
    f"{name}.{place}.": f"condition.{layer}."
    for name in ("action_embedding_layers", "action_mlp")
    for place, layer in ((0, "fc1"), (2, "fc2"))
}
_IGNORED = "_extra_state"  # what the training library kept beside its weights
_ZIP_MAGIC = b"PK\x03\x04"
_AGAIN = "download or copy the file again and compare its checksum with the published one"
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's record: ends with the lengths of two fields
_MAX_PICKLE = 16 << 20  # bytes; that of a 13B model has 0.1 MB
_MAX_ATTRIBUTES, _MAX_NAME = 100_000, 1_000  # the published tokenizers have 3,000 and 60
_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
# What reading a pickle that is damaged, or made to do harm, can raise.
_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class Info:
    """A tensor's shape and type, known without reading it. `dtype` is None unless in FLOATS."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * (0 if self.dtype is None else self.dtype.itemsize)


def contents(path: Path) -> dict[str, Info]:
    """Return shape and type of a file's tensors by name, without the published prefix.

    Raises ConvertError for what is no file of tensors.
    """
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            found = {}
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                part = file.get_slice(name)
                found[name] = Info(tuple(part.get_shape()), FLOATS.get(part.get_dtype()))
        return _published_names(path, found)
    return {
        name: Info(stored.shape, stored.dtype if stored.dtype in FLOATS.values() else None)
        for name, stored in _load(path).items()
    }


def read(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors of `names` that the file has; they keep the file open."""
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            keys = _published_names(path, {name: name for name in file.keys()})  # noqa: SIM118
            return {name: file.get_tensor(keys[name]) for name in names if name in keys}
    described = _load(path)
    try:
        records = _Records(path)
        return {name: records.view(described[name]) for name in names if name in described}
    except (ValueError, OSError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
        raise ConvertError(
            f"{path} cannot be read",
            expected="each tensor in one piece, as torch.save writes it",
            got=_first_line(error),
            remedy=_AGAIN,
        ) from error


# -- PyTorch files --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor as its file describes it: a view of the storage in the record `data/KEY`."""

    key: str
    numel: int  # of the storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def check(self) -> None:
        """Raise ValueError or TypeError unless the tensor lies within its storage."""
        numbers = (self.numel, self.offset, *self.shape, *self.stride)
        if any(type(n) is not int or not 0 <= n < 1 << 62 for n in numbers):
            raise ValueError("sizes that no tensor has")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        known = type(self.key) is str and isinstance(self.dtype, torch.dtype)
        if not known or (0 not in self.shape and last >= self.numel):
            raise ValueError("a tensor that its storage does not hold")


class _Inert:
    """An object of a class that is not known: its state is kept, and nothing is called."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Rebuild:
    """What a file calls to make a tensor or a parameter; without attributes that it could set."""

    __slots__ = ()

    def __call__(self, first: Any, *rest: Any) -> Any:
        if isinstance(first, _Stored):  # of a parameter
            return first
        (key, numel, dtype), (offset, shape, stride) = first, rest[:3]
        return _Stored(key, numel, dtype, offset, tuple(shape), tuple(stride))


# The unpickler in Python: unlike the one in C, it allocates no more than the file has.
_Base: Any = pickle._Unpickler
# Of buffers whose size a file may invent, and of classes by numbers.
_REFUSED = b"".join((pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4))


class _Unpickler(_Base):  # type: ignore[misc]
    """Unpickle tensors as `_Stored` and every other object as `_Inert`."""

    dispatch = {op: load for op, load in _Base.dispatch.items() if op not in _REFUSED}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return _Rebuild()
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return type(name, (_Inert,), {"__module__": module})

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, numel = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage of an unknown type")
        return key, numel, dtype


def _load(path: Path) -> dict[str, _Stored]:
    """Return the tensors of a PyTorch file by their published names."""
    check_weights_file(path, ConvertError)
    try:
        data = _describe(path)
        state = data.get("model", data) if isinstance(data, dict) else data
        if isinstance(state, _Inert):
            state = _attributes(state)
        for value in state.values() if isinstance(state, dict) else ():
            if isinstance(value, _Stored):
                value.check()
    except _ERRORS as error:
        raise _unreadable(path, error) from error
    if state is None:
        raise _foreign(path, "other objects (they have not been loaded)")
    if not isinstance(state, dict):
        raise _foreign(path, f"a {type(state).__name__}")
    if not all(isinstance(name, str) for name in state):
        raise _foreign(path, "things that have no names")
    kept = {name: value for name, value in state.items() if _IGNORED not in name}
    for name, value in kept.items():
        if not isinstance(value, _Stored):
            raise _foreign(path, f"{name[:60]!r} with a {type(value).__name__[:60]}")
    if not kept:
        raise _foreign(path, "nothing")
    return _published_names(path, kept)


def _describe(path: Path) -> Any:
    """Return what was saved, with `_Stored` for each tensor."""
    with zipfile.ZipFile(path) as archive:
        top = {r.filename.partition("/")[2]: r for r in archive.infolist()}
        for name, limit in (("data.pkl", _MAX_PICKLE), ("byteorder", len("little"))):
            record = top.get(name)
            if record and (record.compress_type != zipfile.ZIP_STORED or record.file_size > limit):
                raise ValueError(f"a record {name} that is compressed or too large")
        if "byteorder" in top and archive.read(top["byteorder"]) != b"little":
            raise ValueError("tensors of a big-endian machine")
        return _Unpickler(io.BytesIO(archive.read(top["data.pkl"]))).load()


def _attributes(module: _Inert) -> dict[str, _Stored] | None:
    """Return the tensors of a TorchScript module and of those in it; None if there are none."""
    found: dict[str, _Stored] = {}
    waiting, count = [("", module)], 0
    while waiting:
        prefix, node = waiting.pop()
        for name, value in node.state.items() if isinstance(node.state, dict) else ():
            count += 1
            # modules may contain themselves, or each other many times over
            if count > _MAX_ATTRIBUTES or len(prefix) > _MAX_NAME or not isinstance(name, str):
                raise ValueError("attributes that no module has")
            if isinstance(value, _Stored):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, _Inert):
                waiting.append((f"{prefix}{name}.", value))
    return found or None


class _Records:
    """The uncompressed records of a zip archive, mapped for reading."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._places: dict[str, tuple[int, int]] = {}  # where a storage begins, and its bytes
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                folder, _, key = record.filename.partition("/data/")
                if record.compress_type == zipfile.ZIP_STORED and "/" not in folder + key:
                    name, extra = _LOCAL_HEADER.unpack_from(self._memory, record.header_offset)
                    begin = record.header_offset + _LOCAL_HEADER.size + name + extra
                    if begin + record.file_size <= len(self._memory):
                        self._places[key] = (begin, record.file_size)

    def view(self, stored: _Stored) -> Tensor:
        """Return the tensor. Raises ValueError unless its record is there in full."""
        size = stored.numel * stored.dtype.itemsize
        begin, found = self._places.get(stored.key, (0, -1))
        if found != size:
            raise ValueError(f"no uncompressed record {stored.key!r} of {size} bytes")
        if size == 0:
            return torch.empty(stored.shape, dtype=stored.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            flat = torch.frombuffer(self._memory, dtype=torch.uint8, count=size, offset=begin)
        return flat.view(stored.dtype).as_strided(stored.shape, stored.stride, stored.offset)


# -- names and errors -----------------------------------------------------------------------------


def _published_names(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    kept = {_our_name(name): value for name, value in found.items() if _IGNORED not in name}
    if len(kept) < sum(_IGNORED not in name for name in found):
        raise ConvertError(
            f"{path} names tensors twice",
            expected=f"each name either with the prefix {_PREFIX!r} or without it",
            got="some with both",
            remedy="pass the file as it was published",
        )
    return kept


def _our_name(name: str) -> str:
    name = name.removeprefix(_PREFIX)
    for theirs, ours in _RENAMED.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _open_safetensors(path: Path) -> Any:  # the package has no type annotations
    check_weights_file(path, ConvertError)
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ConvertError(
            f"{path} cannot be read",
            expected="a whole safetensors file",
            got=f"{path.stat().st_size:,} bytes: {_first_line(error)}",
            remedy=_AGAIN,
        ) from error


def _unreadable(path: Path, error: BaseException) -> ConvertError:
    size = f"{path.stat().st_size:,} bytes"
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    try:
        is_whole = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        is_whole = False
    if is_zip and not is_whole:
        return ConvertError(
            f"{path} is damaged",
            expected="a whole PyTorch file",
            got=f"{size} that end before the file's index",
            remedy=_AGAIN,
        )
    reason = f": {_first_line(error)}" if is_zip else ""
    return _foreign(path, f"a file of {size} in another format{reason}")


def _foreign(path: Path, got: str) -> ConvertError:
    return ConvertError(
        f"{path} is not a checkpoint",
        expected="tensors by name, in a PyTorch file (as of torch.save) or a safetensors file",
        got=got,
        remedy="pass the published model.pt, its folder, or a tokenizer's files with --tokenizer",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
