"""A world on disk: `world.json` (configs, checksums) beside its safetensors files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldbridge.errors import StructuredError
from worldbridge.models.errors import DamagedWorldError, InputError
from worldbridge.models.tokenizer import TokenizerConfig, VideoTokenizer
from worldbridge.models.transformer import MedusaHeads, TransformerConfig, VideoTransformer

__all__ = [
    "EMBEDDED_WORLD",
    "FORMAT",
    "World",
    "atomic_directory",
    "check_file",
    "check_out",
    "check_weights_file",
    "describe_file",
    "load_tokenizer",
    "load_world",
    "read_manifest",
    "save_world",
]

EMBEDDED_WORLD = Path(__file__).parent / "weights" / "embedded"

FORMAT = 1
_FILES = ("tokenizer", "transformer")


@dataclass(frozen=True, slots=True)
class World:
    """Loaded networks of a world, in evaluation mode."""

    name: str
    manifest: dict[str, Any]
    tokenizer: VideoTokenizer
    transformer: VideoTransformer
    heads: MedusaHeads | None = None


def save_world(
    folder: Path,
    tokenizer: VideoTokenizer,
    transformer: VideoTransformer,
    extra: Mapping[str, Any] | None = None,
    heads: MedusaHeads | None = None,
) -> None:
    """Write a world folder; weights as float16 to halve the download, configs as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": "embedded",
        "title": "Embedded world",
        "frames_per_second": 15,
        "sampling": {"temperature": 1.1, "top_p": 1.0, "top_k": 32},
        "tokenizer": dataclasses.asdict(tokenizer.config),
        "transformer": transformer.config.to_dict(),
        **(extra or {}),
    }
    files = {}
    modules = dict(zip(_FILES, (tokenizer, transformer), strict=True))
    if heads is not None:
        manifest["heads"] = {"count": heads.count}
        modules["heads"] = heads
    else:  # of a world that was here before
        (folder / "heads.safetensors").unlink(missing_ok=True)
    for name, module in modules.items():
        state = {k: v.detach().half().contiguous() for k, v in module.state_dict().items()}
        path = folder / f"{name}.safetensors"
        save_file(state, path)
        files[name] = describe_file(path)
    manifest["files"] = files
    (folder / "world.json").write_text(json.dumps(manifest, indent=2) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The parsed world.json. Raises DamagedWorldError when it is missing or not one of ours."""
    path = folder / "world.json"
    if not path.is_file():
        raise DamagedWorldError(
            "not a world folder",
            expected=f"a file {path}",
            got="no such file",
            remedy="pass a folder made by `worldbridge train`, or the name of a known world",
        )
    try:
        manifest = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedWorldError(
            f"{path} cannot be read", expected="JSON", got=str(error), remedy="restore the file"
        ) from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DamagedWorldError(
            f"{path} has another format",
            expected=f"format {FORMAT}",
            got=f"{found!r}",
            remedy="use the version of worldbridge that wrote it, or train it again",
        )
    result: dict[str, Any] = manifest
    return result


def load_world(folder: Path, keep_types: bool = False) -> World:
    """Check checksums and shapes, then load the networks of a world in evaluation mode.

    In float32, or with `keep_types` in the types on the disk, where the transformer's weights stay
    in their files until they are used. Raises DamagedWorldError.
    """
    manifest = read_manifest(folder)
    with _complete(folder):
        files = manifest["files"]
        states = {name: _load_checked(folder, files[name], keep_types) for name in _FILES}
        tokenizer = _build_tokenizer(folder, manifest, states["tokenizer"])
        with torch.device("meta"):
            transformer = VideoTransformer(TransformerConfig.from_dict(manifest["transformer"]))
        if keep_types:
            tokenizer.to(next(iter(states["tokenizer"].values())).dtype)
        _fill(folder, tokenizer, states["tokenizer"], assign=False)
        _fill(folder, transformer, states["transformer"], assign=True)
        heads = _load_heads(folder, manifest, transformer.config.dim, keep_types)
        for module in (tokenizer, transformer):
            module.eval().requires_grad_(False)
        return World(manifest["name"], manifest, tokenizer, transformer, heads)


def load_tokenizer(folder: Path) -> tuple[dict[str, Any], VideoTokenizer]:
    """Return the manifest and the tokenizer alone, in float32, checked as by `load_world`."""
    manifest = read_manifest(folder)
    with _complete(folder):
        state = _load_checked(folder, manifest["files"]["tokenizer"], keep_types=False)
        tokenizer = _build_tokenizer(folder, manifest, state)
    _fill(folder, tokenizer, state, assign=False)
    return manifest, tokenizer.eval().requires_grad_(False)


@contextmanager
def _complete(folder: Path) -> Iterator[None]:
    """Turn what a manifest with missing or wrong fields raises into DamagedWorldError."""
    try:
        yield
    except DamagedWorldError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedWorldError(
            f"{folder / 'world.json'} is damaged",
            expected="the description of a world with its networks",
            got=f"{type(error).__name__}: {error}",
            remedy="copy the world again, or make it again",
        ) from error


def _build_tokenizer(
    folder: Path, manifest: dict[str, Any], state: dict[str, Tensor]
) -> VideoTokenizer:
    """Build the tokenizer, after a check that needs no memory: the sizes in world.json may lie."""
    config = TokenizerConfig.from_dict(manifest["tokenizer"])
    with torch.device("meta"):
        shapes = VideoTokenizer(config)
    _fill(folder, shapes, {name: value.to("meta") for name, value in state.items()}, assign=False)
    return VideoTokenizer(config)


def _fill(folder: Path, module: nn.Module, state: dict[str, Tensor], assign: bool) -> None:
    """Raises DamagedWorldError unless these are the module's tensors, each in its shape."""
    try:
        module.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        differences = "; ".join(line.strip() for line in str(error).splitlines()[1:]) or str(error)
        raise DamagedWorldError(
            f"the weights in {folder} are not those of its world.json",
            expected=f"the tensors of the {type(module).__name__} described there",
            got=differences[:1000],
            remedy="undo changes of world.json, or make the world again",
        ) from error


def describe_file(path: Path) -> dict[str, Any]:
    """Return the entry of world.json for a file of weights."""
    return {"file": path.name, "sha256": _checksum(path), "bytes": path.stat().st_size}


def check_file(folder: Path, entry: Any, error: type[InputError] = DamagedWorldError) -> Path:
    """Return the file in `folder` that a manifest's entry describes.

    Raises `error` if the entry names a file anywhere else, or the file is not the described one.
    """
    remedy = "restore the file (reinstall the package, or copy the folder again)"
    facts = [entry.get(key) for key in ("file", "sha256")] if isinstance(entry, dict) else []
    if len(facts) != 2 or not all(isinstance(fact, str) for fact in facts):
        expected = "the name and the sha256 of each file"
        raise error(
            f"the manifest in {folder} is damaged", expected=expected, got=f"{entry!r}"[:200]
        )
    name, wanted = map(str, facts)
    path: Path = folder / name
    if Path(name).name != name or path.resolve().parent != folder.resolve():
        raise error(
            f"the manifest in {folder} names a file outside of that folder",
            expected="the plain name of a file in the folder, which is no link to another place",
            got=name,
            remedy="do not use this folder unless you know who made it",
        )
    if not path.is_file():
        raise error(f"weights {path} are missing", expected=name, got="no such file", remedy=remedy)
    found = _checksum(path)
    if found != wanted:
        check_weights_file(path, error)
        raise error(
            f"weights {path} are damaged",
            expected=f"sha256 {wanted} ({entry.get('bytes')} bytes)",
            got=f"sha256 {found} ({path.stat().st_size} bytes)",
            remedy=remedy,
        )
    return path


# What is often there in place of a file of weights: its first bytes, what it is, what helps.
_MISTAKEN = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, which stands for the file in a clone made without git-lfs",
        "run `git lfs install` and `git lfs pull` in the clone, or download the file itself",
    ),
    (b"<", "a web page", "download the file itself; the page may ask you to log in first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it first"),
    (b"(\xb5/\xfd", "a Zstandard archive", "unpack it first"),
    (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "a PyTorch file in the format before PyTorch 1.6",
        "load it with torch.load(FILE, weights_only=True) and save it again with torch.save",
    ),
)


