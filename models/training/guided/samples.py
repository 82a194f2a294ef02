"""What the transformer of a world with a spatial memory learns from: clips as guides and codes.

Along each clip a spatial memory is filled as in play. In half of the clips it is filled with the
true frames, in the others with the networks' own, so that the transformer knows what its errors
look like when they come back as a guide. The frames are the tokenizer's, or, where there is a
transformer already, those that it draws; codes to learn are always those of the true frames.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.guided.config import active_blocks, floor_nearness, make_guide
from worldbridge.models.guided.cracks import mend_cracks
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.guided.transformer import block_guide, draw_active, guided_condition
from worldbridge.models.progress import Progress, silent
from worldbridge.models.spatial_memory import MemoryConfig, SpatialMemory
from worldbridge.models.training.play_clips import ClipShards, PlayClip
from worldbridge.models.transformer import VideoTransformer

__all__ = [
    "CLIPS_A_FILE",
    "FrameSample",
    "Samples",
    "clip_frames",
    "clip_samples",
    "load_samples",
    "write_samples",
]

CLIPS_A_FILE = 10
_FIELDS = ("guide", "active", "digits", "condition", "follows")


@dataclass(frozen=True, slots=True)
class Samples:
    """Frames as the transformer sees them, N of them.

    guide int8 [N, H, W, G], 127 times `block_guide`; active bool [N, H, W]; digits uint8
    [N, H, W, D]; condition float32 [N, C]; follows bool [N], whether the sample before is the
    frame before.
    """

    guide: Tensor
    active: Tensor
    digits: Tensor
    condition: Tensor
    follows: Tensor

    def __len__(self) -> int:
        return len(self.follows)

    @property
    def nbytes(self) -> int:
        """What the samples take, in bytes."""
        return sum(getattr(self, name).nbytes for name in _FIELDS)

    @classmethod
    def join(cls, parts: list[Samples]) -> Samples:
        """Return all samples of the parts in their order."""
        return cls(*(torch.cat([getattr(p, name) for p in parts]) for name in _FIELDS))

    def previous(self, index: Tensor) -> Tensor:
        """Return the digits of the frames before, int64 [n, H, W, D]; -1 where there are none."""
        before = (index - 1).clamp_min(0)
        known = self.active[before] & self.follows[index][:, None, None]
        return torch.where(known[..., None], self.digits[before].long(), -1)


class _Pose(NamedTuple):
    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class FrameSample:
    """One frame on its way to a sample, as the tokenizer and the transformer see it.

    color float [3, H, W] in [-1, 1]; guide float [1, 6, H, W]; blocks is `block_guide` of it;
    active bool [rows, columns]; digits uint8 [rows, columns, D]; condition float [C].
    """

    color: Tensor
    guide: Tensor
    blocks: Tensor
    active: Tensor
    digits: Tensor
    condition: Tensor


@torch.inference_mode()
def clip_frames(
    clip: PlayClip,
    tokenizer: GuidedTokenizer,
    *,
    stride: int = 1,
    own_frames: bool = False,
    transformer: VideoTransformer | None = None,
    memory: SpatialMemory | None = None,
) -> list[FrameSample]:
    """Return every `stride`-th frame of a clip as it is played; the first sees no guide.

    With `own_frames` the memory is filled with the tokenizer's frames instead of the true ones,
    but for the first, which is true in play as well; `transformer` draws their codes.
    """
    config = tokenizer.config
    memory = memory or SpatialMemory(MemoryConfig(config.height, config.width))
    memory.clear()
    found = []
    previous = torch.full((config.rows, config.columns, config.digits), -1)
    for t in range(0, len(clip.frames), stride):
        x, y, z, qx, qy, qz, qw, fov_y = clip.poses[t].tolist()
        pose = _Pose((x, y, z), (qx, qy, qz, qw))
        pitch = clip.cameras[t, 3:4].float()
        color = clip.frames[t].float()[None] / 127.5 - 1.0
        nearness = clip.nearness[t].float()[None]
        rendered = memory.render(pose, fov_y)
        seen = mend_cracks(rendered)
        floor = floor_nearness(pitch, config.height, config.width, fov_y, config.eye_height_m)
        shown = seen.rgb.permute(2, 0, 1).float()[None] / 127.5 - 1.0
        guide = make_guide(shown, seen.nearness[None], seen.mask[None], floor)
        features = tokenizer.guide_features(guide)
        active = active_blocks(seen.mask[None], config.active_share)
        digits = tokenizer.encode(color, nearness, guide, features)
        actions = clip.actions[max(0, t - stride + 1) : t + 1].sum(0).clamp(-1, 1)
        condition = guided_condition(actions, pitch[0], clip.place)
        blocks = block_guide(guide)[0]
        found.append(FrameSample(color[0], guide, blocks, active[0], digits[0], condition))
        own = own_frames and t > 0
        if own:
            shown_digits = digits
            if transformer is not None and bool(active.any()):
                generator = torch.Generator().manual_seed(1_000 * clip.seed + t)
                drawn = draw_active(transformer, active[0], blocks, previous, condition, generator)
                previous, shown_digits = drawn, drawn.clamp_min(0)[None]
            color, nearness = tokenizer.decode(shown_digits, active, guide, features)
        rgb = ((color[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
        memory.add(rgb, nearness[0], pose, fov_y, unseen=~rendered.mask if own else None)
    return found


def clip_samples(
    clip: PlayClip,
    tokenizer: GuidedTokenizer,
    *,
    stride: int = 1,
    own_frames: bool = False,
    transformer: VideoTransformer | None = None,
    memory: SpatialMemory | None = None,
) -> Samples:
    """Return `clip_frames` as samples."""
    frames = clip_frames(
        clip,
        tokenizer,
        stride=stride,
        own_frames=own_frames,
        transformer=transformer,
        memory=memory,
    )
    return Samples(
        torch.stack([(f.blocks * 127).round().to(torch.int8) for f in frames]),
        torch.stack([f.active for f in frames]),
        torch.stack([f.digits for f in frames]),
        torch.stack([f.condition for f in frames]),
        torch.arange(len(frames)) > 0,
    )


def write_samples(
    clips: Path,
    tokenizer: GuidedTokenizer,
    out: Path,
    seed: int = 0,
    files: Sequence[int] | None = None,
    transformer: VideoTransformer | None = None,
    progress: Progress = silent,
) -> None:
    """Encode a clip cache into `out`, a file for every ten clips; those that exist are kept.

    Half of the clips have the networks' own frames in their memory; `transformer` as in
    `clip_frames`.
    `files` are the numbers of the files to write, all without it; several processes may write
    different ones.

    Raises FileNotFoundError where there is no clip cache.
    """
    out.mkdir(parents=True, exist_ok=True)
    shards = ClipShards(clips)
    memory = SpatialMemory(MemoryConfig(tokenizer.config.height, tokenizer.config.width))
    wanted = range(-(-len(shards) // CLIPS_A_FILE)) if files is None else files
    for done, number in enumerate(wanted):
        path = out / f"samples{number:05d}.npz"
        if path.exists():
            continue
        progress("encoding play", done / len(wanted))
        parts = []
        for index in range(number * CLIPS_A_FILE, min((number + 1) * CLIPS_A_FILE, len(shards))):
            random = np.random.default_rng([seed, index])
            stride, own = int(random.choice([1, 1, 2, 3])), bool(random.random() < 0.5)
            clip = shards.clip(index)
            parts.append(
                clip_samples(
                    clip,
                    tokenizer,
                    stride=stride,
                    own_frames=own,
                    transformer=transformer,
                    memory=memory,
                )
            )
        joined = Samples.join(parts)
        partial = out / f".partial-{number}-{os.getpid()}.npz"
        np.savez(partial, **{name: getattr(joined, name).numpy() for name in _FIELDS})
        partial.replace(path)
    progress("encoding play", 1.0)


def load_samples(folder: Path) -> list[Samples]:
    """Return the samples of each file of a folder.

    Raises FileNotFoundError where there are none, ValueError for a damaged file.
    """
    paths = sorted(folder.glob("samples*.npz"))
    if not paths:
        raise FileNotFoundError(f"expected samples*.npz in {folder}, found none: encode play first")
    found = []
    for path in paths:
        try:
            with np.load(path) as file:
                found.append(Samples(*(torch.from_numpy(file[name]) for name in _FIELDS)))
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise ValueError(
                f"expected whole samples in {path}, got {error}: delete it and encode again"
            ) from error
    return found
