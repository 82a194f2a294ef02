"""Hold our transformer against reference outputs: `python -m worldbridge.models.golden DIR...`.

A folder holds `config.json`, `model.pt` (published key names) and `io.npz` (tokens, logits and,
with cross-attention, context). Prints the worst relative error;
exits with 1 outside the tolerance.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.transformer import KVCache, TransformerConfig, VideoTransformer, Yarn

__all__ = ["TOLERANCE", "check_transformer", "load_reference"]

TOLERANCE = 1e-4  # of the largest logit, float32


def reference_config(data: dict[str, Any]) -> TransformerConfig:
    """The config of a reference folder's `config.json`."""
    yarn = data["yarn"]
    return TransformerConfig(
        dim=data["dim"],
        n_layers=data["n_layers"],
        n_heads=data["n_heads"],
        n_kv_heads=data["n_kv_heads"],
        head_dim=data["head_dim"],
        ffn_hidden_size=data["ffn_hidden_size"],
        vocab_size=data["vocab_size"],
        input_vocab_rows=data["input_vocab_rows"],
        latent_shape=tuple(data["video_latent_shape"]),
        norm_eps=data["norm_eps"],
        rope_theta=data["rope_theta"],
        apply_abs_pos_emb=data["apply_abs_pos_emb"],
        context_dim=data["context_dim"],
        begin_of_video_token=data["begin_of_video_token"],
        yarn=None
        if yarn is None
        else Yarn(
            yarn["scale"],
            yarn["beta_fast"],
            yarn["beta_slow"],
            tuple(yarn["original_latent_shape"]),
        ),
    )


def load_reference(folder: Path) -> tuple[VideoTransformer, dict[str, Tensor]]:
    """The model in float32 and the tensors of `io.npz`."""
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
    tensors = {name: torch.from_numpy(value) for name, value in np.load(folder / "io.npz").items()}
    return model.eval(), tensors


@torch.inference_mode()
def check_transformer(folder: Path) -> tuple[float, float]:
    """Worst relative error of (one prefill; half in a prefill, then one token at a time)."""
    model, tensors = load_reference(folder)
    tokens, reference = tensors["tokens"].long()[None], tensors["logits"]
    context = None
    if "context" in tensors:
        context = model.context_keys_values(tensors["context"].float()[None])
    whole = model(tokens, context=context)[0]
    half = tokens.shape[1] // 2
    cache = KVCache.allocate(model.config, 1, tokens.shape[1], model.norm.weight)
    steps = [tokens[:, :half], *tokens[:, half:].split(1, dim=1)]
    stepped = torch.cat([model(step, cache, context) for step in steps], dim=1)[0]
    scale = reference.abs().max()
    return tuple(float((x - reference).abs().max() / scale) for x in (whole, stepped))  # type: ignore[return-value]


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python -m worldbridge.models.golden DIR...", file=sys.stderr)
        return 2
    worst = 0.0
    for name in arguments:
        whole, stepped = check_transformer(Path(name))
        worst = max(worst, whole, stepped)
        print(f"{name}: prefill {whole:.2e}, cached decode {stepped:.2e} of the largest logit")
    print(f"worst {worst:.2e}, tolerance {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