def check_weights_file(path: Path, error: type[InputError]) -> None:
    """Raise `error` for what is no file, is empty, or is a well-known other thing."""
    if not path.is_file():
        raise error(
            f"there is no file {path}",
            expected="a file with weights",
            got="a folder" if path.is_dir() else "no such file",
            remedy="check the path",
        )
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        mistaken = [("an empty file, 0 bytes", "copy or download the file again")]
    else:
        mistaken = [(what, remedy) for magic, what, remedy in _MISTAKEN if start.startswith(magic)]
    for what, remedy in mistaken:
        size = f"{path.stat().st_size:,} bytes"
        got = what if not start else f"{what} ({size})"
        raise error(
            f"{path} has no weights", expected="a file with weights", got=got, remedy=remedy
        )


def _load_heads(
    folder: Path, manifest: dict[str, Any], dim: int, keep_types: bool
) -> MedusaHeads | None:
    """The Medusa heads of a world that has them. Raises DamagedWorldError."""
    if "heads" not in manifest:
        return None
    count = manifest["heads"].get("count")
    expected = f"a positive number of heads and a matrix 'weight' [number * {dim}, {dim}]"
    state: dict[str, Tensor] = {}
    if isinstance(count, int) and count > 0 and "heads" in manifest["files"]:
        state = _load_checked(folder, manifest["files"]["heads"], keep_types)
        if {name: tuple(v.shape) for name, v in state.items()} == {"weight": (count * dim, dim)}:
            heads = MedusaHeads(dim, count).to(state["weight"].dtype)
            heads.load_state_dict(state)
            return heads.eval().requires_grad_(False)
    found = {name: list(value.shape) for name, value in state.items()}
    raise DamagedWorldError(
        f"the Medusa heads of {folder} do not fit",
        expected=expected,
        got=f"{count!r} heads with {found}",
        remedy='train them again (`worldbridge train --stage heads`), or take "heads" out of '
        "world.json to do without",
    )


