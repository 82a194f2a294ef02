"""Compare our networks with reference outputs.

`python -m worldbridge.models.convert.reference [--dtype bfloat16] DIR...`

A transformer's folder holds `config.json`, `model.pt` (published key names) and `io.npz` (tokens,
logits and, with cross-attention, context). A tokenizer's holds `autoencoder.pt`, and in `io.npz` a
video, its indices and codes, and other indices with the video they decode to.
Prints the worst relative error of each check; exits with 1 outside a tolerance. The references are
float32; with another type the errors are printed without a verdict.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.tokenizer import TokenizerConfig, VideoTokenizer
from worldbridge.models.transformer import KVCache, TransformerConfig, VideoTransformer, Yarn

__all__ = [
    "CONFIG_KEYS",
    "TOKENIZER_KEYS",
    "TOLERANCE",
    "TokenizerErrors",
    "TransformerErrors",
    "check_tokenizer",
    "check_transformer",
    "load_reference",
    "load_tokenizer_reference",
    "reference_config",
    "reference_tokenizer_config",
]

TOLERANCE = 1e-4  # of the largest logit, or of the largest value of a video, float32
EQUAL_INDICES = 0.99  # at least this share; a value at a rounding border may flip
CODE_STEPS = 1  # largest difference of a code, in levels

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# The fields of a reference model's config.json. A file that lacks one of them is of another kind,
# such as those beside the published weights, and is not read.
CONFIG_KEYS = (
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
# Fields of a reference tokenizer's config.json that say which tokenizer it is.
TOKENIZER_KEYS = (
    "channels",
    "channels_mult",
    "num_res_blocks",
    "patch_size",
    "z_channels",
    "spatial_compression",
    "temporal_compression",
    "embedding_dim",
    "levels",
)
# What else it may say, with the only values that our tokenizer has.
_TOKENIZER_CONSTANTS = {"patch_method": "haar", "num_groups": 1, "z_factor": 1}


def reference_config(data: dict[str, Any]) -> TransformerConfig:
    """Read the config of a reference model from its `config.json`."""
    yarn = data["yarn"]
    return TransformerConfig(
        **{key: data[key] for key in CONFIG_KEYS if key not in ("video_latent_shape", "yarn")},
        latent_shape=tuple(data["video_latent_shape"]),
        yarn=None
        if yarn is None
        else Yarn(
            yarn["scale"],
            yarn["beta_fast"],
            yarn["beta_slow"],
            tuple(yarn["original_latent_shape"]),
        ),
        **{key: data[key] for key in ("conditioning", "condition_dim", "camera") if key in data},
    )


def reference_tokenizer_config(data: Mapping[str, Any]) -> TokenizerConfig:
    """Read the config of a reference tokenizer. Raises ValueError for what ours cannot be.

    The decoder has one block more per level than the encoder, as published.
    """
    for key, value in _TOKENIZER_CONSTANTS.items():
        if data.get(key, value) != value:
            raise ValueError(f"{key}: expected {value!r}, got {data[key]!r}")
    depth, blocks = len(data["channels_mult"]), data["num_res_blocks"]
    return TokenizerConfig(
        channels=data["channels"],
        channel_multipliers=data["channels_mult"],
        encoder_res_blocks=(blocks,) * depth,
        decoder_res_blocks=(blocks + 1,) * depth,
        patch_size=data["patch_size"],
        spatial_compression=data["spatial_compression"],
        temporal_compression=data["temporal_compression"],
        z_channels=data["z_channels"],
        embedding_dim=data["embedding_dim"],
        levels=data["levels"],
    )


def load_reference(folder: Path) -> tuple[VideoTransformer, dict[str, Tensor]]:
    """Load the model in float32 and the tensors of `io.npz`."""
    config = json.loads((folder / "config.json").read_text())
    model = VideoTransformer(reference_config(config))
    state = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
    prefix = config["checkpoint_prefix"]
    model.load_state_dict(
        {
            name.removeprefix(prefix): value.float()
            for name, value in state["model"].items()
            if "_extra_state" not in name
        }
    )
    return model.eval(), _tensors(folder)


def load_tokenizer_reference(folder: Path) -> tuple[VideoTokenizer, dict[str, Tensor]]:
    """Load the tokenizer in float32 and the tensors of `io.npz`."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = VideoTokenizer(reference_tokenizer_config(config))
    state = torch.load(folder / "autoencoder.pt", map_location="cpu", weights_only=True)
    tokenizer.load_state_dict({name: value.float() for name, value in state.items()})
    return tokenizer.eval(), _tensors(folder)


