"""Replay streams of the golden files through every decoder.

A stream (`tests/golden/decoding/NAME.npz`) holds what its sessions start from, the controls of each
latent, and the expected tokens. A run is a plain dictionary that says how to decode a stream. Only
the functions `decode_raster`, `decode_wavefront` and `decode_cuda` know how a decoder is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.support.decoders import cuda_decoder, eager_decoder, packed_decoder
from worldbridge.models.checkpoint import EMBEDDED_WORLD, load_world
from worldbridge.models.convert.reference import load_reference
from worldbridge.models.transformer import MedusaHeads, VideoTransformer
from worldbridge.runtime.decoding import Decoder
from worldbridge.runtime.decoding.sampling import Sampling

GOLDEN = Path(__file__).parents[1] / "golden"
Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stream:
    """The inputs of B sessions of P prompt latents and N latents to decode, with the tokens.

    `model` names a folder (see `load_model`). Shapes: prompt [B, P, h, w]; context [B, m, c];
    conditions [B, P + N, c]; poses [B, P + N, 8]. `tokens` maps the name of an expectation to
    int64 [B, N, h, w].
    """

    model: str
    sampling: Mapping[str, Any]
    seeds: Sequence[int]
    latents: int
    prompt: Tensor
    context: Tensor | None
    conditions: Tensor | None
    poses: Tensor | None
    tokens: Mapping[str, Tensor]


# -- adapters: the only places that know the decoders' interfaces ----------------------------------


def decode_raster(stream: Stream, run: Run) -> Tensor:
    """Return the tokens [B, N, h, w] that the eager executor samples."""
    capacity = len(run.get("sessions", [0])) + 1
    return _play_raster(_build(eager_decoder, stream, run, capacity), stream, run)


def decode_cuda(stream: Stream, run: Run) -> Tensor:
    """Return the tokens [B, N, h, w] of the CUDA executor, here in Triton's interpreter."""
    capacity, own = len(run.get("sessions", [0])), {"split": 32, "context_rows": 9}
    return _play_raster(_build(cuda_decoder, stream, run, capacity, **own), stream, run)


def decode_wavefront(stream: Stream, run: Run) -> Tensor:
    """Return the tokens [B, N, h, w] that the packed executor samples."""
    which = run.get("sessions", [0])
    decoder = _build(packed_decoder, stream, run, len(which))
    assert stream.conditions is not None
    prompt_latents = stream.prompt.shape[1]
    sessions = [
        decoder.open(
            stream.seeds[i], stream.prompt[i], conditions=stream.conditions[i, :prompt_latents]
        )
        for i in which
    ]
    sampled = [
        decoder.decode(sessions, stream.conditions[which, prompt_latents + t])
        for t in range(run.get("latents", stream.latents))
    ]
    return torch.stack(sampled, dim=1)


def _build(
    build: Callable[..., Decoder], stream: Stream, run: Run, capacity: int, **own: Any
) -> Decoder:
    model, sampling = load_model(stream.model), Sampling(**stream.sampling)
    options = {option: run[name] for name, option in _OPTIONS.items() if name in run}
    return build(model, capacity, sampling, run["mode"], _heads(model, run), **options, **own)


def _play_raster(decoder: Decoder, stream: Stream, run: Run) -> Tensor:
    which, prompt_latents = run.get("sessions", [0]), stream.prompt.shape[1]
    conditions, poses, context = stream.conditions, stream.poses, stream.context
    sessions = [
        decoder.open(
            stream.seeds[i],
            stream.prompt[i],
            context=None if context is None else context[i],
            conditions=None if conditions is None else conditions[i, :prompt_latents],
            poses=None if poses is None else poses[i, :prompt_latents],
        )
        for i in which
    ]
    drawn = []
    for t in range(run.get("latents", stream.latents)):
        if t == run.get("restore_before"):
            for place in range(len(sessions)):
                snapshot = decoder.snapshot(sessions[place])
                sessions[place] = decoder.restore(snapshot)
        now = prompt_latents + t
        drawn.append(
            decoder.decode(
                sessions,
                None if conditions is None else conditions[which, now],
                None if poses is None else poses[which, now],
            )
        )
    return torch.stack(drawn, dim=1)


DECODERS = {"raster": decode_raster, "cuda": decode_cuda, "wavefront": decode_wavefront}
_OPTIONS = {
    "max_latents": "max_latents",
    "slide": "slide",
    "keep": "keep",
    "width": "jacobi_window",
    "padding": "padding",
    "diagonal": "row_lag",
}  # of the runs, by what decoders call them


# -- models and files ------------------------------------------------------------------------------


@cache
def load_model(name: str) -> VideoTransformer:
    """Return a transformer: "embedded", a reference network of `tests/golden`, or a tiny world."""
    if name == "embedded":
        return load_world(EMBEDDED_WORLD).transformer
    if (GOLDEN / name / "model.pt").exists():
        return load_reference(GOLDEN / name)[0].requires_grad_(False)
    return load_world(GOLDEN / "worlds" / name).transformer


def _heads(model: VideoTransformer, run: Run) -> MedusaHeads | None:
    """Return the heads of a run: the embedded world's, or random ones; drafts change no token."""
    heads = run.get("heads")
    if heads is None:
        return None
    if heads == "own":
        return load_world(EMBEDDED_WORLD).heads
    dim, rng = model.config.dim, np.random.default_rng(heads)
    weights = rng.standard_normal((heads, dim, dim), np.float32) * 0.02
    return MedusaHeads.merged(list(torch.from_numpy(weights))).requires_grad_(False)


@cache
def load_runs() -> Mapping[str, Run]:
    """Return the runs of the golden files by name."""
    runs: Mapping[str, Run] = json.loads((GOLDEN / "decoding" / "runs.json").read_text())
    return runs


@cache
def load_stream(name: str) -> Stream:
    """Return a stream of the golden files."""
    folder = GOLDEN / "decoding"
    fields = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays}
    return Stream(
        **fields,
        prompt=tensors["prompt"],
        context=tensors.get("context"),
        conditions=tensors.get("conditions"),
        poses=tensors.get("poses"),
        tokens={
            k.removeprefix("tokens_"): v for k, v in tensors.items() if k.startswith("tokens_")
        },
    )


def processor() -> dict[str, str]:
    """Return what decides how float32 and float16 sums are rounded on this machine."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__.split("+")[0], "cpu": model, "capability": capability}
