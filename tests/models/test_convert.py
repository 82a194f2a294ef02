"""Published checkpoints become worlds, and what is none is refused without leaving a trace."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.models.test_convert_files import POINTER
from worldbridge.models.checkpoint import load_world, read_manifest
from worldbridge.models.convert import SIZES, convert
from worldbridge.models.convert.checkpoint import Checkpoint, split_dimension
from worldbridge.models.convert.convert import plan_shards
from worldbridge.models.convert.detect import detect, shapes_of, verify
from worldbridge.models.convert.files import Info
from worldbridge.models.convert.reference import (
    load_reference,
    load_tokenizer_reference,
    reference_tokenizer_config,
)
from worldbridge.models.convert.synthetic import main as synthetic
from worldbridge.models.convert.synthetic import write_checkpoint, write_tokenizer
from worldbridge.models.errors import ConvertError, DamagedWorldError
from worldbridge.models.tokenizer import (
    DV4X8X8,
    DV8X8X8,
    DV8X16X16,
    TokenizerConfig,
    VideoTokenizer,
)
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.models.transformer.config import COSMOS
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.errors import DamagedWeightsError
from worldbridge.runtime.worlds.cosmos import load_cosmos
from worldbridge.runtime.worlds.registry import spec_of

GOLDEN = Path(__file__).parents[1] / "golden"
AR = ("ar_base", "ar_video2world", "ar_video2world_yarn")
LEVELS = {640: [8, 8, 5, 2], 512: [8, 8, 8]}


def _tokenizer(folder: Path, vocabulary: int = 640) -> Path:
    """A tokenizer with a codebook of that size and hardly any weights, in the published layout."""
    levels = LEVELS[vocabulary]
    data = {
        "channels": 4,
        "channels_mult": [1],
        "num_res_blocks": 1,
        "patch_size": 4,
        "z_channels": 4,
        "spatial_compression": 4,
        "temporal_compression": 4,
        "embedding_dim": len(levels),
        "levels": levels,
        "patch_method": "haar",
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(data))
    write_tokenizer(folder, reference_tokenizer_config(data))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The smallest golden model, with its tokenizer where it is looked for."""
    folder = tmp_path / "source"
    shutil.copytree(GOLDEN / "ar_base", folder)
    _tokenizer(folder / "tokenizer")
    return folder


def _refused(source: Path, tmp_path: Path, **options: Any) -> str:
    """What is said; nothing may be left of the attempt."""
    target = tmp_path / "results" / "world"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConvertError) as caught:
        convert(source, target, **options)
    assert sorted(tmp_path.rglob("*")) == before
    error = caught.value
    assert error.message and error.expected and error.got and error.remedy
    return str(error)


