"""Text conditioning: the rows that a model attends to, from a file or from a local T5 encoder.

As published for Cosmos video2world: 512 rows of the T5 encoder's last hidden state, with zeros
after the end of the text. The model attends to all 512. Nothing is ever downloaded.

`python -m worldbridge.models.conditioning.text --t5 FOLDER --out FILE.safetensors TEXT` writes such
a file on a machine that has the memory for the encoder.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worldbridge.models.checkpoint import check_weights_file
from worldbridge.models.errors import TextError

__all__ = ["ROWS", "Prompt", "embed_text", "load_embeddings", "prompt_context"]

ROWS = 512  # of the published models: longer texts are cut, shorter ones get zero rows
_NAME, _MASK = "embeddings", "mask"  # in files with more than one tensor
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SUFFIXES = ".safetensors, .npy, .pt or .pth"
# what the library raises for files that are missing, damaged, or need another package
_LOADING_ERRORS = (
    OSError,
    ValueError,
    ImportError,
    RuntimeError,
    KeyError,
    TypeError,
    SafetensorError,
)
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A file of embeddings, or a text and the folder of the encoder that embeds it."""

    embeddings: Path | None = None
    text: str | None = None
    t5: Path | None = None


def prompt_context(prompt: Prompt, context_dim: int) -> Tensor:
    """Return the rows of a prompt, float32 [512, context_dim]. Raises TextError."""
    if prompt.embeddings is not None:
        if prompt.text is not None or prompt.t5 is not None:
            raise TextError(
                "two prompts",
                expected="a file of embeddings, or a text and a T5 folder",
                got="both",
                remedy="leave one of them out",
            )
        return load_embeddings(prompt.embeddings, context_dim)
    if prompt.text is None or prompt.t5 is None:
        raise TextError(
            "half a prompt",
            expected="a text and the folder of a T5 encoder",
            got="a text alone" if prompt.t5 is None else "a folder alone",
            remedy="give both, or a file of embeddings",
        )
    return embed_text(prompt.text, prompt.t5, context_dim)


# -- files ----------------------------------------------------------------------------------------


def load_embeddings(path: Path, context_dim: int) -> Tensor:
    """Read the rows of a file, float32 [512, context_dim]. Raises TextError.

    The file has one tensor, or one called `embeddings` and optionally a `mask` [n] whose zeros mark
    rows that do not count. Its shape is [n, context_dim] or [1, n, context_dim], n at most 512.
    Types and shapes are verified before values are read.
    """
    check_weights_file(path, TextError)
    read = {".safetensors": _safetensors, ".npy": _numpy, ".pt": _torch, ".pth": _torch}
    if path.suffix not in read:
        raise _wrong(path, f"a file {_SUFFIXES}", f"{path.suffix or 'no suffix'!r}")
    found = read[path.suffix](path, context_dim)
    return _padded(path, found[_NAME], found.get(_MASK), context_dim)


def _safetensors(path: Path, context_dim: int) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = _chosen(path, list(file.keys()))
            for role, name in names.items():
                part = file.get_slice(name)
                if role == _NAME:
                    _check_shape(path, tuple(part.get_shape()), context_dim)
                    _check_type(path, part.get_dtype(), part.get_dtype() in _SAFE_FLOATS)
            return {role: file.get_tensor(name) for role, name in names.items()}
    except SafetensorError as error:
        raise _wrong(path, "a whole safetensors file", _first_line(error)) from error


_SAFE_FLOATS = ("F16", "BF16", "F32", "F64")


def _numpy(path: Path, context_dim: int) -> dict[str, Tensor]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _wrong(path, "an array as numpy.save writes it", _first_line(error)) from error
    _check_shape(path, array.shape, context_dim)
    _check_type(path, str(array.dtype), array.dtype in (np.float16, np.float32, np.float64))
    return {_NAME: torch.from_numpy(np.array(array, dtype=np.float32))}


def _torch(path: Path, context_dim: int) -> dict[str, Tensor]:
    try:
        data = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        got = _first_line(error)
        raise _wrong(path, "tensors as torch.save writes them, no objects", got) from error
    if isinstance(data, Tensor):
        data = {_NAME: data}
    if not isinstance(data, dict):
        raise _wrong(path, "a tensor, or tensors by name", f"a {type(data).__name__}")
    tensors = {str(name): value for name, value in data.items() if isinstance(value, Tensor)}
    found = {role: tensors[name] for role, name in _chosen(path, list(tensors)).items()}
    _check_shape(path, tuple(found[_NAME].shape), context_dim)
    _check_type(path, str(found[_NAME].dtype), found[_NAME].dtype in _FLOATS)
    return found


def _chosen(path: Path, names: list[str]) -> dict[str, str]:
    """Return the names of the embeddings and of their mask."""
    if len(names) == 1:
        return {_NAME: names[0]}
    if _NAME in names:
        return {role: role for role in (_NAME, _MASK) if role in names}
    got = ", ".join(map(repr, sorted(names)[:10])) or "none"
    raise _wrong(path, f"one tensor, or one called {_NAME!r}", f"{len(names)} tensors: {got}")


