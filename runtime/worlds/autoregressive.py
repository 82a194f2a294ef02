"""A neural world: transformer and tokenizer behind the `WorldModel` contract.

A session is its seed, its newest tokens and what led to them; keys, values and the tokenizer's
memory are rebuilt from these, bit for bit, because they are computed again by the same steps.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from torch import Tensor

from worldbridge.bridge.protocol import WorldSpec
from worldbridge.clock import now_ms
from worldbridge.models.checkpoint import EMBEDDED_WORLD, World, load_world, read_manifest
from worldbridge.models.conditioning.actions import CONDITION_DIM, condition_vector
from worldbridge.models.conditioning.prompt_frames import MAX_PROMPT_FRAMES, to_unit
from worldbridge.models.errors import DamagedWorldError
from worldbridge.models.procedural import (
    THEMES,
    CameraState,
    build_scene,
    camera_pose,
    render,
    soften,
    spawn,
)
from worldbridge.models.procedural import actions as limits
from worldbridge.models.tokenizer import StreamState
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.controls import control_specs
from worldbridge.runtime.decoding import (
    DecodeOptions,
    Decoder,
    DecodeSession,
    Sampling,
    make_decoder,
)
from worldbridge.runtime.decoding.capacity import seats_tried
from worldbridge.runtime.errors import DamagedWeightsError, SnapshotError, UnknownThemeError
from worldbridge.runtime.frames.i420 import rgb_to_i420, unit_to_bytes
from worldbridge.runtime.process import one_thread
from worldbridge.runtime.worlds.conditioning import dead_reckoning, start_video
from worldbridge.runtime.worlds.contract import (
    Controls,
    Pose,
    Progress,
    WorldFrame,
    WorldModel,
    WorldStart,
)
from worldbridge.runtime.worlds.cosmos import CosmosWorld, cosmos_spec, load_cosmos

__all__ = ["ArState", "ArWorld", "embedded_spec", "load_directory", "load_embedded"]

log = logging.getLogger(__name__)

_SNAPSHOT_VERSION = 1
_damaged = partial(SnapshotError.damaged, _SNAPSHOT_VERSION)
DEFAULT_CAPACITY = 8


@dataclass(slots=True, eq=False)
class ArState:
    """One stream. `codes` [n, H, W], `conditions` [n, C]: what a rebuild needs, oldest first, on
    the CPU. `unfinished`: its frames that nobody has polled."""

    theme: str
    camera: CameraState
    grid: DecodeSession
    stream: StreamState
    codes: Tensor
    conditions: Tensor
    unfinished: deque[Future[WorldFrame]] = field(default_factory=deque)


class ArWorld(WorldModel[ArState]):
    """A world folder's networks: `submit` samples tokens while a thread decodes those before."""

    capacity: int
    overlap = 1  # a frame's pixels are made beside the next one's tokens

    def __init__(
        self, world: World, capacity: int = DEFAULT_CAPACITY, mode: str = "diagonal"
    ) -> None:
        super().__init__()
        self.spec = _spec(world.manifest)
        self.training: dict[str, Any] = world.manifest.get("training", {})  # how it was made
        self.tokenizer, self.config = world.tokenizer, world.transformer.config
        assert self.config.grid is not None
        sampling = Sampling(**world.manifest["sampling"])
        self.transformer, self.heads, self.sampling = world.transformer, world.heads, sampling
        self.capacity = capacity
        self.decoder = self.make_decoder(mode)
        _, self.height, self.width = self.config.latent_shape
        self._pixel_thread: ThreadPoolExecutor | None = None
        self._newest: list[Future[WorldFrame]] = []
        # Keys of layer n depend on n windows of the past; the tokenizer's memory is shorter.
        window = self.window = self.config.grid.window_frames
        self.replayed = max((window - 1) * self.config.n_layers, _TOKENIZER_REACH) + 1
        self.kept = self.replayed + self.config.grid.previous_latents

    def open(self, start: WorldStart) -> ArState:
        """The world begins with what the rendered scene of that theme and seed looks like.

        With prompt frames it begins with these, at the origin; a single one stands still for a
        whole window.
        """
        if start.theme not in THEMES:
            raise UnknownThemeError(start.theme, THEMES)
        with torch.inference_mode():
            if start.prompt_frames is not None:
                camera = CameraState(0.0, 0.0)
                # A full window of one still holds it better than one frame: 0.2 dB, measured.
                video = start_video(
                    start.prompt_frames, self.spec, self.tokenizer.config, self.window
                )
            else:
                scene = soften(build_scene(start.theme, start.seed))
                camera = spawn(scene, start.seed)
                video = to_unit(render(scene, camera))[None, :, None]
            codes = self.tokenizer.encode(video.to(self.decoder.device))[0].cpu()
        gaze = torch.full((len(codes),), camera.pitch)
        condition = condition_vector(
            torch.zeros(len(codes), len(limits.TRAINED_ACTIONS)), gaze, start.theme
        )
        return self._rebuild(start.theme, camera, start.seed, 0, codes, condition)

    def submit(self, states: Sequence[ArState], controls: Sequence[Controls]) -> None:
        """Sample the next tokens and move the states on; a thread makes the pixels."""
        before, self._newest = self._newest, []
        try:
            self._sample(states, controls)
        except Exception as error:  # the boundary of a session
            if len(states) > 1:
                log.warning("sampling for %d sessions failed, sampling for each alone", len(states))
            self._sample_alone(states, controls, error)
        wait(before)

    def poll(self, states: Sequence[ArState]) -> list[WorldFrame | Exception | None]:
        return [_finished(state) for state in states]

    def rest(self) -> None:
        if self._pixel_thread is not None:
            self._pixel_thread.shutdown()
            self._pixel_thread = None

    @property
    def decoding(self) -> ArWorld:
        return self

    @property
    def exact_modes(self) -> tuple[str, ...]:
        drafting = ("jacobi",) if self.heads is None else ("jacobi", "medusa")
        return ("diagonal", *drafting, "sequential")

    def make_decoder(self, mode: str | None, row_lag: int | None = None) -> Decoder:
        options = DecodeOptions(mode=mode)  # it was trained with one row lag, see `check_mode`
        parts = self.transformer, self.capacity, self.sampling, options
        decoder = make_decoder(*parts, heads=self.heads)
        decoder.on_step = self._notify  # finished frames leave while tokens are sampled
        return decoder

    def save(self, state: ArState) -> bytes:
        camera = state.camera
        return msgpack.packb(  # type: ignore[no-any-return]
            {
                "version": _SNAPSHOT_VERSION,
                "theme": state.theme,
                "seed": state.grid.seed,
                "frames": state.grid.latents,
                "camera": [camera.x, camera.z, camera.yaw, camera.pitch],
                "codes": state.codes.to(torch.int32).numpy().tobytes(),
                "conditions": state.conditions.numpy().tobytes(),
            }
        )

    def load(self, data: bytes) -> ArState:
        saved = self._read_snapshot(data)
        return self._rebuild(*saved)

    # -- one frame ------------------------------------------------------------------------------

    def _notify(self) -> None:
        self.notify()

    @torch.inference_mode()
    def _sample(self, states: Sequence[ArState], controls: Sequence[Controls]) -> None:
        """All or nothing: when it raises, every state is as it was before."""
        cameras, condition = self._lead(states, controls)
        codes = self.decoder.decode([s.grid for s in states], condition)
        kept = codes.cpu()
        t_tokens = now_ms()
        for i, (state, asked) in enumerate(zip(states, controls, strict=True)):
            state.camera = cameras[i]
            state.codes = torch.cat([state.codes, kept[i : i + 1]])[-self.kept :]
            state.conditions = torch.cat([state.conditions, condition[i : i + 1]])[-self.kept :]
            pose = Pose(*camera_pose(cameras[i]))
            self._begin(state, codes[i], pose, t_tokens, asked.tag)

    def _sample_alone(
        self, states: Sequence[ArState], controls: Sequence[Controls], error: Exception
    ) -> None:
        """After a batch failed: the state at fault fails again, the others do not."""
        for state, asked in zip(states, controls, strict=True):
            try:
                if len(states) == 1:
                    raise error
                self._sample([state], [asked])
            except Exception as own:  # the boundary of a session
                failed: Future[WorldFrame] = Future()
                failed.set_exception(own)
                state.unfinished.append(failed)

    def _lead(
        self, states: Sequence[ArState], controls: Sequence[Controls]
    ) -> tuple[list[CameraState], Tensor]:
        """Return where the actions lead the cameras, and the condition of the model [B, C]."""
        actions = torch.tensor([asked.action for asked in controls], dtype=torch.float32)
        pairs = zip(states, actions.tolist(), strict=True)
        cameras = [dead_reckoning(state.camera, action) for state, action in pairs]
        condition = [
            condition_vector(action, torch.tensor(camera.pitch), state.theme)
            for state, camera, action in zip(states, cameras, actions, strict=True)
        ]
        return cameras, torch.stack(condition)

    def _begin(
        self, state: ArState, latent: Tensor, pose: Pose, t_tokens: float, tag: object
    ) -> None:
        """Make a state's frame on the pixel thread."""
        if self._pixel_thread is None:
            self._pixel_thread = ThreadPoolExecutor(1, thread_name_prefix="pixels")
        work = self._pixel_thread.submit(self._pixels, state, latent, pose, t_tokens, tag)
        work.add_done_callback(lambda _: self.notify())
        state.unfinished.append(work)
        self._newest.append(work)

    @torch.inference_mode()
    def _pixels(
        self, state: ArState, latent: Tensor, pose: Pose, t_tokens: float, tag: object
    ) -> WorldFrame:
        """Runs on the pixel thread, one frame after another: `stream` belongs to it alone."""
        with one_thread():  # the other core samples the next tokens meanwhile
            frames, state.stream = self.tokenizer.decode_step(
                latent[None, None], state.stream, False
            )
            i420 = rgb_to_i420(unit_to_bytes(frames[0, :, -1]))
        return WorldFrame(i420, pose, t_tokens, now_ms(), tag)

    # -- rebuilding -----------------------------------------------------------------------------

    @torch.inference_mode()
    def _rebuild(
        self,
        theme: str,
        camera: CameraState,
        seed: int,
        first: int,
        codes: Tensor,
        conditions: Tensor,
    ) -> ArState:
        """Replay latents first..first+n-1 (all, or the newest `kept`) into a new session."""
        history = self.config.grid.previous_latents if self.config.grid and first > 0 else 0
        known, latents = codes.to(self.decoder.device), first + len(codes)
        grid = self.decoder.open(seed, known, latents=latents, conditions=conditions)
        stream = self.tokenizer.decode_stream_init(1, self.height, self.width)
        with one_thread():  # with two, these small steps take longer
            for latent in known[history:]:
                _, stream = self.tokenizer.decode_step(latent[None, None], stream)
        codes, conditions = codes[-self.kept :].clone(), conditions[-self.kept :].clone()
        return ArState(theme, camera, grid, stream, codes, conditions)

    def _read_snapshot(self, data: bytes) -> tuple[str, CameraState, int, int, Tensor, Tensor]:
        try:
            saved: dict[str, Any] = msgpack.unpackb(data)
            shape = (-1, self.height, self.width)
            codes = torch.from_numpy(np.frombuffer(saved["codes"], np.int32).reshape(shape).copy())
            flat = np.frombuffer(saved["conditions"], np.float32)
            conditions = torch.from_numpy(flat.reshape(-1, CONDITION_DIM).copy())
            camera = CameraState(*(float(x) for x in saved["camera"]))
            theme, seed, frames = saved["theme"], int(saved["seed"]), int(saved["frames"])
            version = saved["version"]
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
            raise _damaged(f"{len(data)} bytes ({type(error).__name__}: {error})") from error
        if version != _SNAPSHOT_VERSION or theme not in THEMES:
            raise _damaged(f"version {version!r}, theme {theme!r}")
        if not 0 < len(codes) == len(conditions) == min(frames, self.kept):
            raise _damaged(f"{len(codes)} latents and {len(conditions)} conditions of {frames}")
        if int(codes.min()) < 0 or int(codes.max()) >= self.config.vocab_size:
            raise _damaged(f"codes from {int(codes.min())} to {int(codes.max())}")
        if not bool(conditions.isfinite().all()):
            raise _damaged("conditions that are not finite")
        return theme, camera, seed, frames - len(codes), codes.long(), conditions


