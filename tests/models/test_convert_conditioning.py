"""Checkpoints that were trained on with actions or cameras are converted like the others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.test_convert import _tokenizer
from worldbridge.models.checkpoint import load_world
from worldbridge.models.convert import convert
from worldbridge.models.convert.detect import detect, shapes_of, verify
from worldbridge.models.convert.files import Info
from worldbridge.models.convert.reference import TOLERANCE, reference_config
from worldbridge.models.convert.synthetic import write_checkpoint
from worldbridge.models.errors import ConvertError, DamagedWorldError
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.models.transformer.config import COSMOS

FIELDS = {
    "dim": 32,
    "n_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 12,
    "ffn_hidden_size": 48,
    "vocab_size": 640,
    "input_vocab_rows": 704,
    "norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "apply_abs_pos_emb": True,
    "context_dim": 24,
    "begin_of_video_token": 640,
    "yarn": None,
    "video_latent_shape": [3, 4, 4],
    "conditioning": "cross_attention",
    "condition_dim": 7,
    "camera": "pluecker",
}
LAYOUT = ["strafe", None, ["forward", 2.0], None, None, "yaw", None]


def source(folder: Path, ranks: int = 1, **change: Any) -> Path:
    """A checkpoint as training code leaves it, its tokenizer, and what describes it."""
    fields = FIELDS | change
    folder.mkdir()
    write_checkpoint(folder, reference_config(fields), ranks=ranks)
    (folder / "config.json").write_text(json.dumps(fields))
    _tokenizer(folder / "tokenizer")
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
def test_actions_and_camera_survive(ranks: int, tmp_path: Path) -> None:
    world = load_world(convert(source(tmp_path / "a", ranks, actions=LAYOUT), tmp_path / "b"))
    assert world.transformer.config == reference_config(FIELDS)
    assert world.manifest["actions"] == LAYOUT
    again = load_world(convert(tmp_path / "b", tmp_path / "c"))
    assert again.manifest["actions"] == LAYOUT
    for one, other in zip(
        world.transformer.parameters(), again.transformer.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert world.transformer.camera_embedding.weight.any()


@pytest.mark.parametrize("embedder", ["action_embedding_layers", "action_mlp"])
def test_the_names_of_the_published_training_codes(embedder: str, tmp_path: Path) -> None:
    folder = source(tmp_path / "a")
    expected = load_world(convert(folder, tmp_path / "b")).transformer.state_dict()
    data = torch.load(folder / "model.pt", weights_only=True)
    names = {"condition.fc1": f"{embedder}.0", "condition.fc2": f"{embedder}.2"}
    renamed = {}
    for name, value in data["model"].items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        renamed[name] = value
    assert sum(embedder in name for name in renamed) == 4
    torch.save({"model": renamed}, folder / "model.pt")
    found = load_world(convert(folder, tmp_path / "c")).transformer.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("size", ["5b", None])
@pytest.mark.parametrize("actions", [1, 7, 8, 30])
def test_published_sizes_trained_on_are_recognised(
    size: str | None, actions: int, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        COSMOS["cosmos-5b-video2world"],
        conditioning="cross_attention",
        condition_dim=actions,
        camera="pluecker",
    )
    with torch.device("meta"):
        shapes = shapes_of(VideoTransformer(config))
    assert shapes["condition.fc1.weight"] == (256, actions)
    assert shapes["condition.fc2.weight"] == (1024, 256)
    infos = {name: Info(shape, torch.bfloat16) for name, shape in shapes.items()}
    found = detect(infos, tmp_path, size, None)
    assert found.config == config
    verify(found, infos)
    for lost in ("condition.fc2.bias", "camera_embedding.weight"):
        fewer = {name: info for name, info in infos.items() if name != lost}
        if lost.startswith("camera"):
            assert detect(fewer, tmp_path, size, None).config.camera == "none"
        else:
            with pytest.raises(ConvertError, match=lost):
                verify(detect(fewer, tmp_path, size, None), fewer)
    wrong = infos | {"camera_embedding.weight": Info((4096, 7), torch.bfloat16)}
    with pytest.raises(ConvertError, match=r"camera_embedding.weight \[4096, 7\]"):
        verify(detect(wrong, tmp_path, size, None), wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera": "fisheye"}, "unknown camera 'fisheye'"),
        ({"actions": ["yaw"]}, "expected 7 entries"),
        ({"condition_dim": 0}, "condition_dim >= 1"),
        ({"condition_dim": 6}, r"condition.fc1.weight \[256, 7\] instead of \[256, 6\]"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = source(tmp_path / "a")
    (folder / "config.json").write_text(json.dumps(FIELDS | change))
    with pytest.raises(ConvertError, match=message):
        convert(folder, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_changed_world_json_is_told_by_names(tmp_path: Path) -> None:
    folder = convert(source(tmp_path / "a"), tmp_path / "b")
    manifest = json.loads((folder / "world.json").read_text())
    manifest["transformer"]["camera"] = "none"
    (folder / "world.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedWorldError, match="camera_embedding.weight"):
        load_world(folder)


def test_the_action_context_is_the_published_recipe(tmp_path: Path) -> None:
    """Once more by hand: linear, ReLU, linear, repeated once per number, keys normed by head."""
    folder = convert(source(tmp_path / "a"), tmp_path / "b")
    model = load_world(folder).transformer
    action = torch.linspace(-1, 1, 7)[None]
    state = model.state_dict()
    hidden = (state["condition.fc1.weight"] @ action[0] + state["condition.fc1.bias"]).clamp_min(0)
    row = state["condition.fc2.weight"] @ hidden + state["condition.fc2.bias"]
    key = (state["layers.0.cross_attention.wk.weight"] @ row).view(2, 12)
    key = key / (key.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    value = (state["layers.0.cross_attention.wv.weight"] @ row).view(2, 12)
    keys, values = model.action_keys_values(action)[0]
    assert keys.shape == values.shape == (1, 2, 7, 12)
    for found, expected in ((keys, key), (values, value)):
        difference = (found[0] - expected[:, None]).abs().max() / expected.abs().max()
        assert float(difference) < TOLERANCE
    assert isinstance(model.config, TransformerConfig)
