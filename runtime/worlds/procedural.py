"""The rendered world: no weights, exact camera poses, the same controls as the neural worlds."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from worldbridge.bridge.protocol import Pose, WorldSpec
from worldbridge.clock import now_ms
from worldbridge.models.procedural import (
    THEMES,
    CameraState,
    Scene,
    build_scene,
    camera_pose,
    spawn,
    step_camera,
)
from worldbridge.models.procedural.actions import (
    ACTION_NAMES,
    FRAMES_PER_SECOND,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
)
from worldbridge.models.procedural.render import render_rgbd
from worldbridge.runtime.controls import control_specs
from worldbridge.runtime.errors import BadPromptFrameError, SnapshotError, UnknownThemeError
from worldbridge.runtime.frames.i420 import rgb_to_i420
from worldbridge.runtime.process import one_thread
from worldbridge.runtime.worlds.contract import (
    Controls,
    Progress,
    Synchronous,
    WorldFrame,
    WorldStart,
)

__all__ = ["ProceduralState", "ProceduralWorld", "procedural_spec"]

DEFAULT_FPS = 30.0
_SAVED = struct.Struct("<BQ4d")  # theme number, seed, then the camera's exact x, z, yaw, pitch


@dataclass(slots=True, eq=False, weakref_slot=True)
class ProceduralState:
    scene: Scene
    camera: CameraState


def procedural_spec(fps: float = DEFAULT_FPS) -> WorldSpec:
    return WorldSpec(
        name="procedural",
        title="Procedural world (rendered, no weights)",
        width=IMAGE_WIDTH,
        height=IMAGE_HEIGHT,
        fps=fps,
        frames_per_latent=1,
        themes=tuple(THEMES),
        action_schema=control_specs(ACTION_NAMES),
        conditionings=("actions",),
        context_latents=0,
        kind="procedural",
        depth=True,
    )


class ProceduralWorld(Synchronous[ProceduralState]):
    """The renderer. Motion is defined per second, so any frame rate walks alike."""

    def __init__(self, fps: float = DEFAULT_FPS, device: str = "cpu") -> None:
        super().__init__()
        self.spec = procedural_spec(fps)
        self._device = device
        self._action_scale = FRAMES_PER_SECOND / fps

    def prepare(self, progress: Progress) -> None:
        """Paint every theme now: the first scene of one takes up to a second, the next ones none.

        Nobody else's play may stall for that long because a player chose another theme.
        """
        for number, theme in enumerate(THEMES):
            progress(f"painting {theme.replace('_', ' ')}", number / len(THEMES))
            self._scene(theme, 0)

    def open(self, start: WorldStart) -> ProceduralState:
        if start.prompt_frames is not None:
            raise BadPromptFrameError.none_taken(self.spec.name, len(start.prompt_frames))
        scene = self._scene(start.theme, start.seed)
        return ProceduralState(scene, spawn(scene, start.seed))

    def render(self, state: ProceduralState, controls: Controls) -> WorldFrame:
        """Move the camera in doubles on the CPU, and draw what it sees."""
        # rounded to float32, as every world takes actions
        action = np.asarray(controls.action, np.float32).astype(np.float64) * self._action_scale
        camera = step_camera(state.scene, state.camera, action.tolist())
        t_tokens = now_ms()
        with one_thread():
            image, nearness = render_rgbd(state.scene, camera)
            i420 = rgb_to_i420(image)
        state.camera = camera  # only now: a frame that failed has changed nothing
        depth = nearness.reciprocal().cpu().numpy().tobytes() if controls.depth else None
        return WorldFrame(i420, Pose(*camera_pose(camera)), t_tokens, now_ms(), controls.tag, depth)

    def save(self, state: ProceduralState) -> bytes:
        theme, camera = THEMES.index(state.scene.theme), state.camera
        return _SAVED.pack(theme, state.scene.seed, camera.x, camera.z, camera.yaw, camera.pitch)

    def load(self, data: bytes) -> ProceduralState:
        if len(data) != _SAVED.size or data[0] >= len(THEMES):
            raise SnapshotError(
                "the world's part of the snapshot is damaged",
                expected=f"{_SAVED.size} bytes that begin with a theme number below {len(THEMES)}",
                got=f"{len(data)} bytes: {data[:8].hex(' ')}",
            )
        theme, seed, *camera = _SAVED.unpack(data)
        return ProceduralState(self._scene(THEMES[theme], seed), CameraState(*camera))

    def _scene(self, theme: str, seed: int) -> Scene:
        if theme not in THEMES:
            raise UnknownThemeError(theme, THEMES)
        return build_scene(theme, seed, self._device)