def _finished(state: ArState) -> WorldFrame | Exception | None:
    if not state.unfinished or not state.unfinished[0].done():
        return None
    work = state.unfinished.popleft()
    error = work.exception()
    if error is None:
        return work.result()
    if not isinstance(error, Exception):
        raise error
    traceback.clear_frames(error.__traceback__)  # they would keep the state's place in the cache
    return error


# The causal convolutions of the tokenizer's middle reach eight latents back; see its config.
_TOKENIZER_REACH = 10


def _spec(manifest: dict[str, Any]) -> WorldSpec:
    grid = manifest["transformer"]["grid"]
    return WorldSpec(
        name=manifest["name"],
        title=manifest["title"],
        width=limits.IMAGE_WIDTH,
        height=limits.IMAGE_HEIGHT,
        fps=float(manifest["frames_per_second"]),
        frames_per_latent=1,
        themes=tuple(THEMES),
        action_schema=control_specs(limits.TRAINED_ACTIONS),
        conditionings=("actions",),
        context_latents=int(grid["window_frames"]),
        kind="autoregressive",
        max_prompt_frames=MAX_PROMPT_FRAMES,
    )


def embedded_spec() -> WorldSpec:
    """The embedded world's spec without loading its weights."""
    return _spec(_manifest(EMBEDDED_WORLD))


