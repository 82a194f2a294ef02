"""A converted Cosmos model behind the `WorldModel` contract.

A latent becomes several pictures (eight with the published tokenizer). They are made together when
the first of them is due and handed out one per step, so controls reach the model once per latent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from torch import Tensor

from worldbridge.bridge.protocol import WorldSpec
from worldbridge.models.camera import check_poses
from worldbridge.models.pictures import MAX_PICTURES, to_unit
from worldbridge.models.tokenizer import StreamState
from worldbridge.models.transformer import TransformerConfig
from worldbridge.models.world_folder import World, load_world
from worldbridge.models.worlds import (
    THEMES,
    CameraState,
    build_scene,
    camera_pose,
    render,
    spawn,
)
from worldbridge.runtime.camera import Alignment
from worldbridge.runtime.conditioning import (
    Conditioning,
    conditionings_of,
    layout_of,
    pose_of,
    pose_vector,
)
from worldbridge.runtime.decoding import RasterDecoder, RasterSession, RasterSnapshot, Sampling
from worldbridge.runtime.errors import SnapshotError, UnknownThemeError
from worldbridge.runtime.i420 import rgb_to_i420, unit_to_bytes
from worldbridge.runtime.start_pictures import start_video
from worldbridge.runtime.world import Frames, Pose, Progress, WorldStart, WorldState

__all__ = ["CosmosState", "CosmosWorld", "cosmos_spec", "load_cosmos"]

_SNAPSHOT_VERSION = 2
_damaged = partial(SnapshotError.damaged, _SNAPSHOT_VERSION)


@dataclass(frozen=True, slots=True)
class ClientView:
    """A camera that the client sends: how its coordinates lie in ours, and where it is in ours."""

    alignment: Alignment
    pose: Pose


@dataclass(slots=True, eq=False)
class CosmosState(WorldState):
    """One stream. `pending`: I420 pictures of the newest latent that were not shown yet."""

    theme: str
    camera: CameraState
    session: RasterSession
    stream: StreamState
    pending: list[bytes]
    view: ClientView | None = None


class CosmosWorld:
    """WorldModel over a transformer without token grid and a causal video tokenizer."""

    def __init__(
        self, world: World, capacity: int, mode: str = "jacobi", context: Tensor | None = None
    ) -> None:
        """`context` [m, context_dim]: the text that the world is told, if it takes one."""
        self.spec = cosmos_spec(world.manifest)
        self.tokenizer, self.config = world.tokenizer, world.transformer.config
        sampling = Sampling(**world.manifest["sampling"])
        self.decoder = RasterDecoder(world.transformer, capacity, sampling, mode, heads=world.heads)
        self.device = self.decoder.device
        self.told = Conditioning(world.manifest, self.config, self.device, context)
        _, self.height, self.width = self.config.latent_shape

    # -- WorldModel -----------------------------------------------------------------------------

    @torch.inference_mode()
    def open(self, start: WorldStart) -> CosmosState:
        """The world begins with what the rendered scene of that theme and seed looks like.

        With pictures it begins with the newest of these, at the origin, as the published models do:
        one is the first latent, up to nine are two latents.
        """
        if start.theme not in THEMES:
            raise UnknownThemeError(start.theme, THEMES)
        if start.pictures is not None:
            camera = CameraState(0.0, 0.0)
            video = start_video(start.pictures, self.spec, self.tokenizer.config, 1)
        else:
            scene = build_scene(start.theme, start.seed)
            camera = spawn(scene, start.seed)
            picture = render(scene, camera, self.spec.height, self.spec.width)
            video = to_unit(picture)[None, :, None]
        codes = self.tokenizer.encode(video.to(self._dtype).to(self.device))[0]
        session = self.decoder.open(
            start.seed,
            codes,
            context=self.told.context,
            conditions=self.told.start_actions(len(codes)),
            poses=self.told.start_poses(camera, len(codes)),
        )
        stream = self._fresh_stream()
        pixels, stream = self.tokenizer.decode_step(codes[None], stream)
        newest = _pictures(pixels[:, :, -1:])
        return CosmosState(start.theme, camera, session, stream, newest)

    def aim(self, states: Sequence[CosmosState], poses: Sequence[Pose | None]) -> None:
        """The next latents are seen from these cameras of the clients.

        From the first one on, a client's camera is where it says; while it says nothing, the
        camera stays.
        """
        if not self.config.takes_camera:
            return
        for state, pose in zip(states, poses, strict=True):
            if pose is None:
                continue
            if state.view is None:
                alignment = Alignment.of(Pose(*camera_pose(state.camera)), pose)
            else:
                alignment = state.view.alignment
            state.view = ClientView(alignment, alignment.apply(pose))

    @torch.inference_mode()
    def step(self, states: Sequence[CosmosState], actions: Tensor) -> Frames:
        empty = [i for i, state in enumerate(states) if not state.pending]
        if empty:
            # drawing comes first: if it raises, no state has changed
            codes = self._draw([states[i] for i in empty], actions[empty])
            t_tokens = _now_ms()
            for i, latent in zip(empty, codes, strict=True):
                state = states[i]
                pixels, state.stream = self.tokenizer.decode_step(
                    latent[None, None], state.stream, False
                )
                state.pending = _pictures(pixels)
        else:
            t_tokens = _now_ms()
        for state, action in zip(states, actions.tolist(), strict=True):
            state.camera = self.told.moved(state.camera, action)
        i420 = [state.pending.pop(0) for state in states]
        poses = [_seen_from(state) for state in states]
        return Frames(i420, poses, t_tokens, _now_ms())

    def snapshot(self, state: CosmosState) -> bytes:
        """The tokens of the window. Pictures are made again from them, without what came before."""
        saved, camera = self.decoder.snapshot(state.session), state.camera
        conditions = None if saved.conditions is None else saved.conditions.float().cpu().numpy()
        poses = None if saved.poses is None else saved.poses.double().numpy()
        view = state.view
        return msgpack.packb(  # type: ignore[no-any-return]
            {
                "version": _SNAPSHOT_VERSION,
                "theme": state.theme,
                "seed": saved.seed,
                "latents": saved.latents,
                "codes": saved.codes.to(torch.int32).cpu().numpy().tobytes(),
                "conditions": None if conditions is None else conditions.tobytes(),
                "poses": None if poses is None else poses.tobytes(),
                "view": None if view is None else _packed_view(view),
                "camera": [camera.x, camera.z, camera.yaw, camera.pitch],
                "pending": len(state.pending),
            }
        )

    @torch.inference_mode()
    def restore(self, data: bytes) -> CosmosState:
        saved, theme, camera, pending, view = self._read(data)
        session = self.decoder.restore(saved)
        pixels, stream = self.tokenizer.decode_step(saved.codes[None], self._fresh_stream())
        pictures = _pictures(pixels)
        left = pictures[len(pictures) - pending :]
        return CosmosState(theme, camera, session, stream, left, view)

    # -- parts ----------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        return self.tokenizer.post_quant_conv.conv3d.weight.dtype

    def _fresh_stream(self) -> StreamState:
        """Its temporal attention reaches as far back as the transformer's window: bounded."""
        window = self.decoder.max_latents
        return self.tokenizer.decode_stream_init(1, self.height, self.width, window)

    def _draw(self, states: list[CosmosState], actions: Tensor) -> Tensor:
        """The next latents [B, h, w] of states that have no picture left."""
        sent = [None if state.view is None else state.view.pose for state in states]
        return self.decoder.decode(
            [state.session for state in states],
            self.told.actions(actions),
            self.told.poses([state.camera for state in states], sent, actions),
        )

    def _read(
        self, data: bytes
    ) -> tuple[RasterSnapshot, str, CameraState, int, ClientView | None]:
        shape = (-1, self.height, self.width)
        try:
            saved: dict[str, Any] = msgpack.unpackb(data)
            codes = torch.from_numpy(np.frombuffer(saved["codes"], np.int32).reshape(shape).copy())
            flat = saved["conditions"]
            conditions = None
            if flat is not None:
                rows = np.frombuffer(flat, np.float32).reshape(len(codes), -1).copy()
                conditions = torch.from_numpy(rows)
            cameras, poses = saved["poses"], None
            if cameras is not None:
                turned = np.frombuffer(cameras, np.float64).reshape(len(codes), -1).copy()
                poses = torch.from_numpy(turned)
                check_poses(poses, len(codes))
            view = None if saved["view"] is None else _unpacked_view(saved["view"])
            camera = CameraState(*(float(x) for x in saved["camera"]))
            theme, version, pending = saved["theme"], saved["version"], int(saved["pending"])
            seed, latents = int(saved["seed"]), int(saved["latents"])
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
            raise _damaged(f"{len(data)} bytes ({type(error).__name__}: {error})") from error
        if version != _SNAPSHOT_VERSION or theme not in THEMES:
            raise _damaged(f"version {version!r}, theme {theme!r}")
        if not 0 < len(codes) <= latents or not 0 <= pending <= self.spec.frames_per_latent:
            raise _damaged(f"{len(codes)} of {latents} latents, {pending} pictures")
        if len(codes) != latents - self.decoder.window_start(latents):
            raise _damaged(f"{len(codes)} latents of {latents}")
        if int(codes.min()) < 0 or int(codes.max()) >= self.config.vocab_size:
            raise _damaged(f"codes from {int(codes.min())} to {int(codes.max())}")
        width = None if conditions is None else conditions.shape[1]
        if width != (self.config.condition_dim if self.config.takes_actions else None):
            raise _damaged("conditions of another model")
        if conditions is not None and not bool(conditions.isfinite().all()):
            raise _damaged("conditions that are not finite")
        if (poses is not None) != self.config.takes_camera:
            raise _damaged("cameras of another model")
        tokens = codes.long().to(self.device)
        snapshot = RasterSnapshot(seed, latents, tokens, self.told.context, conditions, poses)
        return snapshot, theme, camera, pending, view


