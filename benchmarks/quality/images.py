"""Write the README's images of a world: `python -m worldbridge.benchmarks.quality.images`.

Plays every theme by the same script, from the frame that a player starts with, and writes a contact
sheet (`OUT/WORLD.webp`) and a clip of each theme (`OUT/WORLD-THEME.webp`). Every frame is what the
world shows a player; nothing is selected or retouched.

`--cards DIR` writes the page's images of the themes instead: the frames that sessions of a seed
begin with, rendered large.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from worldbridge.benchmarks.quality.player import rgb_of
from worldbridge.benchmarks.quality.routes import Action
from worldbridge.models.procedural import spawn
from worldbridge.models.procedural.plain import build_plain_scene, plain_place
from worldbridge.models.procedural.render import render_rgbd
from worldbridge.models.procedural.scene import THEMES
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.worlds.contract import Controls, WorldModel, WorldStart, next_frames
from worldbridge.runtime.worlds.registry import open_world

__all__ = ["ROUTE", "main", "play_route", "write_cards", "write_clip", "write_sheet"]

# Eight seconds at 15 frames/s: ahead, a turn to what was never seen, ahead, and back to the start.
ROUTE: Sequence[Action] = [
    *[(0.0, 1.0, 0.0, 0.0)] * 20,
    *[(0.0, 0.5, 0.35, 0.0)] * 35,
    *[(0.0, 1.0, 0.0, 0.0)] * 15,
    *[(0.0, 0.0, -0.6, 0.0)] * 35,
    *[(0.0, 0.0, 0.0, 0.0)] * 15,
]
_SHOWN = (0, 20, 40, 60, 80, 119)  # frames of the contact sheet
_TILE = (320, 200)
_CLIP = (384, 240)
_EVERY = 2  # of the clip's frames
_LABEL = 18  # pixels
_CARD = (1152, 720)


def play_route(world: WorldModel[Any], theme: str, seed: int) -> Iterator[Tensor]:
    """Yield the frames of the route, uint8 (H, W, 3)."""
    state = world.open(WorldStart(theme, seed))
    for action in ROUTE:
        [frame] = next_frames(world, [state], [Controls(action=action)])
        yield rgb_of(frame.i420, world.spec.height, world.spec.width)


def write_sheet(path: Path, rows: dict[str, list[Tensor]], fps: float) -> None:
    """Write a row of frames for each theme, with the seconds of play above."""
    width, height = _TILE
    sheet = Image.new("RGB", (width * len(_SHOWN), _LABEL + height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, shown in enumerate(_SHOWN):
        draw.text((column * width + 4, 3), f"{shown / fps:.1f} s", fill="black")
    for row, (theme, frames) in enumerate(rows.items()):
        for column, shown in enumerate(_SHOWN):
            tile = Image.fromarray(frames[shown].numpy()).resize(_TILE, Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * width, _LABEL + row * height))
        place = (4, _LABEL + row * height + 3)
        draw.text(place, theme, fill="white", stroke_width=1, stroke_fill="black")
    sheet.save(path, quality=80, method=6)


def write_clip(path: Path, frames: Sequence[Tensor], fps: float) -> None:
    """Write an animated WebP of every second frame, at the speed of play."""
    first, *rest = (
        Image.fromarray(frame.numpy()).resize(_CLIP, Image.Resampling.LANCZOS)
        for frame in frames[::_EVERY]
    )
    first.save(
        path,
        save_all=True,
        append_images=rest,
        duration=round(1000 * _EVERY / fps),
        loop=0,
        quality=60,
        method=4,
    )


def write_cards(folder: Path, seed: int) -> None:
    """Write the frame that each theme begins with, as the page shows it."""
    width, height = _CARD
    for theme in THEMES:
        scene = build_plain_scene(plain_place(theme, seed), seed)
        rgb, _ = render_rgbd(scene, spawn(scene, seed), height, width)
        image = Image.fromarray(rgb.permute(1, 2, 0).contiguous().numpy())
        image.save(folder / f"theme-{theme}.webp", quality=80, method=6)


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    """Play and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", default="guided", help="a name or a directory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--cards", type=Path, help="such as engine_plugins/web")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.cards is not None:
        write_cards(options.cards, options.seed)
        return
    world = open_world(WorkerConfig(world=options.world, seats=1, mode=None))
    name, fps = world.spec.name, world.spec.fps
    options.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    for theme in (theme for theme in world.spec.themes if theme in THEMES):
        rows[theme] = list(play_route(world, theme, options.seed))
        write_clip(options.out / f"{name}-{theme}.webp", rows[theme], fps)
        print(f"{theme}: {len(rows[theme])} frames", file=sys.stderr, flush=True)
    write_sheet(options.out / f"{name}.webp", rows, fps)


if __name__ == "__main__":
    main()
