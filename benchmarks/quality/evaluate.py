"""`worldbridge eval`: how good a world is, on scenes that it was never trained on.

Everything is measured against sharp renders of held-out plain scenes, and stands beside what real
frames score against other real frames. The renderer makes the start frames and the truth; it
takes no part in what the world shows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
    follows,
    mean_change,
    psnr_db,
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
from worldbridge.models.procedural.scene import THEMES, Scene
from worldbridge.models.progress import Progress, silent
from worldbridge.models.spatial_memory import MemoryConfig, SpatialMemory
from worldbridge.models.training.data import make_clip
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.worlds.autoregressive import ArWorld
from worldbridge.runtime.worlds.contract import Pose, WorldModel
from worldbridge.runtime.worlds.registry import open_world

__all__ = ["Evaluation", "Plan", "SceneRecord", "evaluate"]

_NEUTRAL: Action = (0.0, 0.0, 0.0, 0.0)
_KEPT_S = (1, 3, 10)
_MARKS_S = (1, 3, 10, 30, 60, 120, 300, 600)
_STILL = 15  # frames of standing still at the end of play
_ENDING = 12  # the frames before, of which it is asked whether anything moves
_SAMPLED = 8  # one frame of 8 is compared with real ones
_QUICK_THEMES = ("city", "museum")  # outdoors and indoors
_AGREEING = 0.05  # of the nearness: the same surface


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    scenes: int  # of each theme
    seconds: int  # of play in the first scene
    further_seconds: int  # of play in the others
    themes: Sequence[str] = THEMES
    guesses: bool = True

    @classmethod
    def of(cls, quick: bool, seconds: int | None = None) -> Plan:
        """Return the usual plan, with `seconds` of play in the first scenes if they are given."""
        plan = cls._usual(quick)
        return plan if seconds is None else replace(plan, seconds=seconds)

    @classmethod
    def _usual(cls, quick: bool) -> Plan:
        return cls(1, 3, 3, _QUICK_THEMES, guesses=False) if quick else cls(3, 60, 10)


@dataclass(slots=True)
class SceneRecord:
    """What was measured in one scene."""

    theme: str
    world: dict[str, dict[int, float]] = field(default_factory=dict)  # by measure, by second
    real: dict[str, dict[int, float]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    sampled: list[Tensor] = field(default_factory=list)
    at_marks: dict[int, list[Tensor]] = field(default_factory=dict)
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
    """Measure a world; return what `worldbridge eval --json` prints, and the records behind it."""
    torch.set_num_threads(threads)
    plan = Plan.of(quick, seconds)
    model = open_world(WorkerConfig(world=world, seats=len(plan.themes), mode=None))
    evaluation = Evaluation(model, plan, seed, progress)
    result = evaluation.run()
    progress("done", 1.0)
    return result, evaluation.records


class Evaluation:
    """One evaluation: plays the world scene by scene, all themes together, and sums it up."""

    def __init__(
        self, world: WorldModel[Any], plan: Plan, seed: int = 0, progress: Progress = silent
    ) -> None:
        self.world, self.plan, self.seed, self.progress = world, plan, seed, progress
        self.records: list[SceneRecord] = []
        self.from_frames = takes_frames(world)
        self._size = world.spec.height, world.spec.width
        self._fps = round(world.spec.fps)
        self._steps, self._done = self._all_steps(), 0

    @torch.inference_mode()
    def run(self) -> dict[str, Any]:
        """Play and measure; return the measures of all scenes and those of each theme."""
        for number in range(self.plan.scenes):
            group = _Group(self, number)
            group.play()
            group.revisit()
            group.follow()
            self.records += group.records
        reference = load_reference()
        result: dict[str, Any] = {
            "world": self.world.spec.name,
            "scenes": f"{len(self.records)} plain scenes never trained on",
            "seconds": self.plan.seconds,
        }
        result |= _summary(self.records, reference)
        result["themes"] = {
            theme: _summary([r for r in self.records if r.theme == theme], reference)
            for theme in self.plan.themes
        }
        return result | self._of_a_transformer()

    def tick(self, what: str) -> None:
        """Tell how far it is, once per step of the world."""
        self._done += 1
        if self._done % 10 == 0:
            self.progress(what, min(self._done / self._steps, 0.99))

    def frames(self, number: int) -> int:
        """Frames of play in scene `number` of each theme."""
        seconds = self.plan.further_seconds if number else self.plan.seconds
        return seconds * self._fps

    def _all_steps(self) -> int:
        per_scene = sum(len(route) + 1 for route in REVISITS.values()) + _STILL + 3 * 9
        return sum(self.frames(n) + per_scene for n in range(self.plan.scenes))

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


class _Group:
    """One scene of every theme, played together."""

    def __init__(self, evaluation: Evaluation, number: int) -> None:
        self.evaluation, self.number = evaluation, number
        self.themes = evaluation.plan.themes
        self.seed = 1000 * evaluation.seed + number
        found = [held_out_scene(theme, self.seed) for theme in self.themes]
        self.scenes = [scene for scene, _ in found]
        self.starts = [self._truth(scene, start) for scene, start in found]
        self.records = [SceneRecord(theme) for theme in self.themes]

    def play(self) -> None:
        """Look around, then play at random, then stand still."""
        frames = self.evaluation.frames(self.number)
        plays = [
            [*LOOK_AROUND, *random_play(self.seed + 10 * n, frames)][:frames]
            for n in range(len(self.themes))
        ]
        player = self._open()
        memories = [self._remember(start) for start in self.starts]
        for record, first, start in zip(self.records, player.first, self.starts, strict=True):
            record.sheet[0] = first.rgb, start.rgb
        cameras = [start.state for start in self.starts]
        recent: list[list[Shown]] = []
        for t in range(1, frames + 1):
            actions = [play[t - 1] for play in plays]
            cameras = self._moved(cameras, actions)
            recent = [*recent, player.step(actions, cameras)][-_ENDING:]
            self.evaluation.tick("play")
            self._sample(t, recent[-1])
            second = t // self.evaluation._fps
            if t % self.evaluation._fps == 0 and second in _MARKS_S:
                self._measure_at(second, recent, cameras, memories)
        self._ending(recent)
        still = [player.step([_NEUTRAL] * len(cameras), cameras) for _ in range(_STILL)]
        for n, record in enumerate(self.records):
            record.note("still_change", mean_change([shown[n].rgb for shown in still[1:]]))

    def revisit(self) -> None:
        """Routes that end where they began."""
        for name, route in REVISITS.items():
            self._revisit(name, route)

    def _revisit(self, name: str, route: Sequence[Action]) -> None:
        player = self._open()
        cameras = [start.state for start in self.starts]
        shown = player.first
        for t, action in enumerate(route, 1):
            actions = [action] * len(cameras)
            cameras = self._moved(cameras, actions)
            shown = player.step(actions, cameras)
            self.evaluation.tick(f"revisit, {name}")
            self._sample(t, shown)
        for record, first, last in zip(self.records, player.first, shown, strict=True):
            record.note(f"revisit.{name}", psnr_db(last.rgb, first.rgb))

    def follow(self) -> None:
        """Constant actions: does the frame move, and how near to the truth is the next frame."""
        kinds = ("yaw", TURNS), ("move", MOVES[:2]), ("move", MOVES[2:])
        for name, commands in kinds:
            chosen = [commands[(n + self.number) % 2] for n in range(len(self.themes))]
            self._follow(f"{name}_following", chosen)

    def _follow(self, measure: str, commands: Sequence[Command]) -> None:
        player = self._open()
        actions = [command.action for command in commands]
        shown = [player.first]
        for _ in range(8):
            shown.append(player.step(actions))
            self.evaluation.tick("following controls")
        moved = self._moved([start.state for start in self.starts], actions)
        for n, record in enumerate(self.records):
            frames = [frame[n].rgb for frame in shown[1:]]
            record.note(measure, float(follows(frames, commands[n])))
            truth = self._truth(self.scenes[n], moved[n]).rgb
            record.note("next_frame_psnr_db", psnr_db(frames[0], truth))
            record.note("copy_last_psnr_db", psnr_db(self.starts[n].rgb, truth))

    def _open(self) -> WorldPlayer:
        return WorldPlayer(self.evaluation.world, self.themes, self.starts, self.seed)

    def _truth(self, scene: Scene, state: CameraState) -> View:
        view = view_of(scene, state, *self.evaluation._size)
        return View(as_shown(view.rgb), view.nearness, state)

    def _moved(
        self, cameras: Sequence[CameraState], actions: Sequence[Action]
    ) -> list[CameraState]:
        return [
            step_camera(scene, camera, action)
            for scene, camera, action in zip(self.scenes, cameras, actions, strict=True)
        ]

    def _remember(self, start: View) -> SpatialMemory:
        """A memory of the start alone: says what of it is in view later, and how it looks there."""
        return self._memory_of(start.rgb, start.nearness, pose_of(start.state))

    def _memory_of(self, rgb: Tensor, nearness: Tensor, pose: Pose) -> SpatialMemory:
        height, width = self.evaluation._size
        memory = SpatialMemory(
            MemoryConfig(height=height, width=width, max_points=2 * height * width)
        )
        memory.add(rgb, nearness, pose, pose.fov_y)
        return memory

    def _warp(self, record: SceneRecord, second: int, before: Shown, after: Shown) -> None:
        """Whether two frames agree with each other through the world's own depth."""
        if before.nearness is None or after.nearness is None or before.pose == after.pose:
            return
        memory = self._memory_of(before.rgb, before.nearness, before.pose)
        seen = memory.render(after.pose, after.pose.fov_y)
        agrees = (seen.nearness / after.nearness - 1.0).abs() < _AGREEING
        value = psnr_db(seen.rgb, after.rgb, seen.mask & agrees)
        record.world.setdefault("warp_consistency_db", {})[second] = value

    def _sample(self, t: int, shown: Sequence[Shown]) -> None:
        if t % _SAMPLED == 0:
            for record, frame in zip(self.records, shown, strict=True):
                record.sampled.append(frame.rgb)

    def _measure_at(
        self,
        second: int,
        recent: Sequence[Sequence[Shown]],
        cameras: Sequence[CameraState],
        memories: Sequence[SpatialMemory],
    ) -> None:
        for n, record in enumerate(self.records):
            shown, truth = recent[-1][n].rgb, self._truth(self.scenes[n], cameras[n])
            record.sheet[second] = shown, truth.rgb
            record.at_marks[second] = [frame[n].rgb for frame in recent[-3:]]
            (edges, steepness), (real_edges, real_steepness) = acutance(shown), acutance(truth.rgb)
            record.note_at("edge_windows", second, edges, real_edges)
            record.note_at("steepness", second, steepness, real_steepness)
            self._warp(record, second, recent[-2][n], recent[-1][n])
            if second in _KEPT_S and self.evaluation.from_frames:
                pose = pose_of(cameras[n])
                seen = memories[n].render(pose, pose.fov_y)
                agrees = (seen.nearness / truth.nearness - 1.0).abs() < _AGREEING
                kept = seen.mask & agrees
                world = psnr_db(shown, truth.rgb, kept)
                record.note_at("kept_psnr_db", second, world, psnr_db(seen.rgb, truth.rgb, kept))

    def _ending(self, recent: Sequence[Sequence[Shown]]) -> None:
        """Whether nothing moves any more, or almost everything has one colour."""
        for n, record in enumerate(self.records):
            frames = [shown[n].rgb for shown in recent]
            spread = statistics.median(float(frame.float().std()) for frame in frames)
            record.note("frozen_or_collapsed_rate", float(mean_change(frames) < 0.2 or spread < 12))


