"""Compare our Cosmos networks with the reference outputs.

Run `python -m worldbridge.benchmarks.fidelity`.

Also compares streamed with whole decoding, and measures what a limited temporal attention and both
ways of sliding the context change, and counts the parameters of the published sizes. Takes minutes
at most, on any CPU.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldbridge.benchmarks.store import write_result
from worldbridge.models.convert.reference import (
    check_tokenizer,
    check_transformer,
    load_reference,
    load_tokenizer_reference,
)
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.transformer import VideoTransformer
from worldbridge.models.transformer.config import COSMOS
from worldbridge.runtime.decoding import DecodeOptions, Decoder, Sampling
from worldbridge.runtime.decoding.executors.eager import EagerExecutor

__all__ = ["main"]

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
_LATENTS = 9
_STREAMS = 20
_WINDOWS = (1, 2, 4, 8)  # earlier latents that the temporal attention may see


def transformers() -> list[dict[str, Any]]:
    """Return the relative errors of each reference model, in float32 and bfloat16."""
    rows = []
    for folder in sorted(path.parent for path in GOLDEN.glob("*/model.pt")):
        exact, half = (check_transformer(folder, t) for t in (torch.float32, torch.bfloat16))
        rows.append(
            {
                "reference": folder.name,
                "prefill": exact.prefill,
                "cached_decode": exact.stepped,
                "bf16_worst_logit": half.prefill,
                "bf16_root_mean_square": half.root_mean_square,
                "bf16_same_choice": half.same_choice,
            }
        )
    return rows


@torch.inference_mode()
def tokenizers() -> list[dict[str, Any]]:
    """Return the errors of each reference tokenizer, and of streamed against whole decoding."""
    rows = []
    for folder in sorted(path.parent for path in GOLDEN.glob("*/autoencoder.pt")):
        exact, half = check_tokenizer(folder), check_tokenizer(folder, torch.bfloat16)
        tokenizer, _ = load_tokenizer_reference(folder)
        generator = torch.Generator().manual_seed(5)
        shape = (1, _LATENTS, 3, 5)
        indices = torch.randint(tokenizer.config.vocabulary, shape, generator=generator)
        whole = tokenizer.decode(indices)
        rows.append(
            {
                "reference": folder.name,
                "decoded": exact.decoded,
                "different_indices": exact.different_indices,
                "bf16_decoded": half.decoded,
                "bf16_different_indices": half.different_indices,
                "latents": _LATENTS,
                "stream_worst": max(
                    _difference(_stream(tokenizer, indices[:, :n], sizes), whole)
                    for n in range(1, _LATENTS + 1)
                    for sizes in _splits(n)
                ),
                "windows": {
                    str(window): _difference(
                        _stream(tokenizer, indices, [1] * _LATENTS, window), whole
                    )
                    for window in _WINDOWS
                },
            }
        )
    return rows


def _splits(latents: int) -> list[list[int]]:
    """Return chunk sizes: one by one, all at once, and two random chunks."""
    cut = random.Random(latents).randint(1, latents)
    return [[1] * latents, [latents], [cut, latents - cut] if cut < latents else [latents]]


def _stream(
    tokenizer: VideoTokenizer, indices: Tensor, sizes: list[int], window: int | None = None
) -> Tensor:
    height, width = indices.shape[2:]
    state = tokenizer.decode_stream_init(1, height, width, window=window)
    parts = []
    for chunk in indices.split(sizes, dim=1):
        part, state = tokenizer.decode_step(chunk, state)
        parts.append(part)
    return torch.cat(parts, 2)


def _difference(video: Tensor, whole: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    whole = whole[:, :, : video.shape[2]]
    return float((video - whole).abs().max() / whole.abs().max())


@torch.inference_mode()
def slides() -> list[dict[str, Any]]:
    """Return how sliding changes the next latent's logits, for references that can slide both ways.

    Latents 0 and 1 precede latent 2. "kept" does not slide, which the trained range still allows;
    the others slide to latent 1 alone. `deviation` is the root mean square of the difference
    relative to the logits' own, `same_choice` the share of positions with the same likeliest token.
    """
    rows = []
    for folder in sorted(path.parent for path in GOLDEN.glob("*/model.pt")):
        model = load_reference(folder)[0]
        if model.config.apply_abs_pos_emb:
            continue  # its keys cannot be rotated
        found: dict[str, list[Tensor]] = {"kept": [], "reprefill": [], "rotate": []}
        for seed in range(_STREAMS):
            for way, logits in found.items():
                logits.append(_next_logits(model, way, seed))
        pairs = (("reprefill", "kept"), ("rotate", "kept"), ("rotate", "reprefill"))
        rows += [
            {"reference": folder.name, "way": way, "against": other}
            | _deviation(torch.cat(found[way]), torch.cat(found[other]))
            for way, other in pairs
        ]
    return rows


def _next_logits(model: VideoTransformer, way: str, seed: int) -> Tensor:
    """Return logits [h * w, vocab] of a random latent 2 after random latents 0 and 1."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    shape = (3, *config.latent_shape[1:])
    codes = torch.randint(config.vocab_size, shape, generator=generator)
    slid = way != "kept"
    window: dict[str, Any] = {"max_latents": 2, "slide": way} if slid else {}
    options = DecodeOptions("sequential", keep=1, **window).resolve(config)
    executor = EagerExecutor(model, 1, Sampling(), options)
    decoder = Decoder(model, executor, options)
    session = decoder.open(seed, codes[:1])
    decoder.prefill(session, codes[1])
    if slid:
        decoder.make_room(session)
    fed = torch.cat([codes[1].flatten()[-1:], codes[2].flatten()[:-1]])
    return executor.logits([session], fed[None], [0])[0]


def _deviation(logits: Tensor, expected: Tensor) -> dict[str, float]:
    return {
        "deviation": float((logits - expected).square().mean().sqrt() / expected.std()),
        "same_choice": float((logits.argmax(-1) == expected.argmax(-1)).float().mean()),
    }


def parameters() -> dict[str, int]:
    """Return the number of parameters of the published sizes; allocates nothing."""
    counts = {}
    for name, config in COSMOS.items():
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in VideoTransformer(config).parameters())
    return counts


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    result = {
        "transformers": transformers(),
        "tokenizers": tokenizers(),
        "slides": slides(),
        "parameters": parameters(),
    }
    write_result("fidelity", result)


if __name__ == "__main__":
    main()
