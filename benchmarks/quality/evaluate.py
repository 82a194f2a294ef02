"""`worldbridge eval`: how good a world is, on scenes that it was never trained on.

Everything is measured against sharp renders of held-out plain scenes, and stands beside what real
frames score against other real frames. The renderer makes the start frames and the truth; it
takes no part in what the world shows.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from worldbridge.benchmarks.quality.features import (
    Reference,
    frechet_distance,
    load_reference,
    nearest_distances,
)
from worldbridge.benchmarks.quality.measures import (
    MOVES,
    TURNS,
    Command,
    acutance,
    block_texture,
    follows,
    mean_change,
    psnr_db,
    sampson_error_px,
    texture_summary,
)
from worldbridge.benchmarks.quality.player import Shown, WorldPlayer, as_shown, takes_frames
from worldbridge.benchmarks.quality.routes import (
    LOOK_AROUND,
    REVISITS,
    Action,
    View,
    held_out_scene,
    pose_of,
    random_play,
    view_of,
)
from worldbridge.benchmarks.quality.speculation import measure_drafts
from worldbridge.models.procedural.camera import CameraState, step_camera
from worldbridge.models.procedural.scene import THEMES
from worldbridge.models.progress import Progress, silent
from worldbridge.models.spatial_memory import MemoryConfig, SpatialMemory
from worldbridge.models.training.data import make_clip
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.process import die_with_parent
from worldbridge.runtime.worlds.autoregressive import ArWorld
from worldbridge.runtime.worlds.contract import Pose, WorldModel
from worldbridge.runtime.worlds.registry import open_world

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

__all__ = ["Evaluation", "Plan", "SceneRecord", "evaluate", "texture_measures"]

_NEUTRAL: Action = (0.0, 0.0, 0.0, 0.0)
_KEPT_S = (1, 3, 10)
_KEPT = "kept_psnr_db"
_KEPT_ESTIMATED = "kept_psnr_db_estimated_depth"
_MARKS_S = (1, 3, 10, 30, 60, 120, 300, 600)
_AHEAD: Action = (0.0, 1.0, 0.0, 0.0)
_WALK = 150  # frames
_APART = 4  # frames between the two that are matched
_STILL = 15  # frames of standing still at the end of play
_ENDING = 12  # the frames before, of which it is asked whether anything moves
_SAMPLED = 8  # one frame of 8 is compared with real ones
_QUICK_THEMES = ("city", "museum")  # outdoors and indoors
_AGREEING = 0.05  # of the nearness: the same surface
_FEW_BLOCKS = 16  # that say nothing of a distribution
_REPORT_S = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    scenes: int  # of each theme
    seconds: int  # of play in the first scene
    further_seconds: int  # of play in the others
    themes: Sequence[str] = THEMES
    guesses: bool = True
    long_routes: bool = True  # walk ahead for ten seconds; look around from a start without depth

    @classmethod
    def of(cls, quick: bool, seconds: int | None = None) -> Plan:
        """Return the usual plan, with `seconds` of play in the first scenes if they are given."""
        plan = cls._usual(quick)
        return plan if seconds is None else replace(plan, seconds=seconds)

    @classmethod
    def _usual(cls, quick: bool) -> Plan:
        return cls(1, 3, 3, _QUICK_THEMES, False, False) if quick else cls(3, 60, 10)


@dataclass(slots=True)
class SceneRecord:
    """What was measured in one scene.

    `sampled` and `at_marks` hold features [32] of frames; `texture` and `real_texture` statistics
    of blocks [n, 7] that show what the first frame did not.
    """

    theme: str
    world: dict[str, dict[int, float]] = field(default_factory=dict)  # by measure, by second
    real: dict[str, dict[int, float]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    sampled: list[Tensor] = field(default_factory=list)
    at_marks: dict[int, Tensor] = field(default_factory=dict)
    texture: list[Tensor] = field(default_factory=list)
    real_texture: list[Tensor] = field(default_factory=list)
    sheet: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # world, truth

    def note(self, measure: str, value: float) -> None:
        self.values.setdefault(measure, []).append(value)

    def note_at(self, measure: str, second: int, world: float, real: float) -> None:
        self.world.setdefault(measure, {})[second] = world
        self.real.setdefault(measure, {})[second] = real


def evaluate(
    world: str,
    quick: bool = False,
    progress: Progress = silent,
    seed: int = 0,
    threads: int = 2,
    seconds: int | None = None,
) -> tuple[dict[str, Any], list[SceneRecord]]:
    """Measure a world; return what `worldbridge eval --json` prints, and the records behind it.

    Scenes are played in `threads` processes of one thread each: a small network is slower on two
    threads than two are on one each, above all beside other work.
    """
    torch.set_num_threads(1)
    model = _open(world)
    evaluation = Evaluation(model, Plan.of(quick, seconds), seed, progress)
    if threads == 1:
        return evaluation.run(), evaluation.records
    return evaluation.sum_up(_in_processes(world, evaluation, threads)), evaluation.records


def _open(world: str) -> WorldModel[Any]:
    return open_world(WorkerConfig(world=world, seats=2, mode=None))


class Evaluation:
    """One evaluation: plays the world scene by scene, and sums it up."""

    def __init__(
        self, world: WorldModel[Any], plan: Plan, seed: int = 0, progress: Progress = silent
    ) -> None:
        self.world, self.plan, self.seed, self.progress = world, plan, seed, progress
        self.records: list[SceneRecord] = []
        self.from_frames = takes_frames(world)
        self.estimates_depth = plan.long_routes and self.from_frames and world.spec.depth
        self.reference = load_reference()
        self.size = world.spec.height, world.spec.width
        self.fps = round(world.spec.fps)
        self.scenes = [(n, t) for n in range(plan.scenes) for t in range(len(plan.themes))]
        self._steps, self._done = sum(self._steps_of(number) for number, _ in self.scenes), 0

    def run(self) -> dict[str, Any]:
        """Play and measure; return the measures of all scenes and those of each theme."""
        return self.sum_up(self.play(number, theme) for number, theme in self.scenes)

    @torch.inference_mode()
    def play(self, number: int, theme: int) -> SceneRecord:
        """Play scene `number` of a theme, which its place in the plan names."""
        scene = _SceneRun(self, number, theme)
        scene.play()
        scene.play_without_depth()
        scene.walk()
        scene.revisit()
        scene.follow()
        return scene.record

    @torch.inference_mode()
    def sum_up(self, records: Iterable[SceneRecord]) -> dict[str, Any]:
        """Return the measures of the records of all scenes."""
        self.records = list(records)
        result: dict[str, Any] = {
            "world": self.world.spec.name,
            "scenes": f"{len(self.records)} plain scenes never trained on",
            "seconds": self.plan.seconds,
        }
        result |= _summary(self.records, self.reference)
        result["themes"] = {
            theme: _summary([r for r in self.records if r.theme == theme], self.reference)
            for theme in self.plan.themes
        }
        result |= self._of_a_transformer()
        self.progress("done", 1.0)
        return result

    def tick(self, steps: int = 1) -> None:
        """Count steps of the world that were taken, and report the share of all."""
        self._done += steps
        if self._done % 10 == 0 or steps > 1:
            self.progress("play", min(self._done / self._steps, 0.99))

    def frames(self, number: int) -> int:
        """Return the frames of play in scene `number` of each theme."""
        return (self.plan.further_seconds if number else self.plan.seconds) * self.fps

    def _steps_of(self, number: int) -> int:
        longer = _WALK if self.plan.long_routes else 0
        longer += len(LOOK_AROUND) if self.estimates_depth else 0
        return (
            longer
            + self.frames(number)
            + sum(len(r) + 1 for r in REVISITS.values())
            + _STILL
            + 3 * 9
        )

    def _of_a_transformer(self) -> dict[str, Any]:
        """How the world was trained, and what its drafts are worth, where there are any."""
        world = self.world
        if not isinstance(world, ArWorld):
            return {}
        found: dict[str, Any] = {"training": world.training}
        if self.plan.guesses:
            clips = [make_clip(theme, 900_300 + self.seed, 24) for theme in self.plan.themes]
            found |= measure_drafts(world, clips, 4, self.seed)
        return found


# --- processes -----------------------------------------------------------------------------------

_mine: Evaluation  # of a process that plays scenes


def _in_processes(world: str, evaluation: Evaluation, processes: int) -> list[SceneRecord]:
    """Play the scenes of an evaluation in processes; the longest, of number 0, begin first."""
    context = multiprocessing.get_context("spawn")
    taken = context.Value("i", 0)
    shared = (os.getpid(), world, evaluation.plan, evaluation.seed, taken)
    known = 0
    with ProcessPoolExecutor(processes, context, _begin, shared) as pool:
        waiting = found = [pool.submit(_play, *scene) for scene in evaluation.scenes]
        try:
            while waiting:
                ended, running = wait(waiting, _REPORT_S)
                waiting = list(running)
                for future in ended:
                    future.result()
                if (now := int(taken.value)) > known:
                    evaluation.tick(now - known)
                    known = now
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    # as bytes: tensors would come through shared memory and outlive their process
    return [_record(future.result()) for future in found]


def _begin(parent: int, world: str, plan: Plan, seed: int, taken: Synchronized[int]) -> None:
    """Open the world in a process that plays scenes."""
    global _mine

    def tell(text: str, share: float) -> None:
        with taken.get_lock():
            taken.value += 10  # a call every ten steps

    die_with_parent(parent)
    torch.set_num_threads(1)
    _mine = Evaluation(_open(world), plan, seed, tell)


def _play(number: int, theme: int) -> bytes:
    record = _mine.play(number, theme)
    found = io.BytesIO()
    torch.save({part.name: getattr(record, part.name) for part in fields(record)}, found)
    return found.getvalue()


def _record(found: bytes) -> SceneRecord:
    return SceneRecord(**torch.load(io.BytesIO(found), weights_only=True))


# --- one scene -----------------------------------------------------------------------------------


class _SceneRun:
    """One scene, played in several sessions."""

    def __init__(self, evaluation: Evaluation, number: int, theme: int) -> None:
        self.evaluation, self.number, self.place = evaluation, number, theme
        self.theme = evaluation.plan.themes[theme]
        self.seed = 1000 * evaluation.seed + number
        self.scene, start = held_out_scene(self.theme, self.seed)
        self.start = self._truth(start)
        # The start alone: says what of it is in view later, and how it looks there.
        self.memory = self._memory_of(self.start.rgb, self.start.nearness, pose_of(start))
        self.record = SceneRecord(self.theme)

    def play(self) -> None:
        """Look around, then play at random, then stand still."""
        frames, fps = self.evaluation.frames(self.number), self.evaluation.fps
        play = [*LOOK_AROUND, *random_play(self.seed + 10 * self.place, frames)][:frames]
        player, camera = self._open(), self.start.state
        self.record.sheet[0] = player.first.rgb, self.start.rgb
        recent: list[Shown] = []
        cameras = [camera]
        for t, action in enumerate(play, 1):
            camera = step_camera(self.scene, camera, action)
            cameras = [*cameras, camera][-_ENDING:]
            recent = [*recent, self._step(player, action, camera)][-_ENDING:]
            self._sample(t, recent[-1])
            if t % fps == 0 and t // fps in _MARKS_S:
                self._measure_at(t // fps, recent, camera)
                self._epipolar(t // fps, recent, cameras)
        self._ending(recent)
        still = [self._step(player, _NEUTRAL, camera).rgb for _ in range(_STILL)]
        self.record.note("still_change", mean_change(still[1:]))

    def play_without_depth(self) -> None:
        """Look around from the start frame alone, whose depth the world has to estimate."""
        if not self.evaluation.estimates_depth:
            return
        player, camera = self._open(depth=False), self.start.state
        for t, action in enumerate(LOOK_AROUND, 1):
            camera = step_camera(self.scene, camera, action)
            shown, second = self._step(player, action, camera), t // self.evaluation.fps
            if t % self.evaluation.fps == 0 and second in _KEPT_S:
                self._kept(_KEPT_ESTIMATED, second, shown, self._truth(camera))

    def walk(self) -> None:
        """Walk ahead for ten seconds: how far, and how far a person comes in the real scene."""
        if not self.evaluation.plan.long_routes:
            return
        player, camera = self._open(), self.start.state
        shown = player.first
        for _ in range(_WALK):
            shown = self._step(player, _AHEAD)
            camera = step_camera(self.scene, camera, _AHEAD)
        start = self.start.state
        self.record.note("walked_m", math.dist(shown.pose.position, player.first.pose.position))
        self.record.note("real.walked_m", math.hypot(camera.x - start.x, camera.z - start.z))

    def revisit(self) -> None:
        """Routes that end where they began."""
        for name, route in REVISITS.items():
            player, camera = self._open(), self.start.state
            shown = player.first
            for t, action in enumerate(route, 1):
                camera = step_camera(self.scene, camera, action)
                shown = self._step(player, action, camera)
                self._sample(t, shown)
                if name == "circle" and t == len(route) // 2:  # nothing of the start is in view
                    self._texture(shown, self._truth(camera))
            self.record.note(f"revisit.{name}", psnr_db(shown.rgb, player.first.rgb))

    def follow(self) -> None:
        """Constant actions: does the frame move, and how near to the truth is the next frame."""
        for name, commands in (("yaw", TURNS), ("move", MOVES[:2]), ("move", MOVES[2:])):
            self._follow(f"{name}_following", commands[(self.place + self.number) % 2])

    def _follow(self, measure: str, command: Command) -> None:
        player = self._open()
        frames = [self._step(player, command.action).rgb for _ in range(8)]
        self.record.note(measure, float(follows(frames, command)))
        truth = self._truth(step_camera(self.scene, self.start.state, command.action)).rgb
        self.record.note("next_frame_psnr_db", psnr_db(frames[0], truth))
        self.record.note("copy_last_psnr_db", psnr_db(self.start.rgb, truth))

    def _open(self, depth: bool = True) -> WorldPlayer:
        world, seed = self.evaluation.world, self.seed + self.place
        return WorldPlayer(world, self.theme, self.start, seed, depth)

    def _step(
        self, player: WorldPlayer, action: Action, camera: CameraState | None = None
    ) -> Shown:
        shown = player.step(action, camera)
        self.evaluation.tick()
        return shown

    def _truth(self, state: CameraState) -> View:
        view = view_of(self.scene, state, *self.evaluation.size)
        return View(as_shown(view.rgb), view.nearness, state)

    def _memory_of(self, rgb: Tensor, nearness: Tensor, pose: Pose) -> SpatialMemory:
        height, width = self.evaluation.size
        memory = SpatialMemory(
            MemoryConfig(height=height, width=width, max_points=2 * height * width)
        )
        memory.add(rgb, nearness, pose, pose.fov_y)
        return memory

    def _warp(self, second: int, before: Shown, after: Shown) -> None:
        """Whether two frames agree with each other through the world's own depth."""
        if before.nearness is None or after.nearness is None or before.pose == after.pose:
            return
        memory = self._memory_of(before.rgb, before.nearness, before.pose)
        seen = memory.render(after.pose, after.pose.fov_y)
        agrees = (seen.nearness / after.nearness - 1.0).abs() < _AGREEING
        value = psnr_db(seen.rgb, after.rgb, seen.mask & agrees)
        self.record.world.setdefault("warp_consistency_db", {})[second] = value

    def _sample(self, t: int, shown: Shown) -> None:
        if t % _SAMPLED == 0:
            self.record.sampled.append(self.evaluation.reference.features([shown.rgb])[0])

    def _measure_at(self, second: int, recent: Sequence[Shown], camera: CameraState) -> None:
        record, shown, truth = self.record, recent[-1], self._truth(camera)
        record.sheet[second] = shown.rgb, truth.rgb
        frames = [frame.rgb for frame in recent[-3:]]
        record.at_marks[second] = self.evaluation.reference.features(frames)
        edges, steepness = acutance(shown.rgb)
        real_edges, real_steepness = acutance(truth.rgb)
        record.note_at("edge_windows", second, edges, real_edges)
        record.note_at("steepness", second, steepness, real_steepness)
        self._warp(second, recent[-2], shown)
        self._texture(shown, truth)
        if second in _KEPT_S and self.evaluation.from_frames:
            self._kept(_KEPT, second, shown, truth)

    def _kept(self, measure: str, second: int, shown: Shown, truth: View) -> None:
        """How what the start showed looks later; the renderer's depth says where it is."""
        pose = pose_of(truth.state)
        seen = self.memory.render(pose, pose.fov_y)
        kept = seen.mask & ((seen.nearness / truth.nearness - 1.0).abs() < _AGREEING)
        world, real = psnr_db(shown.rgb, truth.rgb, kept), psnr_db(seen.rgb, truth.rgb, kept)
        self.record.note_at(measure, second, world, real)

    def _epipolar(
        self, second: int, recent: Sequence[Shown], cameras: Sequence[CameraState]
    ) -> None:
        """Whether what is in two frames lies where one scene, seen by their cameras, has it."""
        before, after = recent[-1 - _APART], recent[-1]
        world = sampson_error_px(before.rgb, after.rgb, before.pose, after.pose)
        first, last = (self._truth(cameras[place]) for place in (-1 - _APART, -1))
        real = sampson_error_px(first.rgb, last.rgb, pose_of(first.state), pose_of(last.state))
        self.record.note_at("sampson_error_px", second, world, real)

    def _texture(self, shown: Shown, truth: View) -> None:
        """The texture of what the start did not show, of the world's frame and of the truth's."""
        pose = pose_of(truth.state)
        new = ~self.memory.render(pose, pose.fov_y).mask
        new |= not self.evaluation.from_frames
        self.record.texture.append(block_texture(shown.rgb, new))
        self.record.real_texture.append(block_texture(truth.rgb, new))

    def _ending(self, recent: Sequence[Shown]) -> None:
        """Whether nothing moves any more, or almost everything has one colour."""
        frames = [shown.rgb for shown in recent]
        spread = statistics.median(float(frame.float().std()) for frame in frames)
        change = mean_change(frames)
        self.record.note("frozen_or_collapsed_rate", float(change < 0.2 or spread < 12))