# --- summing up ----------------------------------------------------------------------------------


def _summary(records: Sequence[SceneRecord], reference: Reference) -> dict[str, Any]:
    """The measures of some scenes, under the names of `worldbridge eval --json`."""
    names = "steepness", "edge_windows", "kept_psnr_db", "warp_consistency_db"
    result: dict[str, Any] = {
        name: _by_second(r.world.get(name, {}) for r in records) for name in names
    }
    real: dict[str, Any] = {
        name: _by_second(r.real.get(name, {}) for r in records) for name in names
    }
    result["theme_accuracy"] = _theme_accuracy(records, reference)
    result["revisit_psnr_db"] = {route: _mean(records, f"revisit.{route}") for route in REVISITS}
    for name in (
        "still_change",
        "yaw_following",
        "move_following",
        "next_frame_psnr_db",
        "copy_last_psnr_db",
        "frozen_or_collapsed_rate",
    ):
        result[name] = _mean(records, name)
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
        sampled = [frame for r in records if r.theme == theme for frame in r.sampled]
        ours.append(reference.features(sampled))
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


def _theme_accuracy(
    records: Sequence[SceneRecord], reference: Reference
) -> dict[str, float | None]:
    """The share of frames around each mark whose theme is recognised."""
    right: dict[int, list[bool]] = {}
    for record in records:
        for second, frames in record.at_marks.items():
            found = reference.themes(reference.features(frames))
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
