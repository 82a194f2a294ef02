"""Read a published checkpoint, verify all of it, then write a world folder shard by shard."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from worldbridge.models.convert.checkpoint import Checkpoint
from worldbridge.models.convert.errors import ConvertError
from worldbridge.models.convert.files import Info
from worldbridge.models.convert.recognise import Identity, recognise, verify
from worldbridge.models.convert.tokenizer import TokenizerSource, open_tokenizer
from worldbridge.models.tokenizer import TokenizerConfig
from worldbridge.models.transformer import TransformerConfig
from worldbridge.models.world_folder import (
    FORMAT,
    DamagedWorldError,
    check_file,
    describe_file,
    read_manifest,
)

__all__ = ["Progress", "convert", "plan_shards"]

Progress = Callable[[str, float], None]  # what is being done, share of the whole

_GIB = 1 << 30
_FPS = 25  # the rate of the published pipeline's videos
_SAMPLING = {"temperature": 1.0, "top_p": 0.8, "top_k": 64000}


def convert(
    source: Path,
    out: Path,
    *,
    size: str | None = None,
    tokenizer: Path | None = None,
    progress: Progress | None = None,
    name: str | None = None,
    n_layers: int | None = None,
    resolution: tuple[int, int] | None = None,
    shard_bytes: int = _GIB,
) -> Path:
    """Writes the world folder `out` from a published checkpoint or a folder made by this function.

    Every name and shape is verified before anything is written. The types of the weights are kept.
    Memory holds a few times the size of one shard.

    Args:
        source: model.pt, its folder, the files of all tensor-parallel ranks, or safetensors.
        out: must not exist or be empty; it appears once it is complete.
        size: one of SIZES; None recognises it.
        tokenizer: file or folder; None looks beside the source.
        name: what the world is called; None: as the published model.
        n_layers: for a cut-down model, how many of the size's layers it has.
        resolution: height and width of the pictures; None: as published. No weight depends on it.
        shard_bytes: how large a file may be, unless a single tensor is larger.

    Raises:
        ConvertError: the source is not what it should be, or `out` cannot be written.
    """
    report = progress or _silent
    _check_out(out)
    report("reading names and shapes", 0.0)
    world, wanted, folder = _open(source)
    if wanted is None:
        identity = recognise(world.infos, folder, size, n_layers)
        tokenizer_config = None
    else:
        identity, tokenizer_config = wanted
        tokenizer_config = tokenizer_config if tokenizer is None else None
    verify(identity, world.infos)
    report("reading the tokenizer", 0.01)
    codec = open_tokenizer(tokenizer, folder, identity.config.vocab_size, tokenizer_config)
    if resolution is not None:
        identity = _resized(identity, codec.config, resolution)
    if name is not None:
        identity = dataclasses.replace(identity, name=name)
    with _appearing(out, _needed(world, codec)) as temporary:
        _write(temporary, identity, world, codec, shard_bytes, report)
    report("finished", 1.0)
    return out


def plan_shards(infos: Mapping[str, Info], limit: int) -> list[list[str]]:
    """Names in their order, in groups of at most `limit` bytes (or of one larger tensor)."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, info in infos.items():
        if groups[-1] and filled + info.bytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += info.bytes
    return groups