def _edit(source: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = torch.load(source / "model.pt", weights_only=True)
    change(data["model"])
    torch.save(data, source / "model.pt")


# -- what is converted ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", AR)
def test_reference_models_keep_their_logits(name: str, tmp_path: Path) -> None:
    reference, tensors = load_reference(GOLDEN / name)
    _tokenizer(tmp_path / "tokenizer", reference.config.vocab_size)
    reports: list[tuple[str, float]] = []
    folder = convert(
        GOLDEN / name,
        tmp_path / "world",
        tokenizer=tmp_path / "tokenizer",
        progress=lambda stage, share: reports.append((stage, share)),
        shard_bytes=200_000,
    )
    world = load_world(folder)
    assert world.transformer.config == reference.config
    tokens = tensors["tokens"].long()[None]
    with torch.inference_mode():
        logits = []
        for model in (reference, world.transformer):
            context = None
            if "context" in tensors:
                context = model.context_keys_values(tensors["context"].float()[None])
            logits.append(model(tokens, context=context))
    assert torch.equal(*logits)
    shares = [share for _, share in reports]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1


def test_the_world_says_what_it_is(source: Path, tmp_path: Path) -> None:
    folder = convert(source, tmp_path / "world", name="mine", shard_bytes=200_000)
    manifest = json.loads((folder / "world.json").read_text())
    assert (manifest["format"], manifest["kind"], manifest["name"]) == (1, "cosmos", "mine")
    assert manifest["sampling"] == {"temperature": 1.0, "top_p": 0.8, "top_k": 64000}
    entries = [manifest["files"]["tokenizer"], *manifest["files"]["transformer"]]
    assert len(entries) > 2
    assert {e["file"] for e in entries} | {"world.json"} == {p.name for p in folder.iterdir()}
    for entry in entries:
        data = (folder / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert len(data) == entry["bytes"] < 300_000
        values = load_file(folder / entry["file"]).values()
        assert {value.dtype for value in values} == {torch.bfloat16}


def test_a_damaged_part_of_several_is_found(source: Path, tmp_path: Path) -> None:
    folder = convert(source, tmp_path / "world", shard_bytes=200_000)
    second = sorted(folder.glob("transformer-*"))[1]
    second.unlink()
    with pytest.raises(DamagedWorldError, match=f"{second.name} are missing"):
        load_world(folder)


def test_files_without_the_published_wrapping(source: Path, tmp_path: Path) -> None:
    """A bare state dict, `_extra_state`, and safetensors give the same world."""
    first = convert(source, tmp_path / "first")
    state = torch.load(source / "model.pt", weights_only=True)["model"]
    bare = {name.removeprefix("model."): value for name, value in state.items()}
    torch.save(bare | {"layers.0.attention._extra_state": torch.ones(3)}, source / "model.pt")
    second = convert(source / "model.pt", tmp_path / "second")
    (source / "model.pt").unlink()
    save_file(state, source / "model.safetensors")
    third = convert(source, tmp_path / "third")
    again = convert(third, tmp_path / "again")
    for folder in (second, third, again):
        assert _weights(folder).keys() == bare.keys()
        assert all(torch.equal(value, bare[name]) for name, value in _weights(folder).items())
        ours, other = (json.loads((f / "world.json").read_text()) for f in (first, folder))
        assert ours["files"]["tokenizer"] == other["files"]["tokenizer"]
        assert ours["transformer"] == other["transformer"]


def _weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("transformer-*.safetensors")):
        state |= load_file(path)
    return state


@pytest.mark.parametrize("size", SIZES)
def test_published_models_are_recognised_by_their_shapes(size: str, tmp_path: Path) -> None:
    infos = _infos(COSMOS[SIZES[size]])
    found = detect(infos, tmp_path, None, None)
    assert (found.name, found.config) == (SIZES[size], COSMOS[SIZES[size]])
    verify(found, infos)
    # also when the final norm is lost, which is then reported
    lost = {name: info for name, info in infos.items() if name != "norm.weight"}
    with pytest.raises(ConvertError, match=r"1 missing \(norm.weight\)"):
        verify(detect(lost, tmp_path, None, None), lost)


def _infos(config: TransformerConfig) -> dict[str, Info]:
    with torch.device("meta"):
        shapes = shapes_of(VideoTransformer(config))
    return {name: Info(shape, torch.bfloat16) for name, shape in shapes.items()}


def test_published_models_are_divided_into_files_of_a_gigabyte() -> None:
    infos = _infos(COSMOS["cosmos-13b-video2world"])
    shards = plan_shards(infos, 1 << 30)
    assert [name for names in shards for name in names] == list(infos)
    sizes = [sum(infos[name].bytes for name in names) for names in shards]
    assert max(sizes) <= 1 << 30
    assert len(sizes) < 1.3 * sum(sizes) / (1 << 30)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_as_wide_as_the_4b(tmp_path: Path) -> None:
    assert synthetic([str(tmp_path / "source"), "--size", "4b", "--layers", "1"]) == 0
    folder = convert(tmp_path / "source", tmp_path / "world", n_layers=1)
    manifest = json.loads((folder / "world.json").read_text())
    assert (manifest["name"], manifest["title"]) == ("cosmos-4b", "Cosmos 4B")
    assert manifest["transformer"]["n_layers"] == 1
    assert TokenizerConfig.from_dict(manifest["tokenizer"]) == DV8X16X16
    assert max(entry["bytes"] for entry in manifest["files"]["transformer"]) < 1.1 * (1 << 30)
    state = torch.load(tmp_path / "source" / "model.pt", mmap=True, weights_only=True)["model"]
    written = _weights(folder)
    assert {f"model.{name}" for name in written} == set(state)
    assert all(torch.equal(value, state[f"model.{name}"]) for name, value in written.items())
    assert float(written["output.weight"][::997].float().std()) > 0.01


# -- shards ---------------------------------------------------------------------------------------


def _divide(source: Path, ranks: int) -> dict[str, Tensor]:
    """Replaces model.pt by the files of `ranks` ranks; returns the whole."""
    state = torch.load(source / "model.pt", weights_only=True)["model"]
    for rank in range(ranks):
        part = {}
        for name, value in state.items():
            dimension = split_dimension(name)
            whole = dimension is None
            part[name] = value if whole else value.chunk(ranks, dimension)[rank].clone()
        torch.save({"model": part}, source / f"small_model_mp_{rank}.pt")
    (source / "model.pt").unlink()
    return {name.removeprefix("model."): value for name, value in state.items()}


@pytest.mark.parametrize("given", ["", "small_model_mp_1.pt"])
def test_shards_are_merged(given: str, source: Path, tmp_path: Path) -> None:
    whole = _divide(source, 2)
    written = _weights(convert(source / given, tmp_path / "world"))
    assert written.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in written.items())


