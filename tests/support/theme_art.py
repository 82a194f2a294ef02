"""The page's images of the city's localities: `python -m tests.support.theme_art`.

Each is a frame that a session in that locality can start from, rendered at a page's size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from PIL import Image

from worldbridge.models.procedural.camera import spawn
from worldbridge.models.procedural.plain import build_plain_scene
from worldbridge.models.procedural.render import render

OUT: Final = Path(__file__).parents[2] / "engine_plugins" / "web"
SEEDS: Final = {"new_york": 7, "paris": 7, "tokyo": 7, "marrakesh": 21}


def main() -> None:
    """Write engine_plugins/web/theme-LOCALITY.webp."""
    for locality, seed in SEEDS.items():
        scene = build_plain_scene(f"city/{locality}", seed)
        frame = render(scene, spawn(scene, seed), 720, 1152)
        image = Image.fromarray(frame.permute(1, 2, 0).numpy())
        image.save(OUT / f"theme-{locality}.webp", quality=82, method=6)


if __name__ == "__main__":
    main()
