"""A world with a spatial memory on disk: `world.json` beside the weights of its networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from worldbridge.models.checkpoint import FORMAT, check_file, describe_file, read_manifest
from worldbridge.models.errors import DamagedWorldError
from worldbridge.models.guided.config import GuidedConfig
from worldbridge.models.guided.depth import DepthNet
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.transformer import TransformerConfig, VideoTransformer

__all__ = [
    "GUIDED_KIND",
    "GUIDED_WORLD",
    "GuidedWorldFolder",
    "load_guided_world",
    "read_guided_manifest",
    "save_guided_world",
]

GUIDED_KIND = "guided"
GUIDED_WORLD = Path(__file__).parents[1] / "weights" / "guided"


@dataclass(frozen=True, slots=True)
class GuidedWorldFolder:
    """Loaded networks of a world with a spatial memory, in evaluation mode.

    Without a `depth` the tokenizer estimates the depth of a prompt frame.
    """

    manifest: dict[str, Any]
    tokenizer: GuidedTokenizer
    transformer: VideoTransformer
    depth: DepthNet | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What a world with other weights keeps: how codes are drawn, and how it was trained."""
        return {k: self.manifest[k] for k in ("sampling", "training") if k in self.manifest}


def save_guided_world(
    folder: Path,
    tokenizer: GuidedTokenizer,
    transformer: VideoTransformer,
    extra: Mapping[str, Any] | None = None,
    depth: DepthNet | None = None,
) -> None:
    """Write a world folder; weights as float16, configs as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    modules: dict[str, nn.Module] = {"tokenizer": tokenizer, "transformer": transformer}
    if depth is not None:
        modules["depth"] = depth
    for name, module in modules.items():
        path = folder / f"{name}.safetensors"
        state = {k: v.detach().half().contiguous() for k, v in module.state_dict().items()}
        save_file(state, path)
        files[name] = describe_file(path)
    manifest = {
        "format": FORMAT,
        "kind": GUIDED_KIND,
        "name": GUIDED_KIND,
        "title": "World with a spatial memory",
        "frames_per_second": 15,
        "sampling": {"temperature": 1.0, "top_p": 0.95, "top_k": 8},
        "tokenizer": asdict(tokenizer.config),
        "transformer": transformer.config.to_dict(),
        **(extra or {}),
        "files": files,
    }
    (folder / "world.json").write_text(json.dumps(manifest, indent=2) + "\n")


def read_guided_manifest(folder: Path) -> dict[str, Any]:
    """Return the parsed world.json. Raises DamagedWorldError for anything but such a world."""
    manifest = read_manifest(folder)
    if manifest.get("kind") != GUIDED_KIND:
        raise DamagedWorldError(
            f"{folder} holds another kind of world",
            expected=f"kind {GUIDED_KIND!r}",
            got=repr(manifest.get("kind")),
            remedy="make it with `worldbridge train world`",
        )
    return manifest


def load_guided_world(folder: Path) -> GuidedWorldFolder:
    """Check sizes and checksums, then load the networks in float32.

    Raises DamagedWorldError.
    """
    manifest = read_guided_manifest(folder)
    try:
        tokenizer = GuidedTokenizer(GuidedConfig(**manifest["tokenizer"]))
        transformer = VideoTransformer(TransformerConfig.from_dict(manifest["transformer"]))
        modules: dict[str, nn.Module] = {"tokenizer": tokenizer, "transformer": transformer}
        depth = None
        if "depth" in manifest["files"]:
            depth = modules["depth"] = DepthNet(tokenizer.config.height, tokenizer.config.width)
        for name, module in modules.items():
            state = load_file(check_file(folder, manifest["files"][name]))
            module.load_state_dict({key: value.float() for key, value in state.items()})
            module.eval().requires_grad_(False)
    except DamagedWorldError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedWorldError(
            f"{folder / 'world.json'} is damaged",
            expected="the description of a world with a spatial memory, and its weights",
            got=f"{type(error).__name__}: {error}"[:1000],
            remedy="copy the world again, or make it again",
        ) from error
    return GuidedWorldFolder(manifest, tokenizer, transformer, depth)
