"""Which worlds can be served, and how each is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldbridge.models.checkpoint import read_manifest
from worldbridge.models.conditioning.text import Prompt, prompt_context
from worldbridge.models.errors import DamagedWorldError, TextError
from worldbridge.models.progress import silent
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.config import WorkerConfig, check_detokenizer
from worldbridge.runtime.decoding.autotune import Wanted, check_wanted, set_mode
from worldbridge.runtime.decoding.options import check_weight_dtype
from worldbridge.runtime.errors import (
    DamagedWeightsError,
    FrameRateError,
    NoDeviceError,
    PromptError,
    UnknownWorldError,
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
    report = progress or silent
    _check_device(config.device)
    if config.world == "procedural":
        _check_abilities(config, None)
        return _open_procedural(config, report)
    guided = _is_guided(config.world)
    _check_no_fps(config)
    if guided:
        _check_abilities(config, {"kind": "guided"})
        return _open_guided(config.world, report)
    directory = directory_of(config.world)
    # imported here: who serves the rendered world should not wait for the neural one's imports
    from worldbridge.runtime.worlds import autoregressive as ar_world

    _check_abilities(config, ar_world.manifest_of(directory))
    world: WorldModel[Any]
    if directory is None:
        world = ar_world.load_embedded(config, report)
    else:
        world = ar_world.load_directory(directory, config, report, context)
    set_mode(world, Wanted(config.mode, config.row_lag), report)
    return world


def _check_abilities(config: WorkerConfig, manifest: dict[str, Any] | None) -> None:
    """Check what the world cannot do before its weights are read."""
    check_wanted(Wanted(config.mode, config.row_lag), manifest)
    check_weight_dtype(config.weight_dtype, manifest, config.device)
    check_detokenizer(config.detokenizer, manifest, config.device)


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise NoDeviceError(
            "this machine has no GPU that PyTorch can use",
            expected="an NVIDIA GPU, its driver, and a PyTorch built for CUDA",
            got=f"PyTorch {torch.__version__}, no CUDA device",
            remedy="serve with --device cpu, or install PyTorch for CUDA",
        )


def _check_no_fps(config: WorkerConfig) -> None:
    if config.fps is not None:
        raise FrameRateError(
            f"the world {config.world} has a frame rate of its own",
            expected="no --fps",
            got=f"--fps {config.fps:g}",
            remedy="leave --fps out, or serve --world procedural",
        )


def directory_of(name: str) -> Path | None:
    """Where a world lies; None for those that are known by name. Raises UnknownWorldError."""
    if name in _SPECS:
        return None
    if not (Path(name) / WORLD_FILE).is_file():
        raise UnknownWorldError(name, tuple(_SPECS))
    return Path(name)


def _is_guided(name: str) -> bool:
    """Whether a name or a directory is a world with a spatial memory."""
    if name in _SPECS:
        return name == "guided"
    directory = directory_of(name)
    try:
        return directory is not None and read_manifest(directory).get("kind") == "guided"
    except DamagedWorldError:
        return False  # the loader of other worlds says what is wrong


def list_worlds() -> list[WorldSpec]:
    """What `open_world` knows by name. Loads no weights; a world without weights is left out."""
    specs = []
    for read in _SPECS.values():
        try:
            specs.append(read())
        except DamagedWeightsError:
            continue
    return specs


def spec_of(directory: Path) -> WorldSpec:
    """What the world in a directory looks like from outside, by its world.json alone.

    Raises UnknownWorldError, DamagedWeightsError.
    """
    from worldbridge.runtime.worlds import autoregressive as ar_world

    found = directory_of(str(directory))
    if _is_guided(str(directory)):
        from worldbridge.runtime.worlds.guided import guided_spec

        return guided_spec(Path(directory))
    return ar_world.directory_spec(Path(directory) if found is None else found)


def _open_procedural(config: WorkerConfig, progress: Progress) -> WorldModel[Any]:
    from worldbridge.runtime.worlds.procedural import DEFAULT_FPS, ProceduralWorld

    world = ProceduralWorld(config.fps or DEFAULT_FPS, config.device)
    world.prepare(progress)
    return world


def _procedural_spec() -> WorldSpec:
    from worldbridge.runtime.worlds.procedural import procedural_spec

    return procedural_spec()


def _open_guided(name: str, progress: Progress) -> WorldModel[Any]:
    from worldbridge.models.guided.checkpoint import GUIDED_WORLD
    from worldbridge.runtime.worlds.guided import load_guided

    return load_guided(directory_of(name) or GUIDED_WORLD, progress)


def _guided_spec() -> WorldSpec:
    from worldbridge.runtime.worlds.guided import guided_spec

    return guided_spec()


def _embedded_spec() -> WorldSpec:
    from worldbridge.runtime.worlds import autoregressive as ar_world

    return ar_world.embedded_spec()


_SPECS: dict[str, Callable[[], WorldSpec]] = {
    "embedded": _embedded_spec,
    "guided": _guided_spec,
    "procedural": _procedural_spec,
}


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
