"""The published network at a tiny width, its weights and its outputs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldbridge.models.tokenizer import DV8X16X16, VideoTokenizer

GOLDEN = Path(__file__).parents[2] / "golden"
FOLDER = GOLDEN / "tokenizer_dv8x16x16"
LEVEL_STEPS = torch.tensor([4, 4, 4, 2, 2, 2]).view(6, 1, 1, 1)  # code steps per unit


@pytest.fixture(scope="module")
def tokenizer() -> VideoTokenizer:
    channels = json.loads((FOLDER / "config.json").read_text())["channels"]
    tokenizer = VideoTokenizer(dataclasses.replace(DV8X16X16, channels=channels))
    weights = torch.load(FOLDER / "autoencoder.pt", weights_only=True)
    tokenizer.load_state_dict({key: value.float() for key, value in weights.items()}, strict=True)
    return tokenizer.eval()


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(FOLDER / "io.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@torch.inference_mode()
def test_encode(tokenizer: VideoTokenizer, golden: dict[str, torch.Tensor]) -> None:
    indices = tokenizer.encode(golden["video"][None])[0]
    assert indices.dtype == torch.int64
    assert (indices == golden["encoded_indices"]).float().mean() >= 0.99

    codes = tokenizer.encode_codes(golden["video"][None])[0]
    steps = ((codes - golden["encoded_codes"]) * LEVEL_STEPS).abs()
    assert steps.max() <= 1 + 1e-4


@torch.inference_mode()
def test_decode(tokenizer: VideoTokenizer, golden: dict[str, torch.Tensor]) -> None:
    expected = golden["decoded_video"]
    video = tokenizer.decode(golden["decode_indices"][None])[0]
    assert (video - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.inference_mode()
def test_streams(tokenizer: VideoTokenizer, golden: dict[str, torch.Tensor]) -> None:
    """One latent at a time gives the golden outputs too."""
    expected, indices = golden["decoded_video"], golden["decode_indices"][None]
    state = tokenizer.decode_stream_init(1, *indices.shape[2:])
    parts = []
    for latent in indices.split(1, dim=1):
        part, state = tokenizer.decode_step(latent, state)
        parts.append(part[0])
    assert [part.shape[1] for part in parts] == [1, 8, 8]
    assert (torch.cat(parts, 1) - expected).abs().max() <= 1e-4 * expected.abs().max()

    state = tokenizer.encode_stream_init(1, *indices.shape[2:])
    steps = []
    for frames in golden["video"][None].split([1, 8, 8], dim=2):
        step, state = tokenizer.encode_step(frames, state)
        steps.append(step[0])
    assert (torch.cat(steps) == golden["encoded_indices"]).float().mean() >= 0.99


def test_names_and_sizes_of_the_published_weights() -> None:
    with torch.device("meta"):
        tokenizer = VideoTokenizer(DV8X16X16)
    ours = {key: str([*value.shape]) for key, value in tokenizer.state_dict().items()}
    counts = {}
    for half in ("encoder", "decoder"):
        text = (GOLDEN / "tokenizer_keys" / f"{half}.txt").read_text()
        published = dict(line.split(" ", 1) for line in text.splitlines())
        assert published == {key: ours.pop(key) for key in list(ours) if key in published}
        counts[half] = sum(
            value.numel() for key, value in tokenizer.state_dict().items() if key in published
        )
    assert not ours
    assert counts == {"encoder": 45_537_158, "decoder": 65_361_136}