# --- summing up ----------------------------------------------------------------------------------


def _summary(records: Sequence[SceneRecord], reference: Reference) -> dict[str, Any]:
    """The measures of some scenes, under the names of `worldbridge eval --json`."""
    names = (
        *("steepness", "edge_windows", _KEPT, _KEPT_ESTIMATED),
        *("warp_consistency_db", "sampson_error_px"),
    )
    result: dict[str, Any] = {
        name: _by_second(r.world.get(name, {}) for r in records) for name in names
    }
    real: dict[str, Any] = {
        name: _by_second(r.real.get(name, {}) for r in records) for name in names
    }
    textures, real_textures = texture_measures(records)
    result |= textures
    real |= real_textures
    result["theme_accuracy"] = _theme_accuracy(records, reference)
    result["revisit_psnr_db"] = {route: _mean(records, f"revisit.{route}") for route in REVISITS}
    for name in (
        "still_change",
        "yaw_following",
        "move_following",
        "next_frame_psnr_db",
        "copy_last_psnr_db",
        "frozen_or_collapsed_rate",
        "walked_m",
    ):
        result[name] = _mean(records, name)
    real["walked_m"] = _mean(records, "real.walked_m")
    distances, real_accuracy = _distances(records, reference)
    real["theme_accuracy"] = real_accuracy
    return result | distances | {"real": real}