def test_shards_are_divided_as_published() -> None:
    dimensions = {name: split_dimension(name) for name in _infos(COSMOS["cosmos-5b-video2world"])}
    assert dimensions["tok_embeddings.weight"] == dimensions["output.weight"] == 0
    for part in ("attention", "cross_attention"):
        assert [dimensions[f"layers.3.{part}.{n}.weight"] for n in ("wq", "wk", "wv")] == [0, 0, 0]
        assert dimensions[f"layers.3.{part}.wo.weight"] == 1
        assert dimensions[f"layers.3.{part}.q_norm.weight"] is None
    feed_forward = [dimensions[f"layers.3.feed_forward.w{n}.weight"] for n in (1, 2, 3)]
    assert feed_forward == [0, 1, 0]
    assert dimensions["norm.weight"] is dimensions["layers.3.cross_attention_norm.weight"] is None


def test_a_gap_in_the_shards_is_refused(source: Path, tmp_path: Path) -> None:
    _divide(source, 4)
    (source / "small_model_mp_1.pt").unlink()
    assert "no small_model_mp_1.pt" in _refused(source, tmp_path)
    (source / "small_model_mp_2.pt").unlink()
    (source / "small_model_mp_3.pt").unlink()
    assert "tok_embeddings.weight [160, 96] instead of [640, 96]" in _refused(source, tmp_path)


def test_shards_of_two_models_are_refused(source: Path, tmp_path: Path) -> None:
    _divide(source, 2)
    path = source / "small_model_mp_1.pt"
    data = torch.load(path, weights_only=True)
    data["model"]["model.norm.weight"] += 1
    torch.save(data, path)
    assert "different norm.weight" in _refused(source, tmp_path)
    del data["model"]["model.norm.weight"]
    torch.save(data, path)
    assert "1 missing (norm.weight)" in _refused(source, tmp_path)


# -- what is refused ------------------------------------------------------------------------------