def directory_spec(directory: Path) -> WorldSpec:
    """The spec of a world in a folder without loading its weights. Raises DamagedWeightsError."""
    manifest = _manifest(directory)
    try:
        return cosmos_spec(manifest) if manifest.get("kind") == "cosmos" else _spec(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedWeightsError(
            f"{directory / 'world.json'} is damaged",
            expected="the description of a world",
            got=f"{type(error).__name__}: {error}",
            remedy="copy the world again, or make it again",
        ) from error


def manifest_of(directory: Path | None) -> dict[str, Any]:
    """What a world's world.json says, or the embedded world's. Raises DamagedWeightsError."""
    if directory is None:
        return _manifest(EMBEDDED_WORLD)
    directory_spec(directory)  # names what is wrong in it
    return _manifest(directory)


def load_embedded(config: WorkerConfig, progress: Progress) -> ArWorld:
    """The world that ships with the package. Raises DamagedWeightsError."""
    return _load_trained(EMBEDDED_WORLD, config, progress)


def load_directory(
    directory: Path, config: WorkerConfig, progress: Progress, context: Tensor | None = None
) -> ArWorld | CosmosWorld:
    """The world in a folder of `worldbridge train` or `convert`. Raises DamagedWeightsError."""
    directory_spec(directory)  # errors in world.json are reported before weights are read
    if _manifest(directory).get("kind") != "cosmos":
        return _load_trained(directory, config, progress)
    try:
        return load_cosmos(directory, config, progress, context)
    except DamagedWorldError as error:
        raise DamagedWeightsError.of(error) from error


def _load_trained(directory: Path, config: WorkerConfig, progress: Progress) -> ArWorld:
    progress("reading weights", 0.1)
    try:
        world = load_world(directory)
    except DamagedWorldError as error:
        raise DamagedWeightsError.of(error) from error
    world.tokenizer.to(config.device)
    world.transformer.to(config.device)
    if world.heads is not None:
        world.heads.to(config.device)
    progress("packing weights", 0.6)
    model = ArWorld(world, capacity=seats_tried(config) + 1)
    progress("packing weights", 0.9)
    return model


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        return read_manifest(directory)
    except DamagedWorldError as error:
        raise DamagedWeightsError.of(error) from error
