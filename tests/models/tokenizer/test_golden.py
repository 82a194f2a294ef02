"""The published network at a tiny width, its weights and its outputs."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from worldbridge.models.convert.reference import (
    TokenizerErrors,
    check_tokenizer,
    load_tokenizer_reference,
    main,
    reference_tokenizer_config,
)
from worldbridge.models.tokenizer import DV8X16X16, VideoTokenizer

GOLDEN = Path(__file__).parents[2] / "golden"
FOLDER = GOLDEN / "tokenizer_dv8x16x16"


@pytest.fixture(scope="module")
def tokenizer() -> VideoTokenizer:
    return load_tokenizer_reference(FOLDER)[0]


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_tokenizer_reference(FOLDER)[1]


def test_encode_and_decode() -> None:
    errors = check_tokenizer(FOLDER)
    assert errors.different_indices <= 0.01
    assert errors.code_steps <= 1 + 1e-4
    assert errors.decoded <= 1e-4
    assert errors.tolerable


@pytest.mark.parametrize(
    "errors", [TokenizerErrors(0.02, 1, 0), TokenizerErrors(0, 2, 0), TokenizerErrors(0, 0, 2e-4)]
)
def test_each_error_has_its_tolerance(errors: TokenizerErrors) -> None:
    assert not errors.tolerable
    assert TokenizerErrors(0.01, 1, 1e-4).tolerable


def test_indices_are_integers(tokenizer: VideoTokenizer) -> None:
    with torch.inference_mode():
        assert tokenizer.encode(torch.zeros(1, 3, 1, 16, 16)).dtype == torch.int64


@pytest.mark.parametrize("change", [{"patch_method": "rearrange"}, {"num_groups": 32}])
def test_a_tokenizer_of_another_kind_is_refused(change: dict[str, object]) -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert dataclasses.replace(DV8X16X16, channels=16) == reference_tokenizer_config(config)
    with pytest.raises(ValueError, match=next(iter(change))):
        reference_tokenizer_config({**config, **change})


def test_the_command_takes_folders_of_both_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(FOLDER), str(GOLDEN / "ar_base")]) == 0
    printed = capsys.readouterr().out
    assert "tokenizer_dv8x16x16: encode" in printed and "ar_base: prefill" in printed

    for name in ("config.json", "io.npz"):
        shutil.copy(FOLDER / name, tmp_path)
    state = torch.load(FOLDER / "autoencoder.pt", weights_only=True)
    state["decoder.conv_out.1.conv3d.bias"] += 1
    torch.save(state, tmp_path / "autoencoder.pt")
    assert main([str(tmp_path)]) == 1
    assert "OUTSIDE" in capsys.readouterr().out


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