def _distances(
    records: Sequence[SceneRecord], reference: Reference
) -> tuple[dict[str, float], float]:
    """Frechet distances and nearest neighbours, and how often real themes are recognised.

    Held-out real frames are divided by scene: one half is real, the other what is compared with.
    The real half has as many frames as the world's sample at most.
    """
    themes = sorted({record.theme for record in records})
    halves = {theme: reference.held_out[theme].chunk(2) for theme in themes}
    ours, nearest, real_nearest, right = [], [], [], []
    for theme in themes:
        ours.append(torch.stack([x for r in records if r.theme == theme for x in r.sampled]))
        nearest.append(nearest_distances(ours[-1], reference.trained[theme]))
        real_nearest.append(nearest_distances(halves[theme][0], reference.trained[theme]))
        right += [found == theme for found in reference.themes(halves[theme][0])]
    real = torch.cat(
        [halves[theme][0][: len(mine)] for theme, mine in zip(themes, ours, strict=True)]
    )
    against = torch.cat([halves[theme][1] for theme in themes])
    ratios = [
        float(mine.mean() / real.mean()) for mine, real in zip(nearest, real_nearest, strict=True)
    ]
    found = {
        "frechet": frechet_distance(torch.cat(ours), against),
        "frechet_real": frechet_distance(real, against),
        "nearest_neighbour_ratio": statistics.fmean(ratios),
    }
    return {name: round(value, 4) for name, value in found.items()}, _share(right)


