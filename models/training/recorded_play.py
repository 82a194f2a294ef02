"""Recorded play in tar shards, as WebDataset has them, made into a cache of clips.

A sample is a run of files in a tar with one name up to the first dot (WebDataset's convention):

    NAME.frames.npy   uint8 [T, h, w, 3], or NAME.mp4, .mkv or .webm instead
    NAME.depth.npy    float [T, h, w], metres along the view's axis; 0 or infinity: as far as can be
    NAME.poses.npy    float [T, 8]: position x y z in metres, quaternion x y z w, vertical field of
                      view in degrees; x right, y up, -z ahead
    NAME.actions.npy  float [T, 4] in -1..1: strafe, forward, yaw, pitch, which led to each frame
    NAME.json         {"theme": "city", "seed": 5}

Frames and depth may have any size; they are scaled to the world's.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.models.errors import InputError
from worldbridge.models.procedural.plain import PLAIN_THEMES
from worldbridge.models.progress import Progress, silent
from worldbridge.models.training.play_clips import ClipPlan, PlayClip, save_shard

__all__ = ["FEWEST_CLIPS", "import_play", "read_play", "size_of", "write_play"]

FEWEST_CLIPS = 30  # two files of ten are held out
_CLIPS_A_SHARD = 10
_FARTHEST_M = 1e4
_VIDEOS = ("mp4", "mkv", "webm")


def import_play(
    folder: Path,
    shards: Sequence[Path],
    frames: int,
    height: int,
    width: int,
    progress: Progress = silent,
) -> ClipPlan:
    """Write the clips of recorded play to a cache; return the plan that the cache fulfils.

    Each recording is cut into clips of `frames` frames; what is left over is dropped. A cache that
    was made of the same files before is kept.

    Raises InputError for a file that is no such shard, or too little play; OSError for a full disk.
    """
    source = zlib.crc32(repr([(p.name, size_of(p), frames) for p in shards]).encode())
    made = folder / "plan.json"
    if made.exists():
        plan = ClipPlan(**json.loads(made.read_text()))
        if plan.seed == source:
            return plan
        raise InputError(
            f"{folder} holds clips of something else",
            expected="an empty folder, or the clips of these recordings",
            got=f"{plan.clips} clips of other play",
            remedy="choose another --out, or delete this folder",
        )
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted import left
    folder.mkdir(parents=True)
    clips: list[PlayClip] = []
    count = written = 0
    for number, shard in enumerate(shards):
        progress(f"reading {shard.name}", number / len(shards))
        for clip in _cut(read_play(shard, height, width), frames):
            clips.append(clip)
            count += 1
            if len(clips) == _CLIPS_A_SHARD:
                save_shard(folder, written, clips)
                clips, written = [], written + 1
    if clips:
        save_shard(folder, written, clips)
    if count < FEWEST_CLIPS:
        raise InputError(
            "there is too little recorded play",
            expected=f"at least {FEWEST_CLIPS} clips of {frames} frames",
            got=f"{count}",
            remedy="record more, or choose fewer --frames",
        )
    plan = ClipPlan(count, frames, source, _CLIPS_A_SHARD, height, width)
    made.write_text(json.dumps(asdict(plan)))
    return plan


def read_play(shard: Path, height: int, width: int) -> Iterator[PlayClip]:
    """Yield the recordings of a tar shard at a size. Raises InputError."""
    for name, files in _samples(shard):
        try:
            yield _clip(files, height, width)
        except (KeyError, ValueError, TypeError, OSError, EOFError) as error:
            raise InputError(
                f"the recording {name!r} in {shard} cannot be read",
                expected="frames, depth, poses, actions and json of one length",
                got=f"{type(error).__name__}: {error}"[:300],
                remedy="record it again, or leave it out",
            ) from error


def write_play(shard: Path, clips: Iterable[PlayClip]) -> None:
    """Write recordings as a tar shard that `read_play` reads."""
    with tarfile.open(shard, "w") as tar:
        for number, clip in enumerate(clips):
            near = clip.nearness.float()
            depth = torch.where(near > 0, near.clamp_min(1.0 / _FARTHEST_M).reciprocal(), 0.0)
            arrays = {
                "frames": clip.frames.permute(0, 2, 3, 1).contiguous(),
                "depth": depth,
                "poses": clip.poses,
                "actions": clip.actions,
            }
            for field, array in arrays.items():
                data = io.BytesIO()
                np.save(data, array.numpy())
                _add(tar, f"{number:06d}.{field}.npy", data.getvalue())
            about = json.dumps({"theme": clip.place, "seed": clip.seed})
            _add(tar, f"{number:06d}.json", about.encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def size_of(shard: Path) -> int:
    """Return the bytes of a shard. Raises InputError where there is none."""
    try:
        return shard.stat().st_size
    except OSError as error:
        raise _no_shard(shard, error) from error


def _no_shard(shard: Path, error: Exception) -> InputError:
    return InputError(
        f"{shard} is no shard of recorded play",
        expected="a tar file of recordings, whole",
        got=f"{type(error).__name__}: {error}"[:300],
        remedy="copy it again, or leave it out",
    )


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the name and the files of each recording, by what follows the first dot."""
    name, files = "", dict[str, bytes]()
    try:
        with tarfile.open(shard) as tar:
            for entry in tar:
                content = tar.extractfile(entry) if entry.isfile() else None
                if content is None:
                    continue
                key, _, field = Path(entry.name).name.partition(".")
                if key != name and files:
                    yield name, files
                    files = {}
                name = key
                files[field] = content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _no_shard(shard, error) from error
    if files:
        yield name, files


