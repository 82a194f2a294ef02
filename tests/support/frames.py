"""Replay the golden control tracks through whole worlds: frames and saved sessions.

Only `play` knows how a world is opened, stepped, saved and loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.support.decoding import GOLDEN
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.worlds.contract import Controls, Pose, WorldStart, next_frames
from worldbridge.runtime.worlds.procedural import ProceduralWorld
from worldbridge.runtime.worlds.registry import open_world

FOLDER = GOLDEN / "frames"


@dataclass(frozen=True, slots=True)
class Played:
    """What B sessions saw in N frames.

    `frames`: I420 bytes, [B][N]; `poses`: the cameras [B][N] as position, rotation and field of
    view; `saved`: the sessions after `save_after` frames, [B]; `resumed`: the frames after that
    when the sessions go on from `saved`, [B][N - save_after].
    """

    frames: list[list[bytes]]
    poses: list[list[list[float]]]
    saved: list[bytes]
    resumed: list[list[bytes]]


def play(case: Mapping[str, Any], saved: Sequence[bytes] | None = None) -> Played:
    """Play a case of `cases.json`; sessions resume from `saved`, or from what they saved here."""
    controls = load_controls()
    world: Any
    if case["world"] == "procedural":
        world = ProceduralWorld()
    else:
        name = case["world"]
        context = controls["context"] if "text" in name else None
        folder = name if name == "embedded" else str(GOLDEN / "worlds" / name)
        world = open_world(
            WorkerConfig(world=folder, seats=3, mode=case.get("mode")), context=context
        )
    world.lead = 0  # what is sampled with which actions must not depend on this machine's speed
    count, after = case["frames"], case["save_after"]
    prompts = controls["prompt_frames"][: case.get("prompt_frames", 0)]
    starts = [
        WorldStart(theme, seed, prompts if len(prompts) else None)
        for theme, seed in zip(case["themes"], case["seeds"], strict=True)
    ]
    states = [world.open(start) for start in starts]

    def run(first: int, last: int) -> tuple[list[list[bytes]], list[list[list[float]]]]:
        frames: list[list[bytes]] = [[] for _ in starts]
        poses: list[list[list[float]]] = [[] for _ in starts]
        for t in range(first, last):
            asked = [
                Controls(
                    tuple(controls["actions"][i, t].tolist()),
                    _pose(controls["poses"][i, t]) if case.get("camera") else None,
                )
                for i in range(len(starts))
            ]
            for i, frame in enumerate(next_frames(world, states, asked)):
                frames[i].append(frame.i420)
                pose = frame.pose
                poses[i].append([*pose.position, *pose.orientation, pose.fov_y])
        return frames, poses

    frames, poses = run(0, after)
    own = [world.save(state) for state in states]
    rest, rest_poses = run(after, count)
    states.clear()  # gives their places back
    states += [world.load(data) for data in (own if saved is None else saved)]
    resumed, _ = run(after, count)
    world.rest()
    return Played(
        [a + b for a, b in zip(frames, rest, strict=True)],
        [a + b for a, b in zip(poses, rest_poses, strict=True)],
        own,
        resumed,
    )


def _pose(values: torch.Tensor) -> Pose:
    x, y, z, a, b, c, d, fov_y = values.tolist()
    return Pose((x, y, z), (a, b, c, d), fov_y)


@cache
def load_controls() -> Mapping[str, torch.Tensor]:
    """Return actions [B, N, 4], poses [B, N, 8], prompt frames [T, 3, H, W], a text's context."""
    with np.load(FOLDER / "controls.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


@cache
def load_cases() -> Mapping[str, Mapping[str, Any]]:
    """Return the cases by name: what to play, and the SHA-256 of what has to come out."""
    cases: Mapping[str, Mapping[str, Any]] = json.loads((FOLDER / "cases.json").read_text())
    return cases


def load_kept(answer: str) -> Mapping[str, NDArray[Any]]:
    """Return what was kept of an answer: "poses" [B, N, 8], and of session I the uint8 arrays
    "frame_I_T" and "saved_I"."""
    with np.load(FOLDER / f"{answer}.npz") as arrays:
        return {key: arrays[key] for key in arrays}
