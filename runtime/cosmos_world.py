"""A converted Cosmos model behind the `WorldModel` contract.

A latent becomes several pictures (eight with the published tokenizer). They are made together when
the first of them is due and handed out one per step, so controls reach the model once per latent.
"""

from __future__ import annotations

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
from worldbridge.models.tokenizer import StreamState
from worldbridge.models.world_folder import World, load_world
from worldbridge.models.worlds import (
    THEMES,
    CameraState,
    build_scene,
    camera_pose,
    render,
    spawn,
)
from worldbridge.models.worlds.actions import ACTION_NAMES
from worldbridge.runtime.camera import dead_reckoning
from worldbridge.runtime.decoding import RasterDecoder, RasterSession, RasterSnapshot, Sampling
from worldbridge.runtime.errors import SnapshotError, UnknownThemeError
from worldbridge.runtime.i420 import rgb_to_i420, unit_to_bytes
from worldbridge.runtime.world import Frames, Pose, Progress, WorldStart, WorldState

__all__ = ["CosmosState", "CosmosWorld", "cosmos_spec", "load_cosmos"]

_SNAPSHOT_VERSION = 1
_damaged = partial(SnapshotError.damaged, _SNAPSHOT_VERSION)
_CONTEXT_ROWS = 512  # text tokens of the published models; without a text all of them are zero


@dataclass(slots=True, eq=False)
class CosmosState(WorldState):
    """One stream. `pending`: I420 pictures of the newest latent that were not shown yet."""

    theme: str
    camera: CameraState
    session: RasterSession
    stream: StreamState
    pending: list[bytes]


