"""What a converted world tells its model of each latent: actions, cameras, and its one text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from worldbridge.bridge.protocol import Pose
from worldbridge.models.conditioning.actions import ActionLayout
from worldbridge.models.conditioning.camera import POSE_DIM, middle_frame
from worldbridge.models.conditioning.text import ROWS
from worldbridge.models.procedural import CameraState, camera_pose
from worldbridge.models.procedural.actions import ACTION_NAMES, FRAMES_PER_SECOND
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.worlds.camera import dead_reckoning

__all__ = ["Conditioning", "conditionings_of", "layout_of", "pose_of", "pose_vector"]


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
        """Of a start, which is one picture: its camera stands still."""
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
    values = [*pose.position, *pose.rotation, pose.fov_y]
    return torch.tensor(values, dtype=torch.float64)


def pose_of(vector: Sequence[float]) -> Pose:
    """The inverse of `pose_vector`. Raises ValueError for what is no pose."""
    if len(vector) != POSE_DIM or not all(math.isfinite(value) for value in vector):
        raise ValueError(f"expected {POSE_DIM} finite numbers, got {list(vector)}")
    x, y, z, a, b, c, d, fov_y = vector
    return Pose((x, y, z), (a, b, c, d), fov_y)