def _resized(
    identity: Identity, tokenizer: TokenizerConfig, resolution: tuple[int, int]
) -> Identity:
    scale = tokenizer.spatial_compression
    if any(side < scale or side % scale for side in resolution):
        raise ConvertError(
            "the resolution does not fit the tokenizer",
            expected=f"a height and a width that are multiples of {scale}",
            got=f"{resolution[0]}x{resolution[1]}",
            remedy="choose the next multiples; 320x512 suits the 16-fold tokenizer",
        )
    frames = identity.config.latent_shape[0]
    shape = (frames, resolution[0] // scale, resolution[1] // scale)
    config = dataclasses.replace(identity.config, latent_shape=shape)
    return dataclasses.replace(identity, config=config)


# -- reading ------------------------------------------------------------------------------------


def _open(
    source: Path,
) -> tuple[Checkpoint, tuple[Identity, TokenizerConfig] | None, Path]:
    """The checkpoint, what it says it is (if it is one of our folders), and its folder."""
    folder = source if source.is_dir() else source.parent
    if not (source.is_dir() and (source / "world.json").is_file()):
        return Checkpoint.open(source), None, folder
    try:
        manifest = read_manifest(source)
        kind = manifest.get("kind", "none")
        paths, wanted = _described(source, manifest) if kind == "cosmos" else ([], None)
    except DamagedWorldError as error:
        raise ConvertError.of(error) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _no_cosmos(source, f"{type(error).__name__}: {error}") from error
    if wanted is None:
        raise _no_cosmos(source, f"kind {kind!r}")
    return Checkpoint.of_files(paths), wanted, folder


def _described(
    folder: Path, manifest: dict[str, Any]
) -> tuple[list[Path], tuple[Identity, TokenizerConfig]]:
    """The transformer's files and the configs of a world.json. Raises DamagedWorldError."""
    described = manifest["files"]
    paths = [check_file(folder, entry) for entry in _listed(described["transformer"])]
    for entry in _listed(described["tokenizer"]):
        check_file(folder, entry)
    config = TransformerConfig.from_dict(manifest["transformer"])
    identity = Identity(manifest["name"], manifest["title"], config, manifest.get("actions"))
    return paths, (identity, TokenizerConfig.from_dict(manifest["tokenizer"]))


def _no_cosmos(source: Path, got: str) -> ConvertError:
    return ConvertError(
        f"{source} is not a world folder of a Cosmos model",
        expected="kind 'cosmos' in its world.json, with all its fields",
        got=got,
        remedy="a world of another kind can be served as it is; convert takes Cosmos checkpoints",
    )


def _listed(entries: Any) -> Iterable[dict[str, Any]]:
    return entries if isinstance(entries, list) else [entries]


# -- writing ------------------------------------------------------------------------------------


def _write(
    folder: Path,
    identity: Identity,
    world: Checkpoint,
    codec: TokenizerSource,
    shard_bytes: int,
    report: Progress,
) -> None:
    files: dict[str, Any] = {}
    path = folder / "tokenizer.safetensors"
    save_file(codec.state, path)
    files["tokenizer"] = describe_file(path)
    files["transformer"] = []
    shards = plan_shards(world.infos, shard_bytes)
    for number, names in enumerate(shards, 1):
        report(f"writing file {number} of {len(shards)}", 0.02 + 0.98 * (number - 1) / len(shards))
        path = folder / f"transformer-{number:05}-of-{len(shards):05}.safetensors"
        save_file(world.read(names), path)
        files["transformer"].append(describe_file(path))
    manifest = {
        "format": FORMAT,
        "kind": "cosmos",
        "name": identity.name,
        "title": identity.title,
        "frames_per_second": _FPS,
        "sampling": _SAMPLING,
        "tokenizer": dataclasses.asdict(codec.config),
        "transformer": identity.config.to_dict(),
        "files": files,
    }
    if identity.actions is not None:
        manifest["actions"] = identity.actions
    (folder / "world.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _needed(world: Checkpoint, codec: TokenizerSource) -> int:
    """Bytes of all weights."""
    return sum(info.bytes for info in world.infos.values()) + sum(
        value.nbytes for value in codec.state.values()
    )


def _check_out(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise ConvertError(
            f"{out} is in the way",
            expected="a folder that does not exist yet, or an empty one",
            got="a folder with files" if out.is_dir() else "a file",
            remedy="choose another --out, or remove it",
        )


@contextmanager
def _appearing(out: Path, needed: int) -> Iterator[Path]:
    """A folder to write to, which becomes `out` at the end, or vanishes after a failure."""
    out = out.absolute()
    made = [parent for parent in out.parents if not parent.exists()]
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_space(out.parent, needed)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's, and safetensors' files, are for their maker alone
        for path in temporary.iterdir():
            path.chmod(0o644)
        temporary.replace(out)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:  # the innermost first
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError):
            raise _unwritable(out, str(error)) from error
        raise


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConvertError(
            f"not enough space in {folder}",
            expected=f"{needed / 1e9:.1f} GB",
            got=f"{free / 1e9:.1f} GB",
            remedy="make room, or choose another --out",
        )


def _unwritable(out: Path, why: str) -> ConvertError:
    return ConvertError(
        f"cannot write {out}",
        expected="a folder that can be written",
        got=why,
        remedy="make room or choose another --out",
    )


def _silent(stage: str, share: float) -> None:
    """For callers who do not watch."""