class CosmosWorld:
    """WorldModel over a transformer without token grid and a causal video tokenizer."""

    def __init__(self, world: World, capacity: int, mode: str = "jacobi") -> None:
        self.spec = cosmos_spec(world.manifest)
        self.tokenizer, self.config = world.tokenizer, world.transformer.config
        sampling = Sampling(**world.manifest["sampling"])
        self.decoder = RasterDecoder(world.transformer, capacity, sampling, mode)
        self.device = self.decoder.device
        _, self.height, self.width = self.config.latent_shape

    # -- WorldModel -----------------------------------------------------------------------------

    @torch.inference_mode()
    def open(self, start: WorldStart) -> CosmosState:
        """The world begins with what the rendered scene of that theme and seed looks like."""
        if start.theme not in THEMES:
            raise UnknownThemeError(start.theme, THEMES)
        scene = build_scene(start.theme, start.seed)
        camera = spawn(scene, start.seed)
        picture = render(scene, camera, self.spec.height, self.spec.width)
        unit = (picture.float() / 127.5 - 1).to(self._dtype)[None, :, None].to(self.device)
        codes = self.tokenizer.encode(unit)[0]
        session = self.decoder.open(
            start.seed, codes, context=self._context(), conditions=self._conditions(len(codes))
        )
        stream = self._fresh_stream()
        pixels, stream = self.tokenizer.decode_step(codes[None], stream)
        return CosmosState(start.theme, camera, session, stream, _pictures(pixels))

    @torch.inference_mode()
    def step(self, states: Sequence[CosmosState], actions: Tensor) -> Frames:
        empty = [i for i, state in enumerate(states) if not state.pending]
        if empty:
            # drawing comes first: if it raises, no state has changed
            codes = self.decoder.decode(
                [states[i].session for i in empty], self._condition(actions[empty])
            )
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
            state.camera = dead_reckoning(state.camera, action)
        i420 = [state.pending.pop(0) for state in states]
        poses = [Pose(*camera_pose(state.camera)) for state in states]
        return Frames(i420, poses, t_tokens, _now_ms())

    def snapshot(self, state: CosmosState) -> bytes:
        """The tokens of the window. Pictures are made again from them, without what came before."""
        saved, camera = self.decoder.snapshot(state.session), state.camera
        conditions = None if saved.conditions is None else saved.conditions.float().numpy()
        return msgpack.packb(  # type: ignore[no-any-return]
            {
                "version": _SNAPSHOT_VERSION,
                "theme": state.theme,
                "seed": saved.seed,
                "latents": saved.latents,
                "codes": saved.codes.to(torch.int32).cpu().numpy().tobytes(),
                "conditions": None if conditions is None else conditions.tobytes(),
                "camera": [camera.x, camera.z, camera.yaw, camera.pitch],
                "pending": len(state.pending),
            }
        )

    @torch.inference_mode()
    def restore(self, data: bytes) -> CosmosState:
        saved, theme, camera, pending = self._read(data)
        session = self.decoder.restore(saved)
        pixels, stream = self.tokenizer.decode_step(saved.codes[None], self._fresh_stream())
        pictures = _pictures(pixels)
        left = pictures[len(pictures) - pending :]
        return CosmosState(theme, camera, session, stream, left)

    # -- parts ----------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        return self.tokenizer.post_quant_conv.conv3d.weight.dtype

    def _fresh_stream(self) -> StreamState:
        """Its temporal attention reaches as far back as the transformer's window: bounded."""
        window = self.decoder.max_latents
        return self.tokenizer.decode_stream_init(1, self.height, self.width, window)

    def _context(self) -> Tensor | None:
        if self.config.context_dim is None or self.config.conditioning != "none":
            return None
        return torch.zeros(_CONTEXT_ROWS, self.config.context_dim, device=self.device)

    def _condition(self, actions: Tensor) -> Tensor | None:
        """Our four axes [B, 4] as the model's action vector [B, condition_dim]."""
        if self.config.conditioning == "none":
            return None
        count = min(len(ACTION_NAMES), self.config.condition_dim)
        padded = torch.zeros(len(actions), self.config.condition_dim)
        padded[:, :count] = actions[:, :count]
        return padded.to(self.device)

    def _conditions(self, latents: int) -> Tensor | None:
        """Of a start, which no action led to."""
        return self._condition(torch.zeros(latents, len(ACTION_NAMES)))

    def _read(self, data: bytes) -> tuple[RasterSnapshot, str, CameraState, int]:
        shape = (-1, self.height, self.width)
        try:
            saved: dict[str, Any] = msgpack.unpackb(data)
            codes = torch.from_numpy(np.frombuffer(saved["codes"], np.int32).reshape(shape).copy())
            flat = saved["conditions"]
            conditions = None
            if flat is not None:
                rows = np.frombuffer(flat, np.float32).reshape(len(codes), -1).copy()
                conditions = torch.from_numpy(rows)
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
        if (conditions is None) != (self.config.conditioning == "none"):
            raise _damaged("conditions of another model")
        tokens = codes.long().to(self.device)
        snapshot = RasterSnapshot(seed, latents, tokens, self._context(), conditions)
        return snapshot, theme, camera, pending


def _pictures(pixels: Tensor) -> list[bytes]:
    """[1, 3, T, H, W] in [-1, 1] -> I420 of each frame."""
    frames = unit_to_bytes(pixels[0].float()).cpu()
    return [rgb_to_i420(frame) for frame in frames.unbind(1)]


def _now_ms() -> float:
    return time.monotonic() * 1000


def cosmos_spec(manifest: dict[str, Any]) -> WorldSpec:
    """What a converted world looks like from outside."""
    frames, height, width = manifest["transformer"]["latent_shape"]
    scale = int(manifest["tokenizer"]["spatial_compression"])
    acts = manifest["transformer"]["conditioning"] != "none"
    return WorldSpec(
        name=manifest["name"],
        title=manifest["title"],
        width=width * scale,
        height=height * scale,
        fps=float(manifest["frames_per_second"]),
        frames_per_latent=int(manifest["tokenizer"]["temporal_compression"]),
        themes=tuple(THEMES),
        action_schema=tuple(ACTION_NAMES) if acts else (),
        context_frames=frames,
        kind="ar",
    )


def load_cosmos(directory: Path, *, seats: int, device: str, progress: Progress) -> CosmosWorld:
    """The world in a folder made by `worldbridge convert`. Raises DamagedWorldError."""
    progress("reading weights", 0.1)
    world = load_world(directory, keep_types=True)
    progress("moving weights", 0.6)
    world.tokenizer.to(device)
    world.transformer.to(device)
    return CosmosWorld(world, capacity=seats + 1)
