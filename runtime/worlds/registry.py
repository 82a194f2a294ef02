"""Which worlds can be served, and how each is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldbridge.models.checkpoint import read_manifest
from worldbridge.models.conditioning.text import Prompt, prompt_context
from worldbridge.models.errors import DamagedWorldError, TextError
from worldbridge.models.progress import silent
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.config import EAGER, WorkerConfig, check_detokenizer
from worldbridge.runtime.decoding.autotune import check_mode, set_mode
from worldbridge.runtime.decoding.options import check_weight_dtype
from worldbridge.runtime.errors import (
    DamagedWeightsError,
    DetokenizerError,
    FrameRateError,
    ModeError,
    NoDeviceError,
    PromptError,
    UnknownWorldError,
    WeightDtypeError,
)
from worldbridge.runtime.worlds.contract import Progress, WorldModel, WorldSpec

__all__ = [
    "WORLD_FILE",
    "Prompt",
    "directory_of",
    "list_worlds",
    "open_world",
    "read_prompt",
    "spec_of",
]

WORLD_FILE = "world.json"


def open_world(
    config: WorkerConfig, *, progress: Progress | None = None, context: Tensor | None = None
) -> WorldModel[Any]:
    """Load the world that `config.world` names, or that lies in that directory.

    Args:
        config: `seats` None: room for as many as are tried on that device; `mode` "auto": measure.
        context: [m, context_dim], the embedded text, for a world that takes one.

    Raises:
        NoDeviceError: no GPU here.
        UnknownWorldError: neither a known name nor such a directory; it lists the known ones.
        DamagedWeightsError: weights are missing, truncated or altered.
        ModeError, WeightDtypeError, DetokenizerError: the world cannot be decoded, read or
            detokenized that way.
        FrameRateError: a frame rate for a world that has its own.
    """
    _check_device(config.device)
    kind, directory = _find(config.world)
    _check_choices(config, kind, directory)
    return kind.load(directory, config, progress or silent, context)


def _check_choices(config: WorkerConfig, kind: _Kind, directory: Path | None) -> None:
    """Check what the world cannot do before its weights are read."""
    if config.fps is not None and not kind.has_fps:
        raise FrameRateError(
            f"the world {config.world} has a frame rate of its own",
            expected="no --fps",
            got=f"--fps {config.fps:g}",
            remedy="leave --fps out, or serve --world procedural",
        )
    if kind.manifest is not None:
        manifest = kind.manifest(directory)
        check_mode(config.mode, config.row_lag, manifest)
        check_weight_dtype(config.weight_dtype, manifest, config.device)
        check_detokenizer(config.detokenizer, manifest, config.device)
    elif config.mode not in (None, "auto"):
        raise ModeError(
            f"this world cannot be decoded in mode {config.mode!r}",
            expected="a world with decode modes",
            got=f"one that {kind.what}",
            remedy="leave --mode out",
        )
    elif config.weight_dtype != "model":
        raise WeightDtypeError(
            f"this world has no {config.weight_dtype} weights",
            expected="a converted Cosmos world",
            got=f"one that {kind.what}",
            remedy="leave --weight-dtype out",
        )
    elif config.detokenizer != EAGER:
        raise DetokenizerError(
            "this world has no choice of detokenizers",
            expected="a converted Cosmos world",
            got=f"one that {kind.what}",
            remedy="leave --detokenizer out",
        )


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise NoDeviceError(
            "this machine has no GPU that PyTorch can use",
            expected="an NVIDIA GPU, its driver, and a PyTorch built for CUDA",
            got=f"PyTorch {torch.__version__}, no CUDA device",
            remedy="serve with --device cpu, or install PyTorch for CUDA",
        )


def directory_of(name: str) -> Path | None:
    """Where a world lies; None for those that are known by name. Raises UnknownWorldError."""
    if name in _NAMES:
        return None
    if not (Path(name) / WORLD_FILE).is_file():
        raise UnknownWorldError(name, tuple(_NAMES))
    return Path(name)


def list_worlds() -> list[WorldSpec]:
    """What `open_world` knows by name. Loads no weights; a world without weights is left out."""
    specs = []
    for kind in _NAMES.values():
        try:
            specs.append(_KINDS[kind].spec(None))
        except DamagedWeightsError:
            continue
    return specs


def spec_of(directory: Path) -> WorldSpec:
    """What the world in a directory looks like from outside, by its world.json alone.

    Raises UnknownWorldError, DamagedWeightsError.
    """
    kind, found = _find(str(directory))
    return kind.spec(found or Path(directory))


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of world. Its functions take the world's directory, None for the bundled one.

    They import what they need when they are called: a rendered world starts without PyTorch's
    networks.
    """

    what: str  # it does, as an error says it
    spec: Callable[[Path | None], WorldSpec]
    load: Callable[[Path | None, WorkerConfig, Progress, Tensor | None], WorldModel[Any]]
    # where decode mode, weight type and detokenizer can be chosen: what its world.json says
    manifest: Callable[[Path | None], dict[str, Any]] | None = None
    has_fps: bool = False  # whether its frame rate can be chosen