def _pictures(pixels: Tensor) -> list[bytes]:
    """[1, 3, T, H, W] in [-1, 1] -> I420 of each frame."""
    frames = unit_to_bytes(pixels[0].float()).cpu()
    return [rgb_to_i420(frame) for frame in frames.unbind(1)]


def _seen_from(state: CosmosState) -> Pose:
    """The camera of the newest picture. A client's is known only as of each latent."""
    if state.view is None:
        return Pose(*camera_pose(state.camera))
    return pose_of(state.session.poses[-1].tolist())


def _packed_view(view: ClientView) -> list[float]:
    return [*view.alignment.rotation, *view.alignment.shift, *pose_vector(view.pose).tolist()]


def _unpacked_view(values: list[float]) -> ClientView:
    """Raises ValueError or TypeError for what `_packed_view` did not write."""
    a, b, c, d, x, y, z, *pose = (float(value) for value in values)
    if not all(math.isfinite(value) for value in (a, b, c, d, x, y, z)):
        raise ValueError(f"expected finite numbers, got {values}")
    return ClientView(Alignment((a, b, c, d), (x, y, z)), pose_of(pose))


def _now_ms() -> float:
    return time.monotonic() * 1000


def cosmos_spec(manifest: dict[str, Any]) -> WorldSpec:
    """What a converted world looks like from outside."""
    frames, height, width = manifest["transformer"]["latent_shape"]
    scale = int(manifest["tokenizer"]["spatial_compression"])
    config = TransformerConfig.from_dict(manifest["transformer"])
    layout = layout_of(manifest, config)
    return WorldSpec(
        name=manifest["name"],
        title=manifest["title"],
        width=width * scale,
        height=height * scale,
        fps=float(manifest["frames_per_second"]),
        frames_per_latent=int(manifest["tokenizer"]["temporal_compression"]),
        themes=tuple(THEMES),
        action_schema=() if layout is None else layout.axes,
        context_frames=frames,
        kind="ar",
        conditionings=conditionings_of(config),
        takes_pictures=_takes_pictures(frames, manifest["tokenizer"]["temporal_compression"]),
    )


def _takes_pictures(latents: int, temporal_compression: int) -> int:
    """As many as leave room for the latent being drawn; two latents, as published, at most."""
    return min(MAX_PICTURES, 1 + temporal_compression * max(0, latents - 2))


def load_cosmos(
    directory: Path,
    *,
    seats: int,
    device: str,
    progress: Progress,
    context: Tensor | None = None,
) -> CosmosWorld:
    """The world in a folder made by `worldbridge convert`. Raises DamagedWorldError."""
    progress("reading weights", 0.1)
    world = load_world(directory, keep_types=True)
    progress("moving weights", 0.6)
    world.tokenizer.to(device)
    world.transformer.to(device)
    if world.heads is not None:
        world.heads.to(device)
    return CosmosWorld(world, capacity=seats + 1, context=context)