def _tensors(folder: Path) -> dict[str, Tensor]:
    with np.load(folder / "io.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@dataclass(frozen=True, slots=True)
class TransformerErrors:
    """Worst differences of a logit, relative to the largest one."""

    prefill: float
    stepped: float
    root_mean_square: float  # of the prefill, relative to the logits' own
    same_choice: float  # share of the positions whose likeliest token is the reference's

    @property
    def tolerable(self) -> bool:
        return max(self.prefill, self.stepped) <= TOLERANCE

    def __str__(self) -> str:
        return (
            f"prefill {self.prefill:.2e}, cached decode {self.stepped:.2e} of the largest logit; "
            f"root mean square {self.root_mean_square:.2e}, likeliest token the same at "
            f"{self.same_choice:.1%}"
        )


@torch.inference_mode()
def check_transformer(folder: Path, dtype: torch.dtype = torch.float32) -> TransformerErrors:
    """Compare the model, with weights and arithmetic in `dtype`, with logits in float32."""
    model, tensors = load_reference(folder)
    model.to(dtype)
    tokens, reference = tensors["tokens"].long()[None], tensors["logits"]
    context = None
    if "context" in tensors:
        context = model.context_keys_values(tensors["context"].to(dtype)[None])
    whole = model(tokens, context=context)[0].float()
    half = tokens.shape[1] // 2
    cache = KVCache.allocate(model.config, 1, tokens.shape[1], model.norm.weight)
    steps = [tokens[:, :half], *tokens[:, half:].split(1, dim=1)]
    stepped = torch.cat([model(step, cache, context) for step in steps], dim=1)[0].float()
    scale = reference.abs().max()
    prefill, later = (float((x - reference).abs().max() / scale) for x in (whole, stepped))
    spread = (whole - reference).square().mean().sqrt() / reference.square().mean().sqrt()
    same = (whole.argmax(-1) == reference.argmax(-1)).float().mean()
    return TransformerErrors(prefill, later, float(spread), float(same))


@dataclass(frozen=True, slots=True)
class TokenizerErrors:
    """Differences of a tokenizer from its reference."""

    different_indices: float  # share of the positions
    code_steps: float  # largest difference of a code, in levels
    decoded: float  # largest difference of a pixel, relative to the largest value

    @property
    def tolerable(self) -> bool:
        return (
            self.different_indices <= 1 - EQUAL_INDICES
            and self.code_steps <= CODE_STEPS + TOLERANCE
            and self.decoded <= TOLERANCE
        )

    def __str__(self) -> str:
        return (
            f"encode {self.different_indices:.2e} of the indices differ, codes by at most "
            f"{self.code_steps:.2g} levels, decode {self.decoded:.2e} of the largest value"
        )


@torch.inference_mode()
def check_tokenizer(folder: Path, dtype: torch.dtype = torch.float32) -> TokenizerErrors:
    """Encode and decode whole videos, with weights and arithmetic in `dtype`."""
    tokenizer, tensors = load_tokenizer_reference(folder)
    tokenizer.to(dtype)
    video, reference = tensors["video"].to(dtype)[None], tensors["decoded_video"]
    indices = tokenizer.encode(video)[0]
    per_unit = torch.tensor(tokenizer.config.levels) // 2  # levels between the codes 0 and 1
    steps = (tokenizer.encode_codes(video)[0].float() - tensors["encoded_codes"]).abs()
    decoded = tokenizer.decode(tensors["decode_indices"].long()[None])[0].float()
    return TokenizerErrors(
        float((indices != tensors["encoded_indices"]).float().mean()),
        float((steps * per_unit.view(-1, 1, 1, 1)).max()),
        float((decoded - reference).abs().max() / reference.abs().max()),
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worldbridge.models.convert.reference",
        description="Compare our networks with reference outputs.",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="of a reference")
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        default="float32",
        help="type of weights and arithmetic; with any but float32 there is no verdict",
    )
    chosen = parser.parse_args(arguments)
    # a list: every folder is reported, also after one outside the tolerance
    within = [_report(folder, _DTYPES[chosen.dtype]) for folder in chosen.folders]
    return int(not all(within))


def _report(folder: Path, dtype: torch.dtype) -> bool:
    """Print a folder's errors; return whether they are within the tolerances of float32."""
    check = check_tokenizer if (folder / "autoencoder.pt").is_file() else check_transformer
    errors: TokenizerErrors | TransformerErrors = check(folder, dtype)
    if dtype != torch.float32:
        print(f"{folder} in {dtype}: {errors}")
        return True
    print(f"{folder}: {errors}: {'within' if errors.tolerable else 'OUTSIDE'} the tolerance")
    return errors.tolerable


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
