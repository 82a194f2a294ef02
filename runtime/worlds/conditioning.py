"""What conditions a world: actions, cameras, prompt frames, one text, and its window of latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldbridge.bridge.protocol import Pose, WorldSpec
from worldbridge.models.conditioning.actions import ActionLayout
from worldbridge.models.conditioning.camera import POSE_DIM, middle_frame
from worldbridge.models.conditioning.prompt_frames import (
    fit_prompt_frames,
    hold_first,
    to_unit,
    whole_latents,
)
from worldbridge.models.conditioning.text import ROWS
from worldbridge.models.errors import PromptFrameError
from worldbridge.models.procedural import CameraState, camera_pose
from worldbridge.models.procedural import actions as limits
from worldbridge.models.procedural.actions import ACTION_NAMES, FRAMES_PER_SECOND
from worldbridge.models.tokenizer import TokenizerConfig
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding.options import DecodeOptions
from worldbridge.runtime.errors import BadPromptFrameError

__all__ = [
    "Alignment",
    "Conditioning",
    "Window",
    "conditionings_of",
    "dead_reckoning",
    "layout_of",
    "pose_of",
    "pose_vector",
    "start_video",
    "window_of",
]


class Conditioning:
    """The inputs of a raster-order `Decoder` besides tokens; None for what the model does not take.

    Args:
        manifest: the world's `world.json`.
        context: float [m, context_dim] of a text; None stands for no text, as zeros do.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        config: TransformerConfig,
        device: torch.device,
        context: Tensor | None = None,
    ) -> None:
        self._config, self._device = config, device
        self._layout = layout_of(manifest, config)
        self._middle = middle_frame(int(manifest["tokenizer"]["temporal_compression"]))
        # speeds are defined per second, so a world with more frames moves less in each
        self._share = FRAMES_PER_SECOND / float(manifest["frames_per_second"])
        self.context = self._checked(context)

    def actions(self, actions: Tensor) -> Tensor | None:
        """Our four axes [B, 4] as the model's vectors [B, condition_dim]."""
        return None if self._layout is None else self._layout.vectors(actions).to(self._device)

    def start_actions(self, latents: int) -> Tensor | None:
        """Of a start, which no action led to."""
        return self.actions(torch.zeros(latents, len(ACTION_NAMES)))

    def start_poses(self, camera: CameraState, latents: int) -> Tensor | None:
        """Of a start, which is one frame: its camera stands still."""
        if not self._config.takes_camera:
            return None
        return pose_vector(Pose(*camera_pose(camera))).expand(latents, POSE_DIM)

    def poses(
        self, cameras: Sequence[CameraState], sent: Sequence[Pose | None], actions: Tensor
    ) -> Tensor | None:
        """Cameras [B, 8] at the middle frames of the latents that come next.

        A camera that a client sent is taken as it is. Otherwise it is where the controls lead if
        they are held until then.
        """
        if not self._config.takes_camera:
            return None
        rows = [
            pose_vector(Pose(*camera_pose(self._ahead(camera, action))) if own is None else own)
            for camera, own, action in zip(cameras, sent, actions.tolist(), strict=True)
        ]
        return torch.stack(rows)

    def moved(self, camera: CameraState, action: Sequence[float]) -> CameraState:
        """The camera after one frame."""
        return dead_reckoning(camera, [self._share * axis for axis in action])

    def _ahead(self, camera: CameraState, action: Sequence[float]) -> CameraState:
        for _ in range(self._middle):
            camera = self.moved(camera, action)
        return camera

    def _checked(self, context: Tensor | None) -> Tensor | None:
        width = self._config.context_dim
        if not self._config.takes_text or width is None:
            if context is not None:
                raise ValueError("this world takes no text; pass no context")
            return None
        if context is None:
            return torch.zeros(ROWS, width, device=self._device)
        if context.ndim != 2 or context.shape[1] != width:
            raise ValueError(f"expected a context [m, {width}], got {list(context.shape)}")
        return context.to(self._device)


def conditionings_of(config: TransformerConfig) -> tuple[str, ...]:
    """What a model takes, by the names of `WorldSpec.conditionings`."""
    takes = {
        "actions": config.takes_actions,
        "camera": config.takes_camera,
        "text": config.takes_text,
    }
    return tuple(name for name, taken in takes.items() if taken)


def layout_of(manifest: Mapping[str, Any], config: TransformerConfig) -> ActionLayout | None:
    """Where our axes stand in the model's vector. Raises ValueError for a wrong `actions`."""
    if not config.takes_actions:
        return None
    return ActionLayout.read(manifest.get("actions"), config.condition_dim)


def pose_vector(pose: Pose) -> Tensor:
    """float64 [8], as `models/conditioning/camera.py` has it."""
    values = [*pose.position, *pose.orientation, pose.fov_y]
    return torch.tensor(values, dtype=torch.float64)


def pose_of(vector: Sequence[float]) -> Pose:
    """The inverse of `pose_vector`. Raises ValueError for what is no pose."""
    if len(vector) != POSE_DIM or not all(math.isfinite(value) for value in vector):
        raise ValueError(f"expected {POSE_DIM} finite numbers, got {list(vector)}")
    x, y, z, a, b, c, d, fov_y = vector
    return Pose((x, y, z), (a, b, c, d), fov_y)