def _check_shape(path: Path, shape: tuple[int, ...], context_dim: int) -> None:
    rows = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(rows) != 2 or rows[1] != context_dim or not 1 <= rows[0] <= ROWS:
        raise _wrong(
            path, f"shape [1 to {ROWS}, {context_dim}], as the world has it", f"{list(shape)}"
        )


def _check_type(path: Path, dtype: str, known: bool) -> None:
    if not known:
        raise _wrong(path, "float16, bfloat16, float32 or float64 values", dtype)


def _padded(path: Path, rows: Tensor, mask: Tensor | None, context_dim: int) -> Tensor:
    rows = rows.reshape(-1, context_dim)
    wrong = int((~rows.isfinite()).sum())
    if wrong:
        raise _wrong(path, "finite values", f"{wrong} of {rows.numel()} that are not")
    result = torch.zeros(ROWS, context_dim)
    result[: len(rows)] = rows.float()
    if mask is not None:
        if mask.numel() != len(rows):
            raise _wrong(path, f"a mask of {len(rows)} values", f"shape {list(mask.shape)}")
        result[: len(rows)] *= (mask.flatten() != 0).float()[:, None]
    if not bool(result.any()):
        raise _wrong(path, "rows that are not all zero", f"{len(rows)} rows of zeros")
    return result


def _wrong(path: Path, expected: str, got: str) -> TextError:
    return TextError(
        f"{path} holds no embeddings for this world",
        expected=expected,
        got=got,
        remedy="write it with `python -m worldbridge.models.conditioning.text`, "
        "or see docs/conditioning.md",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


# -- T5 -------------------------------------------------------------------------------------------


def embed_text(text: str, folder: Path, context_dim: int | None = None) -> Tensor:
    """Embed a text with the T5 encoder in `folder`: float32 [512, its width]. Raises TextError.

    Only the text's own tokens are computed: what follows would be masked and set to zero.
    """
    if not text.strip():
        raise TextError("empty prompt", expected="a text", got=repr(text), remedy="write one")
    _check_folder(folder, context_dim)
    library = _transformers()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        encoder = library.T5EncoderModel.from_pretrained(str(folder), local_files_only=True)
    except _LOADING_ERRORS as error:
        raise TextError(
            f"the T5 encoder in {folder} cannot be loaded",
            expected="its weights and its tokenizer (tokenizer.json, or spiece.model with the "
            "package sentencepiece)",
            got=f"{type(error).__name__}: {_first_line(error)}",
            remedy="complete the folder; nothing is downloaded",
        ) from error
    tokens = tokenizer(text, truncation=True, max_length=ROWS, return_tensors="pt")
    with torch.inference_mode():
        hidden: Tensor = encoder.eval()(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state[0]
    result = torch.zeros(ROWS, hidden.shape[-1])
    result[: len(hidden)] = hidden.float()
    if not bool(result.isfinite().all()):
        raise TextError(
            f"the T5 encoder in {folder} makes values that are not finite",
            expected="finite values",
            got=f"{int((~result.isfinite()).sum())} of {result.numel()} that are not",
            remedy="T5 overflows in float16: take weights in float32 or bfloat16",
        )
    return result


def _check_folder(folder: Path, context_dim: int | None) -> None:
    """Check the encoder before gigabytes are read, and before a name is looked up on a hub."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise TextError(
            f"{folder} is no T5 encoder",
            expected="a local folder with config.json, the weights and the tokenizer",
            got=_first_line(error),
            remedy="pass the folder of a T5 that is on this machine; nothing is downloaded",
        ) from error
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".bin", ".model"):
            check_weights_file(path, TextError)
    kind, width = (
        config.get(key) if isinstance(config, Mapping) else None
        for key in ("model_type", "d_model")
    )
    if kind != "t5" or (context_dim is not None and width != context_dim):
        wanted = "" if context_dim is None else f" {context_dim} wide"
        raise TextError(
            f"{folder} is not the encoder that this world was trained with",
            expected=f"model_type 't5'{wanted}",
            got=f"model_type {kind!r}, d_model {width!r}",
            remedy="the published models take T5-11B, which is 1024 wide",
        )


def _transformers() -> Any:
    """Import the optional package; the environment keeps it off the network."""
    os.environ.update(dict.fromkeys(_OFFLINE, "1"), TOKENIZERS_PARALLELISM="false")
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise TextError(
            "the T5 encoder needs a package that is not there",
            expected="the package transformers (and sentencepiece for a spiece.model)",
            got=str(error),
            remedy="pip install 'worldbridge[text]', or pass a file of embeddings instead",
        ) from error


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worldbridge.models.conditioning.text",
        description="Embed a text with a local T5 encoder, for serve --prompt-embeddings.",
    )
    parser.add_argument("text", help="the prompt")
    parser.add_argument("--t5", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    chosen = parser.parse_args(arguments)
    try:
        rows = embed_text(chosen.text, chosen.t5)
    except TextError as error:
        print(f"worldbridge.models.conditioning.text: {error}", file=sys.stderr)
        return 2
    save_file({_NAME: rows}, chosen.out, {"text": chosen.text})
    used = int(rows.any(-1).sum())
    print(f"{chosen.out}: {used} of {ROWS} rows, {rows.shape[-1]} wide")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