def _clip(files: Mapping[str, bytes], height: int, width: int) -> PlayClip:
    about = json.loads(files["json"])
    place = str(about["theme"])
    if place not in PLAIN_THEMES:
        raise ValueError(f"expected a theme of {', '.join(PLAIN_THEMES)}, got {place!r}")
    frames = _frames(files)
    poses, actions, depth = (_array(files, name) for name in ("poses", "actions", "depth"))
    count = len(frames)
    for name, array, shape in (
        ("poses", poses, (count, 8)),
        ("actions", actions, (count, 4)),
        ("depth", depth, (count, *depth.shape[1:3])),
    ):
        if array.shape != shape:
            raise ValueError(f"expected {name} {list(shape)}, got {list(array.shape)}")
    if not (np.isfinite(poses).all() and np.isfinite(actions).all()):
        raise ValueError("expected finite poses and actions")
    color = F.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(),
        (height, width),
        mode="bilinear",
        antialias=True,
    )
    metres = np.where(np.isfinite(depth) & (depth > 0), depth, np.inf)
    near = F.interpolate(torch.from_numpy(1.0 / metres).float()[:, None], (height, width))[:, 0]
    rows = torch.from_numpy(poses.astype(np.float32))
    return PlayClip(
        place.split("/")[0],
        place,
        int(about.get("seed", 0)),
        color.round().clamp(0, 255).byte(),
        near.half(),
        rows,
        _cameras(rows.double()),
        torch.from_numpy(actions.astype(np.float32)).clamp(-1, 1),
    )


def _array(files: Mapping[str, bytes], name: str) -> NDArray[np.float64]:
    array = np.load(io.BytesIO(files[f"{name}.npy"]), allow_pickle=False)
    return np.asarray(array, np.float64)


def _frames(files: Mapping[str, bytes]) -> NDArray[np.uint8]:
    if "frames.npy" in files:
        frames = np.load(io.BytesIO(files["frames.npy"]), allow_pickle=False)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(f"expected frames uint8 [T, h, w, 3], got {list(frames.shape)}")
        return np.asarray(frames, np.uint8)
    import av  # only who trains on videos waits for it

    video = next(files[kind] for kind in (*_VIDEOS, "frames.npy") if kind in files)
    with av.open(io.BytesIO(video), "r") as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(found).astype(np.uint8)


def _cameras(poses: Tensor) -> Tensor:
    """Return x, z, yaw and pitch [T, 4] of poses [T, 8]."""
    x, y, z, w = poses[:, 3:7].unbind(1)
    yaw = torch.atan2(2 * (x * z + y * w), 1 - 2 * (x * x + y * y))
    pitch = torch.asin((-2 * (y * z - x * w)).clamp(-1, 1))
    yaw = torch.remainder(yaw + math.pi, 2 * math.pi) - math.pi
    return torch.stack([poses[:, 0], poses[:, 2], yaw, pitch], 1)


def _cut(recordings: Iterable[PlayClip], frames: int) -> Iterator[PlayClip]:
    for clip in recordings:
        for start in range(0, len(clip.frames) - frames + 1, frames):
            part = slice(start, start + frames)
            yield PlayClip(
                clip.theme,
                clip.place,
                clip.seed,
                clip.frames[part],
                clip.nearness[part],
                clip.poses[part],
                clip.cameras[part],
                clip.actions[part],
            )
