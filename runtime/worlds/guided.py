"""A world that remembers places: what was drawn is shown again, and only what is new is drawn.

A frame is made in five steps. The controls, or the client's camera, give a pose. The spatial memory
shows what it knows there: the guide. The transformer draws codes for the blocks that hold something
new. The tokenizer decodes them beside the guide into colour and nearness; a pixel that the memory
shows stays what it is. What is new joins the memory. Where nothing is new, nothing is drawn and no
pixel changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.bridge.protocol import Pose, WorldSpec
from worldbridge.clock import now_ms
from worldbridge.models.conditioning.prompt_frames import fit_nearness, fit_prompt_frames
from worldbridge.models.errors import DamagedWorldError, PromptFrameError
from worldbridge.models.guided.checkpoint import (
    GUIDED_WORLD,
    GuidedWorldFolder,
    load_guided_world,
    read_guided_manifest,
)
from worldbridge.models.guided.config import (
    FARTHEST,
    GuidedConfig,
    active_blocks,
    floor_nearness,
    make_guide,
)
from worldbridge.models.guided.cracks import mend_cracks
from worldbridge.models.guided.transformer import block_guide, guided_condition
from worldbridge.models.procedural import CameraState, camera_pose, spawn
from worldbridge.models.procedural import actions as limits
from worldbridge.models.procedural.plain import PLAIN_THEMES, build_plain_scene, plain_place
from worldbridge.models.procedural.render import render_rgbd
from worldbridge.models.spatial_memory import Guide, MemoryConfig, MemoryInputError, SpatialMemory
from worldbridge.runtime.controls import control_specs
from worldbridge.runtime.decoding.active import ActiveDecoder
from worldbridge.runtime.decoding.sampling import Sampling
from worldbridge.runtime.errors import (
    BadPromptFrameError,
    DamagedWeightsError,
    SnapshotError,
    UnknownThemeError,
)
from worldbridge.runtime.frames.i420 import rgb_to_i420
from worldbridge.runtime.process import one_thread
from worldbridge.runtime.worlds.conditioning import Alignment, dead_reckoning
from worldbridge.runtime.worlds.contract import (
    Controls,
    EngineFrame,
    Progress,
    Synchronous,
    WorldFrame,
    WorldStart,
)

__all__ = [
    "GuidedState",
    "GuidedWorld",
    "free_path",
    "guided_spec",
    "load_guided",
    "new_areas",
    "slide",
]

_SNAPSHOT_VERSION = 1
_damaged = partial(SnapshotError.damaged, _SNAPSHOT_VERSION)
_ON_FLOOR = 0.2  # logarithm of the ratio of two depths
_STEP_M = 0.3  # what is lower than this does not stop a person
_POINTS = 1_200_000  # of a memory: a full turn; saved in 8 MB, and the protocol takes 16 MiB
_MARGIN = 3  # blocks around new ones that are decoded too, because convolutions see them
_SPECKS = 4  # a stray point or two are no wall
_OVER_EYE_M = 0.1  # a person is so much taller than their eyes are high
_AHEAD_M = 1.0  # beyond a step, how far walls are looked for
_FILLED = 0.12  # the share of a person's way that something must fill to be a wall
_BLOCKED = 0.5  # of a step that is left, below which a person tries to go along the wall
_ALONG_DEG = (30.0, -30.0, 60.0, -60.0)


@dataclass(slots=True, eq=False, weakref_slot=True)
class GuidedState:
    """One stream.

    `latent` counts the latents drawn; `previous` int64 [rows, columns, digits], the digits of the
    frame before, -1 where nothing was drawn; `alignment` maps a client's coordinates to ours.
    """

    place: str
    seed: int
    pose: Pose
    memory: SpatialMemory
    previous: Tensor
    latent: int = 0
    alignment: Alignment | None = None
    saved: tuple[int, bytes] | None = None  # the memory when it had taken that number of frames


class GuidedWorld(Synchronous[GuidedState]):
    """The networks of a folder around one spatial memory a stream."""

    def __init__(self, world: GuidedWorldFolder) -> None:
        super().__init__()
        self.spec = _spec(world.manifest)
        self.training: dict[str, Any] = world.manifest.get("training", {})
        self.tokenizer, self.config = world.tokenizer, world.tokenizer.config
        self.depth = world.depth
        self.decoder = ActiveDecoder(world.transformer, Sampling(**world.manifest["sampling"]))
        self.decoder.on_step = lambda: self.notify()
        self._scale = limits.FRAMES_PER_SECOND / self.spec.fps

    # -- sessions -------------------------------------------------------------------------------

    @torch.inference_mode()
    def open(self, start: WorldStart) -> GuidedState:
        """Begin with a frame of the theme, or with the newest prompt frame at the origin.

        The depth of a prompt frame is estimated where it is not given.
        """
        if start.theme not in PLAIN_THEMES:
            raise UnknownThemeError(start.theme, PLAIN_THEMES)
        place, config = plain_place(start.theme, start.seed), self.config
        memory = SpatialMemory(MemoryConfig(config.height, config.width, _POINTS))
        if start.prompt_frames is None:
            scene = build_plain_scene(place, start.seed)
            camera = spawn(scene, start.seed)
            color, nearness = render_rgbd(scene, camera, config.height, config.width)
        else:
            camera = CameraState(0.0, 0.0)
            color = self._prompt_frame(start.prompt_frames)
            nearness = self._prompt_nearness(start.prompt_nearness, color, camera)
        pose = Pose(*camera_pose(camera))
        memory.add(color.permute(1, 2, 0), nearness, pose, pose.fov_y)
        return GuidedState(place, start.seed, pose, memory, self._nothing())

    def _prompt_frame(self, prompt_frames: Tensor) -> Tensor:
        size = self.config.height, self.config.width
        try:
            return fit_prompt_frames(prompt_frames, *size, most=self.spec.max_prompt_frames)[-1]
        except PromptFrameError as error:
            raise BadPromptFrameError.of(error) from error

    def _prompt_nearness(self, given: Tensor | None, color: Tensor, camera: CameraState) -> Tensor:
        """Return the nearness [H, W] of a frame: as given, and estimated where it is unknown.

        An estimate is brought to the scale of what is given.
        """
        if given is None:
            return self._estimate(color, camera)
        try:
            nearness = fit_nearness(given, self.config.height, self.config.width)
        except PromptFrameError as error:
            raise BadPromptFrameError.of(error) from error
        known = nearness > 0
        if bool(known.all()):
            return nearness
        estimate = self._estimate(color, camera)
        if bool(known.any()):
            estimate *= (nearness[known] / estimate[known]).median()
        return torch.where(known, nearness, estimate)

    def _estimate(self, color: Tensor, camera: CameraState) -> Tensor:
        """Return the nearness [H, W] in 1/m of a frame uint8 [3, H, W]."""
        unit = color[None].float() / 127.5 - 1.0
        if self.depth is not None:
            size = self.config.height, self.config.width
            floor = floor_nearness(torch.tensor([camera.pitch]), *size, limits.FOV_Y_DEG)
            nearness = self.depth(unit, floor)[0]
            # What is about as near as the floor is the floor, whose lines stay straight then.
            on_floor = ((nearness / floor[0]).log().abs() < _ON_FLOOR) & (floor[0] > 2 * FARTHEST)
            return torch.where(on_floor, floor[0], nearness)
        unseen = torch.zeros(1, self.config.height, self.config.width, dtype=torch.bool)
        guide = self._guide(unit, unseen.float(), unseen, Pose(*camera_pose(camera)))
        features = self.tokenizer.guide_features(guide)
        digits = self.tokenizer.encode(unit, None, guide, features)
        active = active_blocks(unseen, self.config.active_share)
        return self.tokenizer.decode(digits, active, guide, features)[1][0]

    @torch.inference_mode()
    def observe(self, state: GuidedState, frame: EngineFrame) -> int:
        """Let an engine's own frame join the memory, and draw what neither of them knows there.

        The engine wins where both know a point. The player stays where they are. Returns the number
        of points added.

        Raises MemoryInputError for a pose or a frame that cannot be; nothing is changed then.
        """
        if frame.rgb.dim() != 3 or frame.rgb.shape[1:] != frame.nearness.shape:
            raise MemoryInputError(
                "colour and depth of an engine's frame differ in size",
                expected="uint8 [3, h, w] and float [h, w]",
                got=f"{list(frame.rgb.shape)} and {list(frame.nearness.shape)}",
            )
        size = (self.config.height, self.config.width)
        near = F.interpolate(frame.nearness[None, None].float(), size)[0, 0]
        color = F.interpolate(frame.rgb[None].float(), size, mode="bilinear", antialias=True)[0]
        drawn = near.isfinite() & (near > 0)
        alignment = state.alignment or Alignment.of(state.pose, frame.camera)
        ours = alignment.apply(frame.camera)
        memory = SpatialMemory(MemoryConfig(*size, _POINTS)) if frame.fresh else state.memory
        seen = memory.render(ours, ours.fov_y)
        pixels = color.round().clamp(0, 255).byte().permute(1, 2, 0)
        guide = Guide(
            torch.where(drawn[..., None], pixels, seen.rgb),
            torch.where(drawn, near, seen.nearness),
            drawn | seen.mask,
            seen.age,
        )
        if frame.fresh:
            state.memory, state.saved = memory, None
        pose, previous = state.pose, state.previous
        points = self._show(state, ours, alignment, guide, drawn | ~seen.mask)[2]
        state.pose, state.previous = pose, previous
        return points

    # -- one frame ------------------------------------------------------------------------------

    @torch.inference_mode()
    def render(self, state: GuidedState, controls: Controls) -> WorldFrame:
        """Move the camera, show what is known from there, and draw what is not.

        Raises MemoryInputError for a camera that cannot be; the state is then as it was.
        """
        pose, alignment = self._lead(state, controls)
        seen = state.memory.render(pose, pose.fov_y)
        t_tokens, frame, _ = self._show(state, pose, alignment, mend_cracks(seen), ~seen.mask)
        i420 = rgb_to_i420(frame.rgb.permute(2, 0, 1))
        depth = frame.nearness.reciprocal().numpy().tobytes() if controls.depth else None
        return WorldFrame(i420, pose, t_tokens, now_ms(), controls.tag, depth)

    def _show(
        self, state: GuidedState, pose: Pose, alignment: Alignment | None, seen: Guide, new: Tensor
    ) -> tuple[float, Guide, int]:
        """Move a state on to what is seen from a pose, with what is drawn where nothing is.

        new bool [H, W]: the pixels that join the memory. Returns when the tokens were there, the
        whole frame, and the number of points added.
        """
        digits, t_tokens, points = self._nothing(), now_ms(), 0
        if not bool(seen.mask.all()):
            seen, digits, t_tokens = self._draw(state, pose, seen)
        if bool(new.any()):
            points = state.memory.add(seen.rgb, seen.nearness, pose, pose.fov_y, unseen=new)
        state.pose, state.alignment, state.previous = pose, alignment, digits
        state.latent += int(bool((digits >= 0).any()))
        return t_tokens, seen, points

    def _draw(self, state: GuidedState, pose: Pose, seen: Guide) -> tuple[Guide, Tensor, float]:
        """Return the whole frame, its digits, and when these were there."""
        shown = seen.rgb.permute(2, 0, 1).float()[None] / 127.5 - 1.0
        guide = self._guide(shown, seen.nearness[None], seen.mask[None], pose)
        active = active_blocks(seen.mask[None], self.config.active_share)
        condition = guided_condition(
            torch.tensor(_motion(state.pose, pose)), torch.tensor(_angles(pose)[1]), state.place
        )
        with one_thread():  # small steps take longer with two
            digits = self.decoder.decode(
                active[0],
                block_guide(guide)[0],
                state.previous,
                condition,
                seed=state.seed,
                latent=state.latent,
            )
        t_tokens = now_ms()
        rgb, near, unseen = seen.rgb.clone(), seen.nearness.clone(), ~seen.mask
        for place in new_areas(unseen):
            self._decode(guide, digits, active, place, unseen, rgb, near)
        return Guide(rgb, near, torch.ones_like(seen.mask), seen.age), digits, t_tokens

    def _decode(
        self,
        guide: Tensor,
        digits: Tensor,
        active: Tensor,
        area: tuple[slice, slice],
        unseen: Tensor,
        rgb: Tensor,
        near: Tensor,
    ) -> None:
        """Write the unseen pixels of an area of blocks into a frame.

        Blocks around it are decoded with it, because convolutions see them.
        """
        rows, columns = (
            slice(max(0, span.start - _MARGIN), min(size, span.stop + _MARGIN))
            for span, size in zip(area, digits.shape[:2], strict=True)
        )
        pixels = _pixels(rows, columns)
        own = _pixels(*area)
        where = torch.zeros_like(unseen)
        where[own] = unseen[own]
        part, where = guide[(..., *pixels)], where[pixels]
        color, nearness = self.tokenizer.decode_pixels(
            digits[rows, columns].clamp_min(0)[None],
            active[:, rows, columns],
            self.tokenizer.guide_features(part),
            where,
        )
        rgb[pixels][where] = ((color + 1) * 127.5).round().clamp(0, 255).byte()
        near[pixels][where] = nearness

    def _guide(self, color: Tensor, nearness: Tensor, mask: Tensor, pose: Pose) -> Tensor:
        pitch = torch.tensor([_angles(pose)[1]])
        eye = max(pose.position[1], 0.2)
        size = self.config.height, self.config.width
        floor = floor_nearness(pitch, *size, pose.fov_y, eye)
        return make_guide(color, nearness, mask, floor)

    def _nothing(self) -> Tensor:
        return torch.full((self.config.rows, self.config.columns, self.config.digits), -1)

    # -- cameras --------------------------------------------------------------------------------

    def _lead(self, state: GuidedState, controls: Controls) -> tuple[Pose, Alignment | None]:
        """Return the next pose: the client's camera exactly, or where the controls lead."""
        if controls.camera is not None:
            alignment = state.alignment or Alignment.of(state.pose, controls.camera)
            return alignment.apply(controls.camera), alignment
        if not any(controls.action):
            return state.pose, state.alignment
        x, y, z = state.pose.position
        yaw, pitch = _angles(state.pose)
        before = CameraState(x, z, yaw, pitch)
        scaled = [min(max(a, -1.0), 1.0) * self._scale for a in controls.action]
        after = dead_reckoning(before, scaled)
        dx, dz = slide(state.memory, state.pose, (after.x - x, after.z - z))
        after = replace(after, x=x + dx, z=z + dz)
        position, rotation, fov_y = camera_pose(after)
        return Pose((position[0], y, position[2]), rotation, fov_y), state.alignment

    # -- snapshots ------------------------------------------------------------------------------

    def save(self, state: GuidedState) -> bytes:
        alignment, frames = state.alignment, state.memory.frames
        if state.saved is None or state.saved[0] != frames:  # else nothing joined the memory
            state.saved = frames, state.memory.save()
        return msgpack.packb(  # type: ignore[no-any-return]
            {
                "version": _SNAPSHOT_VERSION,
                "place": state.place,
                "seed": state.seed,
                "pose": _numbers(state.pose),
                "latent": state.latent,
                "previous": state.previous.to(torch.int8).numpy().tobytes(),
                "alignment": alignment and [*alignment.rotation, *alignment.shift],
                "memory": state.saved[1],
            }
        )

    def load(self, data: bytes) -> GuidedState:
        try:
            saved: dict[str, Any] = msgpack.unpackb(data)
            if saved["version"] != _SNAPSHOT_VERSION:
                raise _damaged(f"version {saved['version']!r}")
            place, values = str(saved["place"]), [float(v) for v in saved["pose"]]
            moved = saved["alignment"]
            previous = torch.frombuffer(bytearray(saved["previous"]), dtype=torch.int8)
            state = GuidedState(
                place,
                int(saved["seed"]),
                Pose(_three(values), _four(values[3:]), values[7]),
                SpatialMemory.load(saved["memory"]),
                previous.view(self._nothing().shape).long(),
                int(saved["latent"]),
                moved and Alignment(_four(moved), _three(moved[4:])),
            )
            state.memory.render(state.pose, state.pose.fov_y)  # refuses a pose that cannot be
        except SnapshotError:
            raise
        except (
            MemoryInputError,
            msgpack.UnpackException,
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:
            raise _damaged(f"{len(data)} bytes ({type(error).__name__}: {error})"[:500]) from error
        if place not in PLAIN_THEMES or state.latent < 0:
            raise _damaged(f"place {place!r}, latent {state.latent}")
        config = state.memory.config
        if (config.height, config.width) != (self.config.height, self.config.width):
            raise _damaged(f"a memory of {config.height} x {config.width} pixels")
        if int(previous.min()) < -1 or int(previous.max()) >= self.config.levels:
            raise _damaged(f"digits from {int(previous.min())} to {int(previous.max())}")
        return state


def free_path(memory: SpatialMemory, pose: Pose, move: tuple[float, float]) -> float:
    """Return how far, in metres, a person can go along `move` (x, z) before a wall; at most all.

    The memory is looked at along the way. What it knows between knee and eye height, no farther to
    the side than a body is wide, stops the person a body's radius before it, if it fills enough of
    the way: drawn depth has stray patches that are too near.
    """
    length = math.hypot(*move)
    yaw = math.atan2(-move[0], -move[1])
    eye = pose.position[1]
    ahead = Pose(pose.position, camera_pose(CameraState(0.0, 0.0, yaw))[1], limits.FOV_Y_DEG)
    near = memory.render(ahead, ahead.fov_y).nearness[::2, ::2]
    height, width = near.shape
    focal = height / 2 / math.tan(math.radians(ahead.fov_y) / 2)
    depth = torch.where(near > 0, near, 1e-3).reciprocal()
    up = (height / 2 - 0.5 - torch.arange(height)[:, None]) / focal
    aside = (torch.arange(width) + 0.5 - width / 2) / focal
    body = (eye + up * depth > _STEP_M) & (up * depth < _OVER_EYE_M)
    reach = length + _AHEAD_M
    inside = body & ((aside * depth).abs() < limits.BODY_RADIUS_M) & (depth < reach)
    found = depth[inside].sort().values
    if len(found) < _SPECKS:
        return length
    scale = focal / found  # pixels of a metre there
    wide = (2 * limits.BODY_RADIUS_M * scale).clamp_max(width)
    tall = (_OVER_EYE_M * scale).clamp_max(height / 2)
    tall += (max(eye - _STEP_M, 0.0) * scale).clamp_max(height / 2)
    walls = torch.arange(1, len(found) + 1) >= (_FILLED * wide * tall).clamp_min(_SPECKS)
    if not bool(walls.any()):
        return length
    wall = float(found[walls][0])
    return min(length, max(0.0, wall - limits.BODY_RADIUS_M))


def slide(memory: SpatialMemory, pose: Pose, move: tuple[float, float]) -> tuple[float, float]:
    """Return the part of `move` (x, z) that a person can go, along a wall where there is one."""
    length = math.hypot(*move)
    if length == 0:
        return move
    ahead = free_path(memory, pose, move)
    best, gain = _turned(move, 0.0, ahead / length), ahead
    if ahead > _BLOCKED * length:
        return best
    for degrees in _ALONG_DEG:
        share = math.cos(math.radians(degrees))
        if share * length <= gain:
            continue
        along = _turned(move, degrees, share)
        free = free_path(memory, pose, along)
        if free * share > gain:
            best, gain = _turned(move, degrees, free / length), free * share
    return best


def _turned(move: tuple[float, float], degrees: float, scale: float) -> tuple[float, float]:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x, z = move
    return scale * (cosine * x + sine * z), scale * (cosine * z - sine * x)


def new_areas(unseen: Tensor) -> list[tuple[slice, slice]]:
    """Return the rows and columns of blocks that hold unseen pixels, as areas that lie apart.

    unseen bool [H, W]. A row or a column of blocks without any divides an area, if it is as wide
    as what is decoded around an area.
    """
    height, width = unseen.shape[0] // 16, unseen.shape[1] // 16
    return _divided(unseen.view(height, 16, width, 16).any(3).any(1).numpy(), 0, 0)


def _divided(blocks: NDArray[np.bool_], top: int, left: int) -> list[tuple[slice, slice]]:
    columns = _spans(blocks.max(0))
    found: list[tuple[slice, slice]] = []
    for first, last in columns:
        rows = _spans(blocks[:, first:last].max(1))
        if len(columns) == len(rows) == 1:
            return [(slice(top + rows[0][0], top + rows[0][1]), slice(left + first, left + last))]
        for begin, end in rows:
            found += _divided(blocks[begin:end, first:last], top + begin, left + first)
    return found


def _spans(line: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the runs of true values, as (first, end); shorter gaps than the margin are in them."""
    found: list[tuple[int, int]] = []
    for place in line.nonzero()[0].tolist():
        if found and place - found[-1][1] < _MARGIN:
            found[-1] = found[-1][0], place + 1
        else:
            found.append((place, place + 1))
    return found


def _pixels(rows: slice, columns: slice) -> tuple[slice, slice]:
    """Return the pixels of blocks."""
    return slice(16 * rows.start, 16 * rows.stop), slice(16 * columns.start, 16 * columns.stop)


def _angles(pose: Pose) -> tuple[float, float]:
    """Return yaw (+ is left) and pitch (+ is up) of where a pose looks, in radians."""
    x, y, z, w = pose.orientation
    ahead = (-2 * (x * z + y * w), -2 * (y * z - x * w), -(1 - 2 * (x * x + y * y)))
    return math.atan2(-ahead[0], -ahead[2]), math.asin(min(max(ahead[1], -1.0), 1.0))


def _motion(before: Pose, after: Pose) -> list[float]:
    """Return the action (strafe, forward, yaw, pitch) that leads from one pose to the next."""
    (yaw, pitch), (new_yaw, new_pitch) = _angles(before), _angles(after)
    dx = after.position[0] - before.position[0]
    dz = after.position[2] - before.position[2]
    sine, cosine = math.sin(new_yaw), math.cos(new_yaw)
    values = (
        (dx * cosine - dz * sine) / limits.MAX_STRAFE_M,
        (-dx * sine - dz * cosine) / limits.MAX_WALK_M,
        math.remainder(new_yaw - yaw, 2 * math.pi) / math.radians(limits.MAX_YAW_DEG),
        (new_pitch - pitch) / math.radians(limits.MAX_PITCH_DEG),
    )
    return [min(max(value, -1.0), 1.0) for value in values]


def _numbers(pose: Pose) -> list[float]:
    return [*pose.position, *pose.orientation, pose.fov_y]


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = values[:3]
    return x, y, z


def _four(values: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, z, w = values[:4]
    return x, y, z, w


def _spec(manifest: dict[str, Any]) -> WorldSpec:
    config = GuidedConfig(**manifest["tokenizer"])
    return WorldSpec(
        name=manifest["name"],
        title=manifest["title"],
        width=config.width,
        height=config.height,
        fps=float(manifest["frames_per_second"]),
        frames_per_latent=1,
        themes=tuple(PLAIN_THEMES),
        action_schema=control_specs(limits.TRAINED_ACTIONS),
        conditionings=("actions", "camera", "observations"),
        context_latents=1,
        kind="autoregressive",
        max_prompt_frames=1,
        depth=True,
    )


def guided_spec(folder: Path = GUIDED_WORLD) -> WorldSpec:
    """Return the spec of a folder's world by its world.json. Raises DamagedWeightsError."""
    try:
        return _spec(read_guided_manifest(folder))
    except DamagedWorldError as error:
        raise DamagedWeightsError.of(error) from error


def load_guided(folder: Path, progress: Progress) -> GuidedWorld:
    """Load the world of a folder. Raises DamagedWeightsError."""
    progress("reading weights", 0.1)
    try:
        world = GuidedWorld(load_guided_world(folder))
    except DamagedWorldError as error:
        raise DamagedWeightsError.of(error) from error
    progress("starting the spatial memory", 0.6)
    memory = SpatialMemory(MemoryConfig(world.config.height, world.config.width))
    pose = Pose(*camera_pose(CameraState(0.0, 0.0)))
    memory.render(pose, pose.fov_y)  # its loops are compiled when they first run
    return world
