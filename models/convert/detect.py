"""Find out which model a checkpoint is, by its names and shapes or by a config beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldbridge.models.conditioning.actions import ActionLayout
from worldbridge.models.convert.checkpoint import compare
from worldbridge.models.convert.files import Info
from worldbridge.models.convert.reference import CONFIG_KEYS, reference_config
from worldbridge.models.errors import ConvertError
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.models.transformer.config import COSMOS

__all__ = ["SIZES", "Identity", "read_config", "detect", "shapes_of", "verify"]

SIZES = {
    "4b": "cosmos-4b",
    "5b": "cosmos-5b-video2world",
    "12b": "cosmos-12b",
    "13b": "cosmos-13b-video2world",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """The model of a checkpoint."""

    name: str
    title: str
    config: TransformerConfig
    actions: Any = None  # meaning of its action vector, see models/conditioning/actions.py


def detect(
    infos: Mapping[str, Info], folder: Path, size: str | None, n_layers: int | None
) -> Identity:
    """Return the model with these tensors; `folder` may hold a config.json.

    Raises ConvertError for an unknown size or model.
    """
    if size is not None:
        found = _published(size)
        found = dataclasses.replace(found, config=_conditioned(found.config, infos))
    else:
        found = _from_config(folder) or _from_shapes(infos)
    if n_layers is None:
        return found
    return dataclasses.replace(found, config=dataclasses.replace(found.config, n_layers=n_layers))


def verify(identity: Identity, infos: Mapping[str, Info]) -> None:
    """Raise ConvertError that names each missing, unexpected and misshapen tensor, if any."""
    with torch.device("meta"):
        differences = compare(shapes_of(VideoTransformer(identity.config)), infos)
    if differences is not None:
        raise ConvertError(
            f"the tensors are not those of {identity.name}",
            expected=f"those of a model {identity.config.dim} wide with "
            f"{identity.config.n_layers} layers",
            got=differences,
            remedy="pass the published file, all of its shards, or another --size",
        )


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a module's state by name."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def read_config(folder: Path, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """Return a folder's config.json if it has these keys; the published ones do not."""
    try:
        data = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and all(key in data for key in keys) else None


def _published(size: str) -> Identity:
    if size not in SIZES:
        raise ConvertError(
            "unknown size",
            expected=f"one of {', '.join(SIZES)}",
            got=repr(size),
            remedy="choose one of these",
        )
    return Identity(SIZES[size], f"Cosmos {size.upper()}", COSMOS[SIZES[size]])


def _from_config(folder: Path) -> Identity | None:
    data = read_config(folder, CONFIG_KEYS)
    if data is None:
        return None
    try:
        config = reference_config(data)
        if data.get("actions") is not None:
            ActionLayout.read(data["actions"], config.condition_dim)
        return Identity("cosmos", "Cosmos", config, data.get("actions"))
    except (KeyError, TypeError, ValueError) as error:
        raise ConvertError(
            f"{folder / 'config.json'} is not a model's config",
            expected="the fields of a reference model with values that fit together",
            got=f"{type(error).__name__}: {error}",
            remedy="correct it, or remove it for one of the published models",
        ) from error


def _from_shapes(infos: Mapping[str, Info]) -> Identity:
    """Return the published model of this width, with or without cross-attention."""
    width = _width(infos)
    text = any(".cross_attention." in name for name in infos)
    for size, name in SIZES.items():
        config = COSMOS[name]
        if (config.dim, config.context_dim is not None) == (width, text):
            found = _published(size)
            return dataclasses.replace(found, config=_conditioned(found.config, infos))
    widths = sorted({COSMOS[name].dim for name in SIZES.values()})
    raise ConvertError(
        "not one of the published models",
        expected=f"weights of a transformer {' or '.join(map(str, widths))} wide, "
        f"with names such as {'layers.0.attention.wq.weight'!r}",
        got=f"one {width} wide" if width else f"{len(infos)} tensors such as {next(iter(infos))!r}",
        remedy="pass a published model.pt, or put the config.json of your model beside it",
    )


def _conditioned(config: TransformerConfig, infos: Mapping[str, Info]) -> TransformerConfig:
    """Return the config with actions or cameras if there are weights for these."""
    first = infos.get("condition.fc1.weight")
    if config.context_dim is not None and first is not None and len(first.shape) == 2:
        config = dataclasses.replace(
            config, conditioning="cross_attention", condition_dim=first.shape[1]
        )
    if "camera_embedding.weight" in infos:
        config = dataclasses.replace(config, camera="pluecker")
    return config


def _width(infos: Mapping[str, Info]) -> int | None:
    """Return the width from a norm, which every shard has whole; any of them if one is missing."""
    endings = ("norm.weight", "attention_norm.weight", "ffn_norm.weight")
    for name, info in infos.items():
        if name == endings[0] or name.endswith(tuple("." + ending for ending in endings[1:])):
            return info.shape[0] if info.shape else None
    return None