def test_wrong_tensors_are_listed_by_name(source: Path, tmp_path: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        del state["model.layers.1.attention.wk.weight"]
        state["model.medusa_head.0.weight"] = torch.ones(2)
        state["model.norm.weight"] = torch.ones(95)
        state["model.layers.0.feed_forward.w1.weight"] = torch.ones(160, 96, dtype=torch.int8)

    _edit(source, change)
    error = _refused(source, tmp_path)
    assert "1 missing (layers.1.attention.wk.weight)" in error
    assert "1 unexpected (medusa_head.0.weight)" in error
    assert "2 misshapen (" in error and "norm.weight [95] instead of [96]" in error
    assert "layers.0.feed_forward.w1.weight is not of type bfloat16" in error


def test_a_long_list_is_cut(source: Path, tmp_path: Path) -> None:
    _edit(source, lambda state: state.update({f"extra.{i}": torch.ones(1) for i in range(31)}))
    error = _refused(source, tmp_path)
    assert "31 unexpected (extra.0, " in error and "extra.19 and 11 more)" in error
    assert "extra.20" not in error


def test_a_size_that_it_is_not(source: Path, tmp_path: Path) -> None:
    error = _refused(source, tmp_path, size="12b")
    assert "not those of cosmos-12b" in error and "[640, 96] instead of [64000, 5120]" in error
    assert "expected one of 4b, 5b, 12b, 13b" in _refused(source, tmp_path, size="7b")
    (source / "config.json").unlink()
    assert "4096 or 5120 wide" in _refused(source, tmp_path)


def test_a_truncated_file(source: Path, tmp_path: Path) -> None:
    path = source / "model.pt"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    error = _refused(source, tmp_path)
    assert "is damaged" in error and f"{len(data) // 2:,} bytes" in error
    path.write_bytes(b"")
    assert "0 bytes" in _refused(source, tmp_path)


def test_a_truncated_safetensors_file(source: Path, tmp_path: Path) -> None:
    state = torch.load(source / "model.pt", weights_only=True)["model"]
    (source / "model.pt").unlink()
    path = source / "model.safetensors"
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "expected a whole safetensors file" in _refused(source, tmp_path)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_a_foreign_pickle_is_refused_and_not_run(source: Path, tmp_path: Path) -> None:
    bomb = Bomb(str(tmp_path / "it went off"))
    torch.save({"model": bomb}, source / "model.pt")
    assert "have not been loaded" in _refused(source, tmp_path)
    (source / "model.pt").write_bytes(pickle.dumps(bomb))
    assert "in another format" in _refused(source, tmp_path)
    torch.save(bomb, source / "tokenizer" / "autoencoder.pt")
    shutil.copy(GOLDEN / "ar_base" / "model.pt", source)
    assert "have not been loaded" in _refused(source, tmp_path)
    assert not (tmp_path / "it went off").exists()


@pytest.mark.parametrize("content", [{"model": [1, 2]}, {"epoch": 3}, {}, [torch.ones(1)]])
def test_a_file_with_something_else(content: object, source: Path, tmp_path: Path) -> None:
    torch.save(content, source / "model.pt")
    assert "is not a checkpoint" in _refused(source, tmp_path)


def test_places_without_a_checkpoint(source: Path, tmp_path: Path) -> None:
    assert "no such file" in _refused(tmp_path / "nothing.pt", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "an empty folder" in _refused(tmp_path / "empty", tmp_path)
    (tmp_path / "world.json").write_text('{"format": 1, "name": "embedded"}')
    assert "not a world folder of a Cosmos" in _refused(tmp_path, tmp_path)
    (tmp_path / "world.json").write_text('{"format": 1, "kind": "cosmos"}')
    assert "KeyError" in _refused(tmp_path, tmp_path)


def test_what_is_there_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "results" / "world"
    target.mkdir(parents=True)
    (target / "precious").touch()
    assert "in the way" in _refused(source, tmp_path)
    (target / "precious").unlink()
    assert convert(source, target) == target
    load_world(target)


def test_nothing_is_left_when_writing_fails(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(checkpoint: Checkpoint, names: list[str]) -> dict[str, Tensor]:
        assert any((tmp_path / "results").iterdir())  # it had begun
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoint, "read", full)
    assert "No space left" in _refused(source, tmp_path)


# -- tokenizers -----------------------------------------------------------------------------------


class Node(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def _script(path: Path, state: dict[str, Tensor]) -> None:
    """A TorchScript file whose state dict is this."""
    root = Node()
    for name, value in state.items():
        *parents, leaf = name.split(".")
        node: nn.Module = root
        for parent in parents:
            if parent not in dict(node.named_children()):
                node.add_module(parent, Node())
            node = node.get_submodule(parent)
        node.register_buffer(leaf, value)
    torch.jit.script(root).save(str(path))


def test_published_torchscript_halves(source: Path, tmp_path: Path) -> None:
    """As published, with the constants that their modules hold, and found from either half."""
    folder = source / "tokenizer"
    first = convert(source, tmp_path / "first")
    state = torch.load(folder / "autoencoder.pt", weights_only=True)
    (folder / "autoencoder.pt").unlink()
    halves: dict[str, dict[str, Tensor]] = {"encoder.jit": {}, "decoder.jit": {}}
    for name, value in state.items():
        half = "encoder.jit" if name.startswith(("encoder.", "quant_conv.")) else "decoder.jit"
        halves[half][name] = value
    halves["encoder.jit"]["encoder.patcher3d.wavelets"] = torch.ones(2)
    halves["encoder.jit"]["quantizer._levels"] = torch.tensor(LEVELS[640])
    halves["decoder.jit"]["decoder.unpatcher3d._arange"] = torch.ones(2)
    for half, part in halves.items():
        _script(folder / half, part)
    second = convert(source, tmp_path / "second", tokenizer=folder / "decoder.jit")
    third = convert(source, tmp_path / "third")
    ours, other, last = (load_file(f / "tokenizer.safetensors") for f in (first, second, third))
    assert ours.keys() == other.keys() == last.keys()
    assert all(torch.equal(other[n], v) and torch.equal(last[n], v) for n, v in ours.items())

    (folder / "decoder.jit").write_bytes(b"PK\x03\x04 and no more")
    assert "decoder.jit is damaged" in _refused(source, tmp_path)
    (folder / "decoder.jit").unlink()
    assert "no tokenizer" in _refused(source, tmp_path)


def test_the_converted_tokenizer_gives_the_same_codes(tmp_path: Path) -> None:
    """The golden tokenizer, with a small model of as many codes."""
    config = TransformerConfig(
        dim=16,
        n_layers=1,
        n_heads=2,
        n_kv_heads=1,
        head_dim=8,
        ffn_hidden_size=16,
        vocab_size=64000,
        latent_shape=(1, 2, 2),
    )
    write_checkpoint(tmp_path, config)
    data = config.to_dict() | {
        "input_vocab_rows": 64000,
        "video_latent_shape": [1, 2, 2],
        "checkpoint_prefix": "model.",
    }
    (tmp_path / "config.json").write_text(json.dumps(data))
    folder = convert(
        tmp_path, tmp_path / "world", tokenizer=GOLDEN / "tokenizer_dv8x16x16" / "autoencoder.pt"
    )
    reference, tensors = load_tokenizer_reference(GOLDEN / "tokenizer_dv8x16x16")
    world = load_world(folder)
    assert world.tokenizer.config == dataclasses.replace(DV8X16X16, channels=16)
    video = tensors["video"][None, :, :1]
    with torch.inference_mode():
        assert torch.equal(world.tokenizer.encode(video), reference.encode(video))


@pytest.mark.parametrize("config", [DV8X16X16, DV8X8X8, DV4X8X8])
def test_published_tokenizers_are_recognised(config: TokenizerConfig) -> None:
    from worldbridge.models.convert.tokenizer import _nearest

    with torch.device("meta"):
        shapes = shapes_of(VideoTokenizer(config))
    infos = {name: Info(shape, torch.bfloat16) for name, shape in shapes.items()}
    assert _nearest(infos) == config
    infos.pop("decoder.conv_out.1.conv3d.bias")
    assert _nearest(infos) == config


def test_the_wrong_tokenizer(source: Path, tmp_path: Path) -> None:
    other = _tokenizer(tmp_path / "other", 512)
    error = _refused(source, tmp_path, tokenizer=other)
    assert "wrong tokenizer for the model: expected 640 codes" in error and "got 512" in error
    error = _refused(source, tmp_path, tokenizer=GOLDEN / "tokenizer_dv8x16x16")
    assert "wrong tokenizer for the model: expected 640 codes" in error and "got 64000" in error
    error = _refused(source, tmp_path, tokenizer=GOLDEN / "ar_base" / "model.pt")
    assert "wrong tokenizer for the model: expected the encoder and decoder" in error


def test_a_tokenizer_with_other_codes_or_patches(source: Path, tmp_path: Path) -> None:
    path = source / "tokenizer" / "autoencoder.pt"
    whole = torch.load(path, weights_only=True)
    for name, change in (
        ("quant_conv.conv3d.weight", torch.ones(16, 4, 1, 1, 1)),
        ("encoder.conv_in.0.conv3d.weight", torch.ones(4, 24, 1, 3, 3)),
        ("quantizer._levels", torch.tensor([4, 16, 5, 2])),
    ):
        torch.save(whole | {name: change}, path)
        assert "wrong tokenizer for the model" in _refused(source, tmp_path)
    del whole["decoder.conv_in.0.conv3d.bias"]
    torch.save(whole, path)
    assert "1 missing (decoder.conv_in.0.conv3d.bias)" in _refused(source, tmp_path)


# -- the command ----------------------------------------------------------------------------------


def test_the_command(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worldbridge", "convert", str(source), "--out"]
    target = tmp_path / "world"
    done = subprocess.run(
        [*command, str(target), "--name", "mine"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "writing file 1 of 1" in done.stderr
    assert load_world(target).name == "mine"

    failed = subprocess.run(
        [*command, str(tmp_path / "no"), "--size", "4b"], capture_output=True, text=True, timeout=60
    )
    assert failed.returncode == 2
    assert "not those of cosmos-4b" in failed.stderr and "Traceback" not in failed.stderr
    assert not (tmp_path / "no").exists()


def test_the_command_names_a_git_lfs_pointer(source: Path, tmp_path: Path) -> None:
    (source / "model.pt").write_text(POINTER)
    command = [sys.executable, "-m", "worldbridge", "convert", str(source), "--out"]
    failed = subprocess.run(
        [*command, str(tmp_path / "no")], capture_output=True, text=True, timeout=100
    )
    assert failed.returncode == 2 and "Git LFS pointer" in failed.stderr
    assert "git lfs pull" in failed.stderr and "Traceback" not in failed.stderr


def test_a_synthetic_checkpoint_has_the_published_layout(tmp_path: Path) -> None:
    config = load_reference(GOLDEN / "ar_base")[0].config
    (path,) = write_checkpoint(tmp_path, config)
    ours, published = (
        torch.load(p, weights_only=True) for p in (path, GOLDEN / "ar_base" / "model.pt")
    )
    assert ours.keys() == published.keys() == {"model"}
    for name, value in published["model"].items():
        assert (ours["model"][name].shape, ours["model"][name].dtype) == (value.shape, value.dtype)
    paths = write_checkpoint(tmp_path / "ranks", config, ranks=2)
    assert Checkpoint.open(paths[0]).infos == Checkpoint.open(path).infos


def test_another_resolution_changes_the_grid_alone(source: Path, tmp_path: Path) -> None:
    out = convert(source, tmp_path / "out", resolution=(12, 20))
    manifest = read_manifest(out)
    assert manifest["transformer"]["latent_shape"][1:] == [3, 5]  # compression 4
    assert manifest["name"] == "cosmos-12p"
    whole = convert(source, tmp_path / "whole")
    assert manifest["files"] == read_manifest(whole)["files"]
    again = read_manifest(convert(out, tmp_path / "again", resolution=(16, 20)))
    assert again["name"] == "cosmos-16p"


def test_a_resolution_that_does_not_divide_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="multiples of 4, got 10x16"):
        convert(source, tmp_path / "out", resolution=(10, 16))
    assert not (tmp_path / "out").exists()


def test_rate_and_context_are_the_worlds_own(source: Path, tmp_path: Path) -> None:
    plain = read_manifest(convert(source, tmp_path / "plain"))
    assert plain["frames_per_second"] == 25 and "window" not in plain
    trained = plain["transformer"]["latent_shape"][0]
    out = convert(source, tmp_path / "out", frames_per_second=12.5, context=2, slide="rotate")
    manifest = read_manifest(out)
    assert manifest["frames_per_second"] == 12.5
    assert manifest["window"] == {"latents": 2, "slide": "rotate"}
    world = load_cosmos(out, WorkerConfig(seats=1, device="cpu"), lambda *_: None)
    assert (world.spec.fps, world.spec.context_latents) == (12.5, 2)
    assert (world.decoder.max_latents, world.decoder.options.slide) == (2, "rotate")
    for wrong in (1, trained + 1):
        with pytest.raises(ConvertError, match=f"2 to {trained} latents.*got {wrong}"):
            convert(source, tmp_path / "no", context=wrong)
    with pytest.raises(ConvertError, match="at most 120, got 0"):
        convert(source, tmp_path / "no", frames_per_second=0)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "window", [{"latents": 9}, {"latents": "2"}, {"other": 1}, [2], {"keep": 0}, {"keep": "1"}]
)
def test_a_window_that_cannot_be_is_a_damaged_world(
    window: object, source: Path, tmp_path: Path
) -> None:
    out = convert(source, tmp_path / "out")
    manifest = read_manifest(out)
    (out / "world.json").write_text(json.dumps({**manifest, "window": window}))
    with pytest.raises(DamagedWeightsError, match="is damaged"):
        spec_of(out)
