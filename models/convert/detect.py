"""Which model a checkpoint is, told by its names and shapes or by a config beside it."""

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
from worldbridge.models.convert.reference import reference_config
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
# All that a reference model's config.json says; what lacks one of them is another kind of config,
# such as those that lie beside the published weights, and is not read.
_OF_CONFIG = (
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "head_dim",
    "ffn_hidden_size",
    "vocab_size",
    "input_vocab_rows",
    "video_latent_shape",
    "norm_eps",
    "rope_theta",
    "apply_abs_pos_emb",
    "context_dim",
    "begin_of_video_token",
    "yarn",
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint turned out to be."""

    name: str
    title: str
    config: TransformerConfig
    actions: Any = (
        None  # what the numbers of its action vector are, see `models/conditioning/actions.py`
    )


def detect(
    infos: Mapping[str, Info], folder: Path, size: str | None, n_layers: int | None
) -> Identity:
    """The model with these tensors; `folder` may hold a config.json. Raises ConvertError."""
    if size is not None:
        found = _published(size)
        found = dataclasses.replace(found, config=_conditioned(found.config, infos))
    else:
        found = _from_config(folder) or _from_shapes(infos)
    if n_layers is None:
        return found
    return dataclasses.replace(found, config=dataclasses.replace(found.config, n_layers=n_layers))


def verify(identity: Identity, infos: Mapping[str, Info]) -> None:
    """Raises ConvertError that names each missing, unexpected and misshapen tensor."""
    with torch.device("meta"):
        told = compare(shapes_of(VideoTransformer(identity.config)), infos)
    if told is not None:
        raise ConvertError(
            f"the tensors are not those of {identity.name}",
            expected=f"those of a model {identity.config.dim} wide with "
            f"{identity.config.n_layers} layers",
            got=told,
            remedy="pass the published file, all of its shards, or another --size",
        )


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def read_config(folder: Path, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """The config.json of a folder if it has these keys; the published ones look otherwise."""
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
    data = read_config(folder, _OF_CONFIG)
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
            remedy="correct it, or take it away for one of the published models",
        ) from error


def _from_shapes(infos: Mapping[str, Info]) -> Identity:
    """The published model of this width, with or without cross-attention."""
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
    """The same model trained on with actions or cameras, if it has weights for these."""
    first = infos.get("condition.fc1.weight")
    if config.context_dim is not None and first is not None and len(first.shape) == 2:
        config = dataclasses.replace(
            config, conditioning="cross_attention", condition_dim=first.shape[1]
        )
    if "camera_embedding.weight" in infos:
        config = dataclasses.replace(config, camera="pluecker")
    return config


def _width(infos: Mapping[str, Info]) -> int | None:
    """From a norm, which is the same in every shard; the others serve if one of them is missing."""
    endings = ("norm.weight", "attention_norm.weight", "ffn_norm.weight")
    for name, info in infos.items():
        if name == endings[0] or name.endswith(tuple("." + ending for ending in endings[1:])):
            return info.shape[0] if info.shape else None
    return None