def texture_measures(records: Sequence[SceneRecord]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the texture of what was new: the world's, and the truth's at the same places.

    The real distance is that of the truth's even blocks to its odd ones.
    """
    ours = torch.cat([part for record in records for part in record.texture])
    truth = torch.cat([part for record in records for part in record.real_texture])
    if min(len(ours), len(truth)) < _FEW_BLOCKS:
        return {}, {}
    found, real = texture_summary(ours), texture_summary(truth)
    spread = truth.std(0).clamp_min(1e-6)
    found["texture_frechet"] = round(frechet_distance(ours / spread, truth / spread), 4)
    half = frechet_distance(truth[::2] / spread, truth[1::2] / spread)
    real["texture_frechet"] = round(half, 4)
    return found, real


def _theme_accuracy(
    records: Sequence[SceneRecord], reference: Reference
) -> dict[str, float | None]:
    """The share of frames around each mark whose theme is recognised."""
    right: dict[int, list[bool]] = {}
    for record in records:
        for second, features in record.at_marks.items():
            found = reference.themes(features)
            right.setdefault(second, []).extend(theme == record.theme for theme in found)
    return {str(second): _share(values) for second, values in sorted(right.items())}


def _by_second(scenes: Iterable[dict[int, float]]) -> dict[str, float | None]:
    """Means over scenes; None where no scene has an edge, or nothing of the start is in view."""
    values: dict[int, list[float]] = {}
    for scene in scenes:
        for second, value in scene.items():
            values.setdefault(second, []).append(value)
    return {str(second): _rounded(found) for second, found in sorted(values.items())}


def _mean(records: Sequence[SceneRecord], name: str) -> float | None:
    return _rounded([value for record in records for value in record.values.get(name, [])])


def _rounded(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return round(statistics.fmean(finite), 4) if finite else None


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / len(values), 4)
