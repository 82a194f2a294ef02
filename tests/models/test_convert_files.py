"""Weight files as data: the same numbers, no memory, no writing, and no code is run."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worldbridge.models.convert.files import contents, read
from worldbridge.models.errors import ConvertError


def saved(path: Path) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(30, 20, generator=generator)
    state = {
        "table": table,
        "turned": table.t(),
        "piece": table[3:7, 5:],
        "half": torch.randn(7, 3, generator=generator).to(torch.bfloat16),
        "number": torch.tensor(4.5),
        "nothing": torch.empty(0, 5),
    }
    torch.save(state, path)
    return state


def test_views_are_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = saved(path)
    found = read(path, state)
    assert list(found) == list(state)
    for name, value in state.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_the_file_is_mapped_for_reading_only(tmp_path: Path) -> None:
    """A private writable mapping counts as memory: one larger than the machine's is refused."""
    path = tmp_path / "model.pt"
    saved(path)
    found = read(path, ["table"])
    lines = Path("/proc/self/maps").read_text().splitlines()
    ways = {line.split()[1] for line in lines if line.endswith(str(path))}
    assert ways == {"r--s"} and found["table"].any()


def rezipped(path: Path, change: Callable[[str, bytes], bytes], compression: int) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


@pytest.mark.parametrize("way", ["packed", "short", "moved"])
def test_tensors_that_are_not_where_the_file_says_are_refused(way: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = saved(path)
    compression = zipfile.ZIP_DEFLATED if way == "packed" else zipfile.ZIP_STORED

    def change(name: str, data: bytes) -> bytes:
        return data[:-4] if way == "short" and "/data/" in name else data

    rezipped(path, change, compression)  # "moved": without the padding that gives the places
    try:
        found = read(path, ["table"])["table"]
    except ConvertError as error:
        assert "cannot be read" in str(error) or "not a checkpoint" in str(error)
    else:
        assert way == "moved" and torch.equal(found, state["table"])


# -- code in files --------------------------------------------------------------------------------


class Overwriting(nn.Module):
    """A TorchScript module that overwrites a file when torch.jit.load makes it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.register_buffer("w", torch.ones(3))

    @torch.jit.export
    def __getstate__(self):  # type: ignore[no-untyped-def]
        return (self.w, self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.path, self.training = state[1], state[2]
        # kept, or TorchScript would leave out what has no use
        self.w = torch.from_file(self.path, True, 16, dtype=torch.uint8).fill_(65).float()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.m = inner
        self.register_buffer("v", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.m(x) + self.v.sum()  # type: ignore[no-any-return]


def test_code_of_a_script_is_not_run(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "decoder.jit"
    victim.write_text("my precious content")
    script = torch.jit.script(Overwriting(str(victim)))
    script.save(str(path))
    with pytest.raises(ConvertError, match="have not been loaded"):
        contents(path)
    torch.jit.script(Around(script)).save(str(path))
    assert list(contents(path)) == ["v"] and torch.equal(read(path, ["v"])["v"], torch.arange(4.0))
    assert victim.read_text() == "my precious content"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["decoder.jit", "victim"]
    torch.jit.load(str(path))
    assert victim.read_text() == "A" * 16 + "ent", "the code does nothing where it is run"


class Calling:
    def __init__(
        self, function: Callable[..., object], *arguments: object, state: object = None
    ) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


def archive_of(path: Path, description: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", description)
        archive.writestr("archive/byteorder", b"little")
    return path


@pytest.mark.parametrize("suffix", [".pt", ".jit"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_functions_in_a_description_are_not_called(suffix: str, depth: int, tmp_path: Path) -> None:
    content: object = Calling(os.mkdir, str(tmp_path / "called"))
    for _ in range(depth):
        content = {"model": content}
    path = archive_of(tmp_path / f"model{suffix}", pickle.dumps(content))
    with pytest.raises(ConvertError, match="is not a checkpoint"):
        contents(path)
    assert not (tmp_path / "called").exists()


class Loop:
    """An object that contains itself."""

    def __init__(self) -> None:
        self.again = self


def tensors_at(*pieces: tuple[object, ...], state: object = None) -> bytes:
    """A description with tensors of any (offset, shape, stride) in a storage of 10 floats.

    `state` is set by a BUILD opcode once a tensor has been made.
    """

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", 10)
            return None

    rebuild = torch._utils._rebuild_tensor_v2
    content = {
        str(i): Calling(rebuild, Storage(), *piece, False, {}, state=state)
        for i, piece in enumerate(pieces)
    }
    file = io.BytesIO()
    Pickler(file).dump(content)
    return file.getvalue()


@pytest.mark.parametrize(
    "description",
    [
        pickle.dumps(Loop()),
        pickle.dumps({"model": {"a": 1}})[:-3],
        b"\x80\x04\x8c\x01a" + b"r\xff\xff\xff\x7f" + b".",
        tensors_at((0, (10,), (1,)), state=("0", 10, torch.FloatStorage, 0, (1 << 40,), (1,))),
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
        tensors_at((0, (11,), (1,))),
        tensors_at((-1, (1,), (1,))),
        tensors_at((0, (2, 2), (1,))),
        tensors_at((0, (2,), (-1,))),
        tensors_at((0, (1 << 62, 1 << 62), (0, 10))),
        tensors_at((0, ("a",), (1,))),
    ],
    ids=[
        "loop",
        "cut",
        "memo",
        "build",
        "buffer",
        "long",
        "before",
        "rank",
        "backwards",
        "huge",
        "text",
    ],
)
def test_a_description_that_is_wrong_is_refused(description: bytes, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="is not a checkpoint"):
        contents(archive_of(tmp_path / "model.pt", description))


def mutated(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 4])):
        place, length = random.randrange(len(changed)), random.randrange(1, 6)
        match random.randrange(3):
            case 0:
                changed[place] = random.randrange(256)
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = random.randbytes(length)
    return bytes(changed)


@pytest.mark.parametrize("part", ["file", "description"])
@pytest.mark.parametrize("suffix", [".pt", ".jit"])
def test_damage_anywhere_is_an_error_of_ours(suffix: str, part: str, tmp_path: Path) -> None:
    """Whatever bytes change: tensors of the right size, or ConvertError, and little memory."""
    path, random = tmp_path / f"model{suffix}", Random(7)
    if suffix == ".pt":
        saved(path)
    else:
        torch.jit.script(Around(nn.Linear(3, 2))).save(str(path))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(150):
        if part == "file":
            path.write_bytes(mutated(whole, random))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in records.items():
                    own = name.endswith("data.pkl")
                    archive.writestr(name, mutated(data, random) if own else data)
        try:
            found = contents(path)
            tensors = read(path, found)
        except ConvertError as error:
            assert error.expected and error.got and error.remedy
        else:
            assert {name: tuple(x.shape) for name, x in tensors.items()} == {
                name: info.shape for name, info in found.items()
            }
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 << 20  # kilobytes


def test_an_archive_that_unpacks_to_much_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 20))
    with pytest.raises(ConvertError, match="compressed or too large"):
        contents(path)


# -- other files in the place of weights ----------------------------------------------------------

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064}\nsize 8200000000\n"
LEGACY = io.BytesIO()
torch.save({"a": torch.ones(1)}, LEGACY, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "encoder.jit"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER.encode(), "Git LFS pointer.*git lfs pull"),
        (b"", "an empty file, 0 bytes"),
        (b"<!DOCTYPE html><title>Log in</title>", "a web page .*log in"),
        (b"\x1f\x8b\x08\0", "a gzip archive .*unpack it"),
        (LEGACY.getvalue(), "before PyTorch 1.6 .*save it again"),
    ],
    ids=["lfs", "empty", "page", "gzip", "legacy"],
)
def test_what_is_often_there_instead_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for use in (contents, lambda p: read(p, ["a"])):
        with pytest.raises(ConvertError, match=message):
            use(path)