def _find(name: str) -> tuple[_Kind, Path | None]:
    """Return the kind and the directory of a world. Raises UnknownWorldError."""
    directory = directory_of(name)
    if directory is None:
        return _KINDS[_NAMES[name]], None
    try:
        kind = str(read_manifest(directory).get("kind"))
    except DamagedWorldError:
        kind = _TOKENS  # its loader says what is wrong
    return _KINDS.get(kind, _KINDS[_TOKENS]), directory


def _procedural_spec(directory: Path | None) -> WorldSpec:
    from worldbridge.runtime.worlds.procedural import procedural_spec

    return procedural_spec()


def _load_procedural(
    directory: Path | None, config: WorkerConfig, progress: Progress, context: Tensor | None
) -> WorldModel[Any]:
    from worldbridge.runtime.worlds.procedural import DEFAULT_FPS, ProceduralWorld

    world = ProceduralWorld(config.fps or DEFAULT_FPS, config.device)
    world.prepare(progress)
    return world


def _guided_spec(directory: Path | None) -> WorldSpec:
    from worldbridge.models.guided.checkpoint import GUIDED_WORLD
    from worldbridge.runtime.worlds.guided import guided_spec

    return guided_spec(directory or GUIDED_WORLD)


def _load_guided(
    directory: Path | None, config: WorkerConfig, progress: Progress, context: Tensor | None
) -> WorldModel[Any]:
    from worldbridge.models.guided.checkpoint import GUIDED_WORLD
    from worldbridge.runtime.worlds.guided import load_guided

    return load_guided(directory or GUIDED_WORLD, progress)


def _token_spec(directory: Path | None) -> WorldSpec:
    from worldbridge.runtime.worlds import autoregressive

    return (
        autoregressive.embedded_spec()
        if directory is None
        else autoregressive.directory_spec(directory)
    )


def _token_manifest(directory: Path | None) -> dict[str, Any]:
    from worldbridge.runtime.worlds import autoregressive

    return autoregressive.manifest_of(directory)


def _load_tokens(
    directory: Path | None, config: WorkerConfig, progress: Progress, context: Tensor | None
) -> WorldModel[Any]:
    from worldbridge.runtime.worlds import autoregressive

    world: WorldModel[Any]
    if directory is None:
        world = autoregressive.load_embedded(config, progress)
    else:
        world = autoregressive.load_directory(directory, config, progress, context)
    set_mode(world, config.mode, config.row_lag, progress)
    return world


_TOKENS = "autoregressive"  # also converted Cosmos worlds
_KINDS = {  # by `kind` in world.json
    _TOKENS: _Kind("samples tokens", _token_spec, _load_tokens, _token_manifest),
    "guided": _Kind("has a spatial memory", _guided_spec, _load_guided),
    "procedural": _Kind("is rendered", _procedural_spec, _load_procedural, has_fps=True),
}
_NAMES = {"embedded": _TOKENS, "guided": "guided", "procedural": "procedural"}


def read_prompt(world: str, prompt: Prompt) -> Tensor:
    """The context [512, context_dim] for the world in the folder `world`.

    Raises:
        UnknownWorldError: there is no such world.
        PromptError: this world takes no text, or the prompt does not fit it.
        DamagedWeightsError: its world.json is damaged.
    """
    folder, config = directory_of(world), None
    try:
        if folder is not None:
            config = TransformerConfig.from_dict(read_manifest(folder)["transformer"])
    except (DamagedWorldError, KeyError, ValueError, TypeError) as error:
        raise DamagedWeightsError(
            f"the world {world!r} is damaged",
            expected="the description of a world in its world.json",
            got=str(error),
            remedy="copy the world again, or convert it again",
        ) from error
    if config is None or config.context_dim is None or not config.takes_text:
        raise PromptError(
            f"the world {world!r} takes no text",
            expected="a model with cross-attention to a text, such as cosmos-5b-video2world",
            got="one without"
            if config is None or config.context_dim is None
            else "one that attends to actions instead",
            remedy="leave the prompt out; `worldbridge worlds DIR` shows what a world takes",
        )
    try:
        return prompt_context(prompt, config.context_dim)
    except TextError as error:
        raise PromptError.of(error) from error
