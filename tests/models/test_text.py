"""Prompts: files of embeddings, and a real (tiny) T5 encoder where `transformers` is installed."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.test_convert_files import POINTER
from worldbridge.models.conditioning.text import (
    ROWS,
    Prompt,
    embed_text,
    load_embeddings,
    prompt_context,
)
from worldbridge.models.errors import TextError

DIM = 16


def rows(count: int = 7, dim: int = DIM, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0)).to(dtype)


def padded(values: Tensor) -> Tensor:
    result = torch.zeros(ROWS, DIM)
    result[: len(values)] = values.float()
    return result


def refused(path: Path, *messages: str) -> None:
    with pytest.raises(TextError) as caught:
        load_embeddings(path, DIM)
    error = caught.value
    assert error.message and error.expected and error.got and error.remedy
    for part in messages:
        assert part in str(error), str(error)


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_type_in_safetensors_and_torch_files(dtype: torch.dtype, tmp_path: Path) -> None:
    values = rows(dtype=dtype)
    save_file({"whatever": values}, tmp_path / "a.safetensors")
    save_file({"embeddings": values[None], "other": rows(2)}, tmp_path / "b.safetensors")
    torch.save(values[None], tmp_path / "c.pt")
    torch.save({"embeddings": values, "text": "a market", "x": rows(1)}, tmp_path / "d.pth")
    for path in tmp_path.iterdir():
        found = load_embeddings(path, DIM)
        assert found.dtype == torch.float32
        assert torch.equal(found, padded(values)), path


@pytest.mark.parametrize("count", [1, 512])
def test_numpy_files_of_any_length(count: int, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows(count).numpy())
    assert torch.equal(load_embeddings(tmp_path / "a.npy", DIM), padded(rows(count)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_masked_rows_are_zero(dtype: torch.dtype, tmp_path: Path) -> None:
    """As a padded tokenizer leaves them: [1, 512, width] and a mask."""
    mask = (torch.arange(ROWS) < 5).to(dtype)[None]
    save_file({"embeddings": rows(ROWS)[None], "mask": mask}, tmp_path / "a.safetensors")
    assert torch.equal(load_embeddings(tmp_path / "a.safetensors", DIM), padded(rows(ROWS)[:5]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (rows(7, 15), "[7, 15]"),
        (rows(513), "[513, 16]"),
        (rows(0), "[0, 16]"),
        (rows(7)[0], "[16]"),
        (torch.stack([rows(7), rows(7)]), "[2, 7, 16]"),
        (rows(7).to(torch.int32), "32"),
        (rows(7) * float("nan"), "112 of 112"),
        (rows(7).index_fill(0, torch.tensor([2]), float("inf")), "16 of 112"),
        (torch.zeros(7, DIM), "7 rows of zeros"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".pt"])
def test_what_does_not_fit_is_reported_with_its_numbers(
    values: Tensor, message: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, values.numpy())
    elif suffix == ".pt":
        torch.save(values, path)
    else:
        save_file({"a": values.contiguous()}, path)
    refused(path, str(path), message)


def test_a_mask_of_another_length(tmp_path: Path) -> None:
    save_file({"embeddings": rows(7), "mask": torch.ones(6)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "a mask of 7 values", "[6]")


class _Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


def test_files_that_are_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path / "a.npy", "no such file")
    refused(tmp_path, "a folder")
    (tmp_path / "a.txt").write_text("hello")
    refused(tmp_path / "a.txt", ".safetensors, .npy, .pt or .pth", ".txt")
    for name in ("a.safetensors", "a.npy", "a.pt"):
        (tmp_path / name).write_bytes(b"\x80\x04hello")
        refused(tmp_path / name, name)
    torch.save(_Harmful(), tmp_path / "b.pt")
    refused(tmp_path / "b.pt", "no objects")
    np.save(tmp_path / "b.npy", np.array([_Harmful()], dtype=object), allow_pickle=True)
    refused(tmp_path / "b.npy", "numpy.save")
    assert not (tmp_path / "harmed").exists()
    torch.save([1, 2], tmp_path / "c.pt")
    refused(tmp_path / "c.pt", "a list")
    save_file({"a": rows(1), "b": rows(1)}, tmp_path / "c.safetensors")
    refused(tmp_path / "c.safetensors", "2 tensors: 'a', 'b'")


def test_a_prompt_is_a_file_or_a_text_with_its_encoder(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows().numpy())
    assert torch.equal(prompt_context(Prompt(tmp_path / "a.npy"), DIM), padded(rows()))
    for prompt, got in (
        (Prompt(tmp_path / "a.npy", "a market"), "both"),
        (Prompt(text="a market"), "a text alone"),
        (Prompt(t5=tmp_path), "a folder alone"),
    ):
        with pytest.raises(TextError, match=f"got {got}"):
            prompt_context(prompt, DIM)


# -- T5 -------------------------------------------------------------------------------------------


def folder_of(tmp_path: Path, **config: object) -> Path:
    folder = tmp_path / "t5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": DIM, **config}))
    return folder


def test_a_folder_is_verified_before_the_package_is_needed(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="nothing is downloaded"):
        embed_text("a market", Path("google-t5/t5-11b"), DIM)
    with pytest.raises(TextError, match="expected model_type 't5' 1024 wide.*d_model 16"):
        embed_text("a market", folder_of(tmp_path), 1024)
    with pytest.raises(TextError, match="model_type 'bert'"):
        embed_text("a market", folder_of(tmp_path / "t5", model_type="bert"), DIM)
    with pytest.raises(TextError, match="empty prompt"):
        embed_text(" ", tmp_path / "t5", DIM)


def test_without_the_package_it_says_which_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TextError, match=r"package transformers.*worldbridge\[text\]"):
        embed_text("a market", folder_of(tmp_path), DIM)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A T5 of random weights and a tokenizer of a few words, saved as the published ones are."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path / "tiny-t5"
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=40, d_model=DIM, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    transformers.T5EncoderModel(config).save_pretrained(folder)
    words = ["<pad>", "</s>", "<unk>", "a", "market", "at", "night", "rain"]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def test_a_text_becomes_what_the_published_way_makes_of_it(encoder: Path) -> None:
    """All 512 rows computed with a mask, then those behind the text set to zero."""
    import transformers  # type: ignore[import-not-found,unused-ignore]

    found = embed_text("a market at night", encoder, DIM)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(encoder), local_files_only=True)
    model = transformers.T5EncoderModel.from_pretrained(str(encoder), local_files_only=True).eval()
    tokens = tokenizer(
        "a market at night",
        max_length=ROWS,
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        hidden = model(**{k: tokens[k] for k in ("input_ids", "attention_mask")})
    expected = hidden.last_hidden_state[0] * tokens["attention_mask"][0][:, None]
    assert found.shape == (ROWS, DIM)
    assert int(found.any(-1).sum()) == 5, "four words and the end"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    other = embed_text("a market at night rain", encoder, DIM)
    assert not torch.equal(found, other)
    assert int(embed_text("market " * 600, encoder, DIM).any(-1).sum()) == ROWS


def test_the_command_writes_what_serve_reads(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "prompt.safetensors"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "worldbridge.models.conditioning.text",
            "--t5",
            str(encoder),
            "--out",
            str(out),
            "a market",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 512 rows, 16 wide" in done.stdout
    assert torch.equal(load_embeddings(out, DIM), embed_text("a market", encoder, DIM))
    assert list(load_file(out)) == ["embeddings"]


def test_an_encoder_that_is_incomplete_is_refused(encoder: Path) -> None:
    for path in encoder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(TextError, match="cannot be loaded.*nothing is downloaded"):
        embed_text("a market", encoder, DIM)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "spiece.model"])
def test_a_git_lfs_pointer_in_an_encoder_is_named(name: str, tmp_path: Path) -> None:
    """Before the library is imported: a clone made without git-lfs is all that is there."""
    (tmp_path / "config.json").write_text(f'{{"model_type": "t5", "d_model": {DIM}}}')
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(TextError, match=f"{name} has no weights.*Git LFS pointer.*git lfs pull"):
        embed_text("a market", tmp_path, DIM)


def test_it_is_imported_only_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def guarded(name: str, *rest: Any) -> Any:
        assert not name.startswith("transformers")
        return known(name, *rest)

    monkeypatch.setattr(builtins, "__import__", guarded)
    for name in [n for n in sys.modules if n == "worldbridge.models.conditioning.text"]:
        monkeypatch.delitem(sys.modules, name)
    import worldbridge.models.conditioning.text  # noqa: F401
