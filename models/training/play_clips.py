"""Clips of plain scenes: colour, nearness, camera and controls, made on the fly or cached on disk.

A cache is a folder of shards; a shard is a folder of `.npy` arrays that are read as memory maps.
Shards are written beside their place and moved there when they are whole, so a cache that was
interrupted is continued by the same call.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.models.procedural.camera import CameraState, camera_pose
from worldbridge.models.procedural.plain import build_plain_scene, plain_place
from worldbridge.models.procedural.policy import random_walk
from worldbridge.models.procedural.render import render_rgbd
from worldbridge.models.procedural.scene import THEMES
from worldbridge.models.progress import Progress

__all__ = [
    "HELD_OUT_SEEDS",
    "ClipPlan",
    "ClipShards",
    "PlayClip",
    "clip_source",
    "make_play_clip",
    "pose_rows",
    "save_shard",
    "write_clip_shards",
]

# Scenes with these seeds are never trained on.
HELD_OUT_SEEDS = range(900_000, 1_000_000)
_LONGEST_LEAD_IN = 150


@dataclass(frozen=True, slots=True)
class PlayClip:
    """Recorded play of one plain scene, T frames.

    frames uint8 [T, 3, H, W]; nearness float16 [T, H, W], as `render_rgbd` gives it;
    poses float32 [T, 8]: position x y z (m), rotation quaternion x y z w, vertical field of view
    (degrees); cameras float64 [T, 4]: x, z, yaw, pitch; actions float32 [T, 4], which led to
    each frame.
    """

    theme: str  # one of THEMES
    place: str  # one of PLAIN_THEMES: the theme, or a locality of the city
    seed: int
    frames: Tensor
    nearness: Tensor
    poses: Tensor
    cameras: Tensor
    actions: Tensor


def pose_rows(states: Sequence[CameraState]) -> Tensor:
    """Return the poses of cameras, float32 [T, 8]: position, quaternion x y z w, field of view."""
    rows = []
    for state in states:
        position, rotation, fov_y = camera_pose(state)
        rows.append((*position, *rotation, fov_y))
    return torch.tensor(rows, dtype=torch.float32)


def make_play_clip(
    theme: str,
    seed: int,
    frames: int,
    *,
    stubborn: bool = False,
    lead_in: int = 0,
    height: int = 320,
    width: int = 512,
) -> PlayClip:
    """Play `frames` frames of a plain scene with the scripted player.

    The player walks with pauses, turns, strafes and looks up and down; walls stop it. `stubborn`
    and `lead_in` as in `random_walk`.

    Raises ValueError for an unknown theme and for fewer than one frame.
    """
    scene = build_plain_scene(theme, seed)
    actions, states = random_walk(scene, seed, frames, stubborn=stubborn, lead_in=lead_in)
    colors = torch.empty(frames, 3, height, width, dtype=torch.uint8)
    nearness = torch.empty(frames, height, width, dtype=torch.float16)
    for t, state in enumerate(states):
        color, near = render_rgbd(scene, state, height, width)
        colors[t], nearness[t] = color, near
    cameras = torch.tensor([(s.x, s.z, s.yaw, s.pitch) for s in states], dtype=torch.float64)
    place = plain_place(theme, seed)
    return PlayClip(
        place.split("/")[0], place, seed, colors, nearness, pose_rows(states), cameras, actions
    )


def clip_source(index: int, seed: int) -> tuple[str, int, bool, int]:
    """Return theme, scene seed, stubbornness and lead-in of training clip `index`.

    Themes take turns. Every fourth player is stubborn, and half of the clips begin in the middle
    of play. A held-out seed is never returned.
    """
    scene_seed = (seed * 100_000 + index) % HELD_OUT_SEEDS.start
    lead_in = 37 * index % _LONGEST_LEAD_IN if index % 2 else 0
    return THEMES[index % len(THEMES)], scene_seed, index % 4 == 3, lead_in


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What a cache holds."""

    clips: int
    frames: int
    seed: int = 0
    clips_per_shard: int = 20
    height: int = 320
    width: int = 512

    @property
    def shards(self) -> int:
        return -(-self.clips // self.clips_per_shard)

    def indices(self, shard: int) -> range:
        start = shard * self.clips_per_shard
        return range(start, min(start + self.clips_per_shard, self.clips))

    @property
    def bytes(self) -> int:
        """Size of the whole cache: 5 bytes a pixel."""
        return self.clips * self.frames * self.height * self.width * 5


def write_clip_shards(
    folder: Path,
    plan: ClipPlan,
    shards: range | None = None,
    progress: Progress = lambda text, share: None,
) -> None:
    """Render the missing shards of a cache; several processes may write different `shards`.

    Raises ValueError when the folder holds a cache of another plan, OSError when the disk cannot
    take the cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_plan(folder, plan)
    wanted = shards if shards is not None else range(plan.shards)
    missing = [k for k in wanted if not _shard_path(folder, k).exists()]
    need = plan.bytes * len(missing) // max(plan.shards, 1)
    free = shutil.disk_usage(folder).free
    if missing and need > free:
        raise OSError(
            f"expected {need / 1e9:.1f} GB free for clips in {folder}, got {free / 1e9:.1f} GB: "
            "make fewer or shorter clips, or choose another folder"
        )
    for done, shard in enumerate(missing):
        progress(f"clips, shard {shard + 1} of {plan.shards}", done / len(missing))
        _write_shard(folder, plan, shard)
    progress("clips", 1.0)


def _check_plan(folder: Path, plan: ClipPlan) -> None:
    path = folder / "plan.json"
    if not path.exists():
        path.write_text(json.dumps(asdict(plan)))
    held = json.loads(path.read_text())
    if held != asdict(plan):
        raise ValueError(
            f"expected a clip cache of {asdict(plan)} in {folder}, got one of {held}: "
            "use another folder, or delete this one"
        )


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard{shard:05d}"


def _write_shard(folder: Path, plan: ClipPlan, shard: int) -> None:
    clips = []
    for index in plan.indices(shard):
        theme, seed, stubborn, lead_in = clip_source(index, plan.seed)
        clips.append(
            make_play_clip(
                theme,
                seed,
                plan.frames,
                stubborn=stubborn,
                lead_in=lead_in,
                height=plan.height,
                width=plan.width,
            )
        )
    save_shard(folder, shard, clips)


def save_shard(folder: Path, shard: int, clips: Sequence[PlayClip]) -> None:
    """Write clips of one length as shard number `shard` of a cache."""
    partial = folder / f".shard{shard:05d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name in ("frames", "nearness", "poses", "cameras", "actions"):
        np.save(partial / f"{name}.npy", torch.stack([getattr(c, name) for c in clips]).numpy())
    about = [{"theme": c.theme, "place": c.place, "seed": c.seed} for c in clips]
    (partial / "clips.json").write_text(json.dumps(about))
    partial.replace(_shard_path(folder, shard))


class ClipShards:
    """The clips of a cache, read as memory maps."""

    def __init__(self, folder: Path) -> None:
        """Open a cache.

        Raises FileNotFoundError for a folder without one, ValueError for a damaged shard.
        """
        self._shards = sorted(folder.glob("shard?????"))
        if not self._shards:
            raise FileNotFoundError(
                f"expected a clip cache in {folder}, found no shards: write one with "
                "write_clip_shards"
            )
        self._arrays: list[dict[str, NDArray[np.generic]]] = []
        self._about: list[tuple[int, int, dict[str, object]]] = []
        for k, shard in enumerate(self._shards):
            self._open(k, shard)

    def _open(self, number: int, shard: Path) -> None:
        try:
            about = json.loads((shard / "clips.json").read_text())
            arrays = {
                name: np.load(shard / f"{name}.npy", mmap_mode="r")
                for name in ("frames", "nearness", "poses", "cameras", "actions")
            }
        except (OSError, ValueError) as error:
            raise ValueError(
                f"expected a whole clip shard in {shard}, got {error}: delete it and write again"
            ) from error
        if any(len(a) != len(about) for a in arrays.values()):
            raise ValueError(
                f"expected {len(about)} clips in every array of {shard}, got "
                f"{[len(a) for a in arrays.values()]}: delete it and write again"
            )
        self._arrays.append(arrays)
        self._about += [(number, i, entry) for i, entry in enumerate(about)]

    def __len__(self) -> int:
        return len(self._about)

    def clip(self, index: int, start: int = 0, stop: int | None = None) -> PlayClip:
        """Return frames [start, stop) of a clip; only these are read from disk."""
        shard, row, about = self._about[index]
        parts = {
            name: torch.from_numpy(np.array(array[row, start:stop]))
            for name, array in self._arrays[shard].items()
        }
        return PlayClip(str(about["theme"]), str(about["place"]), int(str(about["seed"])), **parts)