_Vec3 = tuple[float, float, float]
_Quaternion = tuple[float, float, float, float]


def dead_reckoning(camera: CameraState, action: Sequence[float]) -> CameraState:
    """The camera after one action (strafe, forward, yaw, pitch), without walls."""
    strafe, forward, yaw, pitch = action[:4]  # other controls do not move the camera
    turned = camera.yaw + yaw * math.radians(limits.MAX_YAW_DEG)
    limit = math.radians(limits.PITCH_LIMIT_DEG)
    gaze = camera.pitch + pitch * math.radians(limits.MAX_PITCH_DEG)
    right, ahead = strafe * limits.MAX_STRAFE_M, forward * limits.MAX_WALK_M
    return CameraState(
        x=camera.x + right * math.cos(turned) - ahead * math.sin(turned),
        z=camera.z - right * math.sin(turned) - ahead * math.cos(turned),
        yaw=math.remainder(turned, 2 * math.pi),
        pitch=max(-limit, min(limit, gaze)),
    )


@dataclass(frozen=True, slots=True)
class Alignment:
    """The rigid motion from a client's coordinates to the world's: p -> rotation p + shift.

    An engine has an origin and a north of its own. Its first camera is taken to be where the
    stream's camera is at that moment; a client whose coordinates are the world's, which it gets
    with every frame, is not moved at all.
    """

    rotation: _Quaternion
    shift: _Vec3

    @classmethod
    def of(cls, ours: Pose, theirs: Pose) -> Alignment:
        """The motion that takes their pose to ours."""
        x, y, z, w = _unit(theirs.orientation)
        rotation = _unit(_times(_unit(ours.orientation), (-x, -y, -z, w)))
        moved = _turned(rotation, theirs.position)
        a, b, c = (mine - other for mine, other in zip(ours.position, moved, strict=True))
        return cls(rotation, (a, b, c))

    def apply(self, pose: Pose) -> Pose:
        x, y, z = _turned(self.rotation, pose.position)
        a, b, c = self.shift
        rotation = _unit(_times(self.rotation, _unit(pose.orientation)))
        return Pose((x + a, y + b, z + c), rotation, pose.fov_y)


def _times(p: _Quaternion, q: _Quaternion) -> _Quaternion:
    """The product p q of two quaternions (x, y, z, w): first q, then p."""
    px, py, pz, pw = p
    qx, qy, qz, qw = q
    return (
        pw * qx + px * qw + py * qz - pz * qy,
        pw * qy - px * qz + py * qw + pz * qx,
        pw * qz + px * qy - py * qx + pz * qw,
        pw * qw - px * qx - py * qy - pz * qz,
    )


def _unit(q: _Quaternion) -> _Quaternion:
    x, y, z, w = q
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return x / length, y / length, z / length, w / length


def _turned(q: _Quaternion, point: _Vec3) -> _Vec3:
    x, y, z, w = q
    a, b, c, _ = _times(_times(q, (*point, 0.0)), (-x, -y, -z, w))
    return a, b, c


@dataclass(frozen=True, slots=True)
class Window:
    """`latents` at most, the one being drawn included; a full window slides to its newest `keep`,
    whose keys are computed again ("reprefill") or turned back in time ("rotate")."""

    latents: int
    keep: int
    slide: str


def window_of(manifest: dict[str, Any], config: TransformerConfig) -> Window:
    """From `window` in a world.json; without it all latents that the model was trained on, and half
    of them after a slide. Raises ValueError."""
    given = manifest.get("window", {})
    if not isinstance(given, dict) or set(given) - {"latents", "keep", "slide"}:
        raise ValueError(f"expected a window of latents, keep and slide, got {given!r}")
    latents = given.get("latents", config.latent_shape[0])
    if not isinstance(latents, int):
        raise ValueError(f"expected a whole number of latents, got {latents!r}")
    keep, slide = given.get("keep", max(1, latents // 2)), given.get("slide", "reprefill")
    if not isinstance(keep, int):
        raise ValueError(f"expected to keep a whole number of latents, got {keep!r}")
    DecodeOptions("sequential", latents, keep, slide).resolve(config)
    return Window(latents, keep, slide)


def start_video(
    prompt_frames: Tensor, spec: WorldSpec, config: TokenizerConfig, least: int
) -> Tensor:
    """`WorldStart.prompt_frames` -> float32 [1, 3, T, height, width] in [-1, 1].

    T is at least `least`, and a number of frames that makes whole latents; while there are fewer
    prompt_frames, the first one stands still. Raises BadPromptFrameError.
    """
    try:
        fitted = fit_prompt_frames(
            prompt_frames,
            spec.height,
            spec.width,
            most=spec.max_prompt_frames,
            spatial_compression=config.spatial_compression,
        )
    except PromptFrameError as error:
        raise BadPromptFrameError.of(error) from error
    frames = max(len(fitted), least)
    held = hold_first(fitted, whole_latents(frames, config.temporal_compression))
    return to_unit(held).transpose(0, 1)[None]
