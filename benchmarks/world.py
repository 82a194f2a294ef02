"""`worldbridge bench world`: what a frame of a world with a memory costs, by how much of it is new.

The camera turns away from a start until a given share of the view's blocks is new; each turn is
repeated from the same saved state.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from worldbridge.benchmarks.machine import describe
from worldbridge.benchmarks.timing import percentiles
from worldbridge.bridge.protocol import Pose
from worldbridge.errors import ConfigError
from worldbridge.models.procedural import CameraState, camera_pose
from worldbridge.models.progress import Progress, silent
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.worlds.contract import Controls, WorldStart, next_frames
from worldbridge.runtime.worlds.guided import GuidedWorld
from worldbridge.runtime.worlds.registry import open_world

__all__ = ["SHARES", "bench_world", "plot_svg", "turn_for"]

SHARES = (0.0, 0.05, 0.1, 0.3, 1.0)
_UNASKED = 0.04


def bench_world(
    world: str = "guided", quick: bool = False, threads: int = 1, progress: Progress = silent
) -> dict[str, Any]:
    """Time frames of which about 0, 5, 10, 30 and 100 % of the blocks are new.

    Wall-clock time depends on what else the machine does; processor time hardly does.
    Raises ConfigError for a world without a memory.
    """
    torch.set_num_threads(threads)
    model = open_world(WorkerConfig(world=world, seats=1, mode=None))
    if not isinstance(model, GuidedWorld):
        raise ConfigError(
            f"the world {world!r} has no memory",
            expected="a world with a spatial memory, such as guided",
            got=model.spec.kind,
            remedy="choose another --world, or measure it with `worldbridge bench decode`",
        )
    repeats = 3 if quick else 12
    themes = ("city", "museum") if quick else ("city", "museum", "zoo", "hospital")
    rows = []
    for n, share in enumerate(SHARES):
        progress(f"{share:.0%} new", n / len(SHARES))
        rows.append(_row(model, share, themes, repeats))
    return {
        "environment": describe(),
        "world": model.spec.name,
        "threads": threads,
        "frame": f"{model.spec.height}x{model.spec.width}",
        "rows": rows,
    }


def _row(world: GuidedWorld, share: float, themes: Sequence[str], repeats: int) -> dict[str, Any]:
    walls, processor, new = [], [], []
    for theme in themes:
        state = world.open(WorldStart(theme, 1))
        start, turned = _camera(world, 0.0), _camera(world, share)
        next_frames(world, [state], [Controls(camera=start)])  # aligns the camera
        saved = world.save(state)
        for repeat in range(repeats + 1):
            again = world.load(saved)
            began, used = time.perf_counter(), time.process_time()
            next_frames(world, [again], [Controls(camera=turned)])
            if repeat:  # the first one warms up
                walls.append(1e3 * (time.perf_counter() - began))
                processor.append(1e3 * (time.process_time() - used))
                new.append(float((again.previous >= 0).any(-1).float().mean()))
    milliseconds = statistics.median(processor)
    return {
        "wanted_share": share,
        "new_share": round(statistics.fmean(new), 4),
        "ms": percentiles(walls),
        "processor_ms": percentiles(processor),
        "frames_per_second": round(1e3 / statistics.median(walls), 1),
        "frames_per_second_of_a_core": round(1e3 / milliseconds, 1),
    }


def _camera(world: GuidedWorld, share: float) -> Pose:
    field = 50.0
    aspect = world.spec.width / world.spec.height
    # a column of blocks that is new in part is drawn whole, and edges uncover a few more
    columns = share if share in (0.0, 1.0) else max(0.01, share - _UNASKED)
    position, rotation, _ = camera_pose(CameraState(0.0, 0.0, turn_for(columns, field, aspect)))
    return Pose(position, rotation, field)


def turn_for(share: float, fov_y: float, aspect: float) -> float:
    """Return the turn, in radians, after which a share of the view's columns was out of view."""
    half = math.atan(aspect * math.tan(math.radians(fov_y) / 2))
    if share >= 1.0:
        return math.pi
    return half - math.atan((1.0 - 2.0 * share) * math.tan(half))


def plot_svg(result: dict[str, Any], path: Path) -> None:
    """Write frames per second of one core by the share of new blocks, as an SVG image."""
    rows = result["rows"]
    most = max(row["frames_per_second_of_a_core"] for row in rows)
    top = 10 * math.ceil(most / 10)
    width, height, left, bottom = 560, 260, 46, 40
    across, up = width - left - 20, height - bottom - 20

    def place(row: dict[str, Any]) -> tuple[float, float]:
        x = left + across * row["new_share"]
        return x, 20 + up * (1 - row["frames_per_second_of_a_core"] / top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for tick in range(0, top + 1, max(10, 10 * round(top / 60))):
        y = 20 + up * (1 - tick / top)
        parts.append(f'<path d="M{left} {y:.1f}h{across}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for share in (0, 25, 50, 75, 100):
        x = left + across * share / 100
        parts.append(f'<text x="{x:.1f}" y="{height - 22}" text-anchor="middle">{share}</text>')
    points = [place(row) for row in sorted(rows, key=lambda row: float(row["new_share"]))]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#2f6fde" stroke-width="2"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2f6fde"/>' for x, y in points]
    middle = left + across / 2
    parts.append(
        f'<text x="{middle}" y="{height - 6}" text-anchor="middle">new blocks, % of a frame</text>'
    )
    parts.append(f'<text x="6" y="13">frames/s of one core, {result["world"]}</text></svg>')
    path.write_text("".join(parts) + "\n")
