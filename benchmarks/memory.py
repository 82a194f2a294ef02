"""`worldbridge bench memory`: how fast the spatial memory is, and how well places come back."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from worldbridge.benchmarks.machine import describe
from worldbridge.benchmarks.quality.measures import psnr_db
from worldbridge.benchmarks.quality.routes import REVISITS, held_out_scene, pose_of, route_views
from worldbridge.benchmarks.timing import percentiles
from worldbridge.bridge.protocol import Pose
from worldbridge.models.procedural.scene import THEMES
from worldbridge.models.progress import Progress, silent
from worldbridge.models.spatial_memory import Backend, SpatialMemory

__all__ = ["bench_memory"]

_NUDGE_M = 1e-5  # so that the frame added last is not shown as it is


def bench_memory(
    backend: Backend | None = None,
    device: str = "cpu",
    quick: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Walk routes through held-out scenes with the renderer's colour and nearness.

    `revisit_psnr_db`: the first frame against what the memory shows there after the route, over
    the pixels that it knows; `known` is their share. One thread.
    """
    torch.set_num_threads(1)
    _route(SpatialMemory(device=device, backend=backend), THEMES[0], "walk", 2)  # compiles
    themes = THEMES[:2] if quick else THEMES
    rows, times = [], []
    for n, (theme, route) in enumerate((t, r) for t in themes for r in REVISITS):
        progress(f"memory, {theme}, {route}", n / (len(themes) * len(REVISITS)))
        memory = SpatialMemory(device=device, backend=backend)
        row, taken = _route(memory, theme, route)
        rows.append(row)
        times += taken
    return {
        "environment": describe(),
        "device": device,
        "backend": memory.backend,
        "frame": f"{memory.config.height}x{memory.config.width}",
        "max_points": memory.config.max_points,
        "render_ms": percentiles([render for render, _ in times]),
        "add_ms": percentiles([add for _, add in times]),
        "revisit_psnr_db": {
            route: round(statistics.fmean(r["psnr_db"] for r in rows if r["route"] == route), 2)
            for route in REVISITS
        },
        "routes": rows,
    }


def _route(
    memory: SpatialMemory, theme: str, route: str, frames: int | None = None
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """One route: its row of the table, and milliseconds of (render, add) per frame after one."""
    scene, start = held_out_scene(theme, 0)
    times = []
    views = list(route_views(scene, start, REVISITS[route][:frames]))
    for view in views:
        pose = pose_of(view.state)
        began = time.perf_counter()
        memory.render(pose, pose.fov_y)
        rendered = time.perf_counter()
        memory.add(view.rgb, view.nearness, pose, pose.fov_y)
        times.append((1e3 * (rendered - began), 1e3 * (time.perf_counter() - rendered)))
    first = pose_of(start)
    x, y, z = first.position
    beside = Pose((x + _NUDGE_M, y, z), first.orientation, first.fov_y)
    guide = memory.render(beside, first.fov_y)
    row = {
        "theme": theme,
        "route": route,
        "psnr_db": round(psnr_db(guide.rgb.cpu(), views[0].rgb, guide.mask.cpu()), 2),
        "known": round(float(guide.mask.float().mean()), 4),
        "points": len(memory),
        "megabytes": round(memory.nbytes / 1e6, 1),
    }
    return row, times[1:]
