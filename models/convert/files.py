"""Weight files of others, opened one at a time and never trusted to run code.

PyTorch files are memory-mapped, so opening one costs no memory; what is read from it counts as
memory of this process until the last tensor of that opening is dropped.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worldbridge.models.convert.mapped import MappedFile, describe
from worldbridge.models.errors import ConvertError

__all__ = ["FLOATS", "Info", "contents", "read"]

FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

_PREFIX = "model."
# Both published training codes (cosmos-predict1, and NeMo's action control) have their action
# embedder in a sequence, between whose two linear layers stands the activation.
_RENAMED = {
    f"{name}.{place}.": f"condition.{layer}."
    for name in ("action_embedding_layers", "action_mlp")
    for place, layer in ((0, "fc1"), (2, "fc2"))
}
_IGNORED = "_extra_state"  # what the training library kept beside its weights
_ZIP_MAGIC = b"PK\x03\x04"  # how torch.save's files begin
_AGAIN = "download or copy the file again and compare its checksum with the published one"


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a tensor without reading it. `dtype` is None for what are no weights."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * (0 if self.dtype is None else self.dtype.itemsize)


def contents(path: Path) -> dict[str, Info]:
    """Names, without the published prefix, shapes and types of a file's tensors."""
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            found = {}
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                part = file.get_slice(name)
                found[name] = Info(tuple(part.get_shape()), FLOATS.get(part.get_dtype()))
        return _published_names(path, found)
    return {name: _info(value) for name, value in _load(path).items()}


def read(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Those of `names` that the file has; the tensors hold the file open."""
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            keys = _published_names(path, {name: name for name in file.keys()})  # noqa: SIM118
            return {name: file.get_tensor(keys[name]) for name in names if name in keys}
    state = _load(path)
    wanted = {name: state[name] for name in names if name in state}
    if path.suffix == ".jit":
        return wanted
    try:
        file = MappedFile(path)
        return {name: file.view(value) for name, value in wanted.items()}
    except (ValueError, OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise ConvertError(
            f"{path} cannot be read",
            expected="each tensor in one piece, as torch.save writes it",
            got=_first_line(error),
            remedy=_AGAIN,
        ) from error


def _info(value: Tensor) -> Info:
    return Info(tuple(value.shape), value.dtype if value.dtype in FLOATS.values() else None)


def _load(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file by their published names, without data but for scripts."""
    _check_file(path)
    if path.suffix == ".jit":
        return _published_names(path, _load_script(path))
    if not zipfile.is_zipfile(path):
        raise _unreadable(path, ValueError("no zip file"))
    try:
        data = describe(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error
    state = data.get("model", data) if isinstance(data, dict) else data
    if not isinstance(state, dict):
        raise _foreign(path, f"a {type(state).__name__}")
    kept = {name: value for name, value in state.items() if _IGNORED not in str(name)}
    for name, value in kept.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _foreign(path, f"{str(name)[:60]!r} with a {type(value).__name__}")
    if not kept:
        raise _foreign(path, "nothing")
    return _published_names(path, kept)


def _load_script(path: Path) -> dict[str, Tensor]:
    try:
        module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error
    state: dict[str, Tensor] = module.state_dict()
    return state


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


# Anything but a context manager is of no interest, and safetensors carries no annotations.
def _open_safetensors(path: Path) -> Any:
    _check_file(path)
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ConvertError(
            f"{path} cannot be read",
            expected="a whole safetensors file",
            got=f"{_size(path)} that say: {_first_line(error)}",
            remedy=_AGAIN,
        ) from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ConvertError(
            f"there is no file {path}",
            expected="a file with weights",
            got="a folder" if path.is_dir() else "no such file",
            remedy="check the path",
        )


def _unreadable(path: Path, error: Exception) -> ConvertError:
    with path.open("rb") as file:
        begins_well = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    if isinstance(error, pickle.UnpicklingError) and begins_well:
        # the whole file is there, and holds objects whose loading would run their code
        return _foreign(path, "other objects (they have not been loaded)")
    if begins_well and not zipfile.is_zipfile(path):
        return ConvertError(
            f"{path} is damaged",
            expected="a whole PyTorch file",
            got=f"{_size(path)} that end before the file's index",
            remedy=_AGAIN,
        )
    return _foreign(path, f"a file of {_size(path)} in another format")


def _foreign(path: Path, got: str) -> ConvertError:
    return ConvertError(
        f"{path} is not a checkpoint",
        expected="tensors by name, in a PyTorch file (as of torch.save) or a safetensors file",
        got=got,
        remedy="pass the published model.pt, its folder, or a tokenizer's files with --tokenizer",
    )


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
