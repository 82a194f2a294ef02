"""Small worlds to export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.models.tokenizer.test_streaming import build
from worldbridge.models.checkpoint import FORMAT, describe_file
from worldbridge.models.convert import convert
from worldbridge.models.convert.reference import reference_tokenizer_config
from worldbridge.models.convert.synthetic import write_checkpoint
from worldbridge.models.tokenizer import TokenizerConfig
from worldbridge.models.transformer import TransformerConfig

MODEL = {
    "dim": 32,
    "n_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 12,
    "ffn_hidden_size": 48,
    "vocab_size": 640,
    "norm_eps": 1e-5,
    "rope_theta": 500_000.0,
}
# as the published ones, with attention and steps in space and time, but hardly any weights
TOKENIZER = {
    "channels": 4,
    "channels_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "patch_size": 2,
    "z_channels": 4,
    "spatial_compression": 4,
    "temporal_compression": 4,
    "embedding_dim": 4,
    "levels": [8, 8, 5, 2],
    "patch_method": "haar",
}
LATENTS = (2, 2, 3)


def tiny_cosmos(folder: Path) -> Path:
    """A world made by `convert` from a checkpoint in the published layout."""
    source = folder / "source"
    (source / "tokenizer").mkdir(parents=True)
    write_checkpoint(source, TransformerConfig(**MODEL, latent_shape=LATENTS))  # type: ignore[arg-type]
    described = {
        **MODEL,
        "input_vocab_rows": None,
        "video_latent_shape": list(LATENTS),
        "apply_abs_pos_emb": False,
        "context_dim": None,
        "begin_of_video_token": None,
        "yarn": None,
    }
    (source / "config.json").write_text(json.dumps(described))
    (source / "tokenizer" / "config.json").write_text(json.dumps(TOKENIZER))
    # weights with which the past counts: small ones would hide a lost memory
    weights = build(reference_tokenizer_config(TOKENIZER)).state_dict()
    torch.save(weights, source / "tokenizer" / "autoencoder.pt")
    return convert(source, folder / "tiny-cosmos", name="tiny-cosmos")


# one level and one block: quickly exported
PLAIN = TokenizerConfig(
    channels=4,
    channel_multipliers=(1,),
    encoder_res_blocks=(1,),
    decoder_res_blocks=(1,),
    encoder_mid_blocks=1,
    decoder_mid_blocks=1,
    patch_size=2,
    patch_time=False,
    spatial_compression=2,
    temporal_compression=1,
    attention=False,
    temporal_convs="mid",
)
ATTENTIVE = dataclasses.replace(PLAIN, patch_time=True, temporal_compression=2, attention=True)


def tokenizer_world(folder: Path, config: TokenizerConfig = PLAIN) -> Path:
    """A world folder as far as an export reads it."""
    folder.mkdir(parents=True)
    path = folder / "tokenizer.safetensors"
    save_file({k: v.contiguous() for k, v in build(config).state_dict().items()}, path)
    manifest = {
        "format": FORMAT,
        "name": folder.name,
        "title": "Tiny",
        "frames_per_second": 15,
        "tokenizer": dataclasses.asdict(config),
        "transformer": {"latent_shape": LATENTS},
        "files": {"tokenizer": describe_file(path)},
    }
    (folder / "world.json").write_text(json.dumps(manifest))
    return folder
