"""Read a published checkpoint, verify all of it, and write a world folder shard by shard."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from worldbridge.models.checkpoint import (
    FORMAT,
    atomic_directory,
    check_file,
    check_out,
    describe_file,
    read_manifest,
)
from worldbridge.models.convert.checkpoint import Checkpoint
from worldbridge.models.convert.detect import Identity, detect, verify
from worldbridge.models.convert.files import Info
from worldbridge.models.convert.tokenizer import TokenizerSource, open_tokenizer
from worldbridge.models.errors import ConvertError, DamagedWorldError
from worldbridge.models.progress import Progress, silent
from worldbridge.models.tokenizer import TokenizerConfig
from worldbridge.models.transformer import TransformerConfig

__all__ = ["convert", "plan_shards"]

_GIB = 1 << 30
MAX_FPS = 120
FPS = 25  # of the published pipeline's videos
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
    frames_per_second: float = FPS,
    context: int | None = None,
    slide: str | None = None,
    shard_bytes: int = _GIB,
) -> Path:
    """Write the world folder `out` from a published checkpoint or from a folder made by this.

    Every name and shape is verified before anything is written. The types of the weights are kept.
    Memory holds a few times the size of one shard.

    Args:
        source: model.pt, its folder, one file of a tensor-parallel rank, or safetensors.
        out: absent or empty; it appears once it is complete.
        size: one of SIZES; None detects it.
        tokenizer: file or folder; None searches beside the source.
        name: of the world; None: that of the published model.
        n_layers: of a model that has only the first layers of its size.
        resolution: height and width of the frames; None: as published. No weight depends on it.
        frames_per_second: of the world; by default as published.
        context: context latents plus the one that is sampled; None: as many as the model was
            trained on, which is the maximum.
        slide: what happens when the context is full: "reprefill" (None) or "rotate".
        shard_bytes: the largest file, unless a single tensor is larger.

    Raises:
        ConvertError: the source is not what it should be, or `out` cannot be written.
    """
    report = progress or silent
    check_out(out, ConvertError)
    report("reading names and shapes", 0.0)
    world, wanted, folder = _open(source)
    if wanted is None:
        identity = detect(world.infos, folder, size, n_layers)
        tokenizer_config = None
    else:
        identity, tokenizer_config = wanted
        tokenizer_config = tokenizer_config if tokenizer is None else None
    verify(identity, world.infos)
    report("reading the tokenizer", 0.01)
    codec = open_tokenizer(tokenizer, folder, identity.config.vocab_size, tokenizer_config)
    if resolution is not None:
        identity = _resized(identity, codec.config, resolution)
    play = _play(identity.config, frames_per_second, context, slide)
    if name is not None:
        identity = dataclasses.replace(identity, name=name)
    with atomic_directory(out, _needed(world, codec), ConvertError) as temporary:
        _write(temporary, identity, play, world, codec, shard_bytes, report)
    report("finished", 1.0)
    return out


def plan_shards(infos: Mapping[str, Info], limit: int) -> list[list[str]]:
    """Divide names, in order, into groups of at most `limit` bytes or of one larger tensor."""
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
    # the 4B at 320x512 is the preset cosmos-4b-320p
    name = f"{re.sub('-[0-9]+p$', '', identity.name)}-{resolution[0]}p"
    return dataclasses.replace(identity, name=name, config=config)


def _play(
    config: TransformerConfig, fps: float, context: int | None, slide: str | None
) -> dict[str, Any]:
    """Return how a world is played, for its world.json."""
    latents = config.latent_shape[0]
    if not 0 < fps <= MAX_FPS:
        raise ConvertError(
            "the frame rate is out of range",
            expected=f"more than 0, at most {MAX_FPS}",
            got=f"{fps:g}",
            remedy=f"the published models were trained at {FPS}",
        )
    if context is not None and not 2 <= context <= latents:
        raise ConvertError(
            "the context is out of range",
            expected=f"2 to {latents} latents, as many as the model was trained on",
            got=f"{context}",
            remedy="choose a number in that range, or leave it out",
        )
    if slide == "rotate" and (config.apply_abs_pos_emb or config.takes_camera):
        raise ConvertError(
            "this model's window cannot slide by rotation",
            expected="a model without absolute positions and cameras",
            got="one with them",
            remedy="leave it out: what is kept is fed again",
        )
    window = {"latents": context, "slide": slide}
    given = {key: value for key, value in window.items() if value is not None}
    return {"frames_per_second": fps, **({"window": given} if given else {})}


# -- reading ------------------------------------------------------------------------------------


def _open(source: Path) -> tuple[Checkpoint, tuple[Identity, TokenizerConfig] | None, Path]:
    """Return the checkpoint, what its world.json says it is (if it has one), and its folder."""
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
    """Return the transformer's files and the configs of a world. Raises DamagedWorldError."""
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
    play: dict[str, Any],
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
        "sampling": _SAMPLING,
        **play,
        "tokenizer": dataclasses.asdict(codec.config),
        "transformer": identity.config.to_dict(),
        "files": files,
    }
    if identity.actions is not None:
        manifest["actions"] = identity.actions
    (folder / "world.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _needed(world: Checkpoint, codec: TokenizerSource) -> int:
    """Return the bytes of all weights."""
    return sum(info.bytes for info in world.infos.values()) + sum(
        value.nbytes for value in codec.state.values()
    )