def _load_checked(
    folder: Path, entries: dict[str, Any] | list[dict[str, Any]], keep_types: bool
) -> dict[str, Tensor]:
    """The tensors of one file, or of several that divide them."""
    state: dict[str, Tensor] = {}
    for entry in entries if isinstance(entries, list) else [entries]:
        path = check_file(folder, entry)
        found = load_file(path)
        state |= found if keep_types else {name: value.float() for name, value in found.items()}
    return state


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- folders that appear whole -------------------------------------------------------------------


def check_out(out: Path, error: type[StructuredError]) -> None:
    """Raises `error` unless `out` does not exist or is an empty folder."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise error(
            f"{out} is in the way",
            expected="a folder that does not exist yet, or an empty one",
            got="a folder with files" if out.is_dir() else "a file",
            remedy="choose another --out, or remove it",
        )


@contextmanager
def atomic_directory(out: Path, needed: int, error: type[StructuredError]) -> Iterator[Path]:
    """A folder to write to, which becomes `out` at the end, or vanishes after a failure.

    Raises `error` where there are fewer than `needed` bytes, and for what the system refuses.
    """
    out = out.absolute()
    made = [parent for parent in out.parents if not parent.exists()]
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_space(out.parent, needed, error)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's, and safetensors' files, are for their maker alone
        for path in temporary.iterdir():
            path.chmod(0o644)
        temporary.replace(out)
    except BaseException as problem:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:  # the innermost first
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(problem, OSError):
            raise error(
                f"cannot write {out}",
                expected="a folder that can be written",
                got=str(problem),
                remedy="make room or choose another --out",
            ) from problem
        raise


def _check_space(folder: Path, needed: int, error: type[StructuredError]) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise error(
            f"not enough space in {folder}",
            expected=f"{needed / 1e9:.1f} GB",
            got=f"{free / 1e9:.1f} GB",
            remedy="make room, or choose another --out",
        )
