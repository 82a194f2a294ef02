"""Open the video tokenizer of a checkpoint: published TorchScript, a state dict, or ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldbridge.models.convert import files
from worldbridge.models.convert.checkpoint import compare
from worldbridge.models.convert.detect import read_config, shapes_of
from worldbridge.models.convert.files import Info
from worldbridge.models.convert.reference import TOKENIZER_KEYS, reference_tokenizer_config
from worldbridge.models.errors import ConvertError
from worldbridge.models.tokenizer import (
    DV4X8X8,
    DV8X8X8,
    DV8X16X16,
    TokenizerConfig,
    VideoTokenizer,
)

__all__ = ["TokenizerSource", "open_tokenizer"]

_PUBLISHED = {"DV8x16x16": DV8X16X16, "DV8x8x8": DV8X8X8, "DV4x8x8": DV4X8X8}
# Constants in the state of the published modules; ours computes them.
_CONSTANTS = ("wavelets", "_arange", "patch_size_buffer", "_levels", "_basis", "implicit_codebook")
_LAYOUTS = (
    ("encoder.jit", "decoder.jit"),
    ("autoencoder.pt",),
    ("autoencoder.jit",),
    ("tokenizer.safetensors",),
)
_WRONG = "wrong tokenizer for the model"
_REMEDY = "pass the tokenizer that the model was trained with: --tokenizer DIR"


@dataclass(frozen=True, slots=True)
class TokenizerSource:
    """The verified weights of a tokenizer; they are held in memory, 0.2 GB."""

    config: TokenizerConfig
    state: dict[str, Tensor]


def open_tokenizer(
    tokenizer: Path | None, beside: Path, vocabulary: int, config: TokenizerConfig | None = None
) -> TokenizerSource:
    """Read and verify the tokenizer of a model with a codebook of `vocabulary` codes.

    Args:
        tokenizer: one of its files, or their folder; None searches `beside` and a folder
            "tokenizer" there.
        config: that it must have; None: detected.

    Raises:
        ConvertError: there is none, or it is not the model's.
    """
    paths = _find(tokenizer, beside)
    state: dict[str, Tensor] = {}
    for path in paths:
        state |= files.read(path, list(files.contents(path)))
    levels = _levels(state)
    state = {name: v for name, v in state.items() if name.split(".")[-1] not in _CONSTANTS}
    if not any(name.startswith(("encoder.", "decoder.")) for name in state):
        raise _wrong(
            "the encoder and decoder of a discrete video tokenizer",
            f"{paths[0]} with {next(iter(state), 'no tensor')}",
        )
    infos = {
        name: Info(tuple(v.shape), v.dtype if v.dtype in files.FLOATS.values() else None)
        for name, v in state.items()
    }
    config = config or _config_beside(paths[0].parent) or _nearest(infos)
    _check_vocabulary(config, infos, levels, vocabulary)
    differences = compare(_shapes(config), infos)
    if differences is not None:
        raise ConvertError(
            "the tensors are not those of the tokenizer",
            expected=f"encoder and decoder with {config.temporal_compression}x"
            f"{config.spatial_compression}x{config.spatial_compression} compression",
            got=differences,
            remedy=f"one of {', '.join(_PUBLISHED)} is needed: its folder with encoder.jit and "
            "decoder.jit, or autoencoder.pt",
        )
    return TokenizerSource(config, {name: v.contiguous() for name, v in state.items()})


def _find(tokenizer: Path | None, beside: Path) -> tuple[Path, ...]:
    if tokenizer is not None and not tokenizer.is_dir():
        return _with_other_half(tokenizer)
    places = [tokenizer] if tokenizer is not None else [beside, beside / "tokenizer"]
    for place in places:
        for layout in _LAYOUTS:
            if all((place / name).is_file() for name in layout):
                return tuple(place / name for name in layout)
    raise ConvertError(
        "no tokenizer",
        expected=" or ".join(" and ".join(layout) for layout in _LAYOUTS),
        got=f"none of them in {' or '.join(map(str, places))}",
        remedy="pass the folder of the model's tokenizer with --tokenizer DIR",
    )


def _with_other_half(path: Path) -> tuple[Path, ...]:
    halves = _LAYOUTS[0]
    return tuple(path.with_name(name) for name in halves) if path.name in halves else (path,)


def _levels(state: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """Return the quantizer's levels if the file has them."""
    for name, value in state.items():
        if name.split(".")[-1] == "_levels":
            return tuple(int(level) for level in value.flatten())
    return None


def _config_beside(folder: Path) -> TokenizerConfig | None:
    data = read_config(folder, TOKENIZER_KEYS)
    if data is None:
        return None
    try:
        return reference_tokenizer_config(data)
    except (TypeError, ValueError) as error:
        raise ConvertError(
            f"{folder / 'config.json'} is not a tokenizer's config",
            expected="values that fit together",
            got=str(error),
            remedy="correct it, or remove it for one of the published tokenizers",
        ) from error


def _nearest(infos: Mapping[str, Info]) -> TokenizerConfig:
    """Return the published tokenizer from which these tensors differ least."""

    def differences(config: TokenizerConfig) -> int:
        found = {(name, info.shape) for name, info in infos.items()}
        return len(found ^ set(_shapes(config).items()))

    return min(_PUBLISHED.values(), key=differences)


def _shapes(config: TokenizerConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes_of(VideoTokenizer(config))


def _check_vocabulary(
    config: TokenizerConfig,
    infos: Mapping[str, Info],
    levels: tuple[int, ...] | None,
    vocabulary: int,
) -> None:
    """Raise ConvertError for codes or patches of another size: the tokenizer was mixed up."""
    if config.vocabulary != vocabulary:
        raise _wrong(f"{vocabulary} codes, as the model has", f"{config.vocabulary}")
    if levels is not None and levels != config.levels:
        raise _wrong(f"levels {config.levels}", f"{levels}, {math.prod(levels)} codes")
    for name, what, axis in (
        ("quant_conv.conv3d.weight", "channels of a code", 0),
        ("encoder.conv_in.0.conv3d.weight", "channels of a patch", 1),
    ):
        expected = _shapes(config).get(name)
        if expected is None or name not in infos or len(infos[name].shape) <= axis:
            continue
        if infos[name].shape[axis] != expected[axis]:
            raise _wrong(f"{expected[axis]} {what}", f"{infos[name].shape[axis]}")


def _wrong(expected: str, got: str) -> ConvertError:
    return ConvertError(_WRONG, expected=expected, got=got, remedy=_REMEDY)
