"""What makes the plain scenes of a theme differ: other halls, rides and enclosures.

Variants are added to the theme's usual layout where there is room.
"""

import math

from worldbridge.models.procedural.draft import CELLS
from worldbridge.models.procedural.plain_draft import PlainDraft
from worldbridge.models.procedural.props import BANDS, SECTORS
from worldbridge.models.procedural.tiles import Color

__all__ = ["vary"]

_BONE: Color = (0.93, 0.89, 0.78)
_RIDES: tuple[tuple[Color, Color], ...] = (
    ((0.93, 0.25, 0.28), (0.98, 0.95, 0.90)),
    ((0.20, 0.48, 0.88), (0.99, 0.84, 0.30)),
    ((0.20, 0.66, 0.50), (0.98, 0.95, 0.90)),
    ((0.60, 0.32, 0.78), (0.99, 0.78, 0.32)),
)


def vary(draft: PlainDraft, theme: str) -> None:
    """Add the variants of a theme."""
    {"museum": _museum, "zoo": _zoo, "hospital": _hospital, "amusement_park": _park}[theme](draft)


def _spots(draft: PlainDraft, count: int, radius: float) -> list[tuple[float, float]]:
    """Find up to `count` free discs of `radius` metres, clear of everything placed so far."""
    found: list[tuple[float, float]] = []
    reach = math.ceil(radius / 2)
    for _ in range(40 * count):
        cx, cz = (int(v) for v in draft.rng.integers(reach + 1, CELLS - reach - 1, 2))
        x, z = cx * 2 + 1.0, cz * 2 + 1.0
        free = draft.is_free(cx - reach, cz - reach, cx + reach + 1, cz + reach + 1)
        apart = all(math.hypot(x - a, z - b) > 3 * radius for a, b in found)
        if free and apart and draft.clear_of_obstacles(x, z, radius):
            found.append((x, z))
        if len(found) == count:
            break
    return found


def _museum(draft: PlainDraft) -> None:
    """Either columned halls, or dinosaur skeletons, or large abstract sculptures."""
    kind = int(draft.rng.integers(3))
    for k, (x, z) in enumerate(_spots(draft, (10, 4, 6)[kind], (0.7, 2.4, 1.2)[kind])):
        if kind == 0:
            draft.box(x, 0, z, 0.4, (0.6, 0.6), (0.78, 0.75, 0.70))
            draft.post(x, 0.4, z, 3.6, 0.42, (0.93, 0.91, 0.86))
            draft.box(x, 3.6, z, 4.0, (0.6, 0.6), (0.78, 0.75, 0.70))
            draft.obstacle(x, z, 0.7)
        elif kind == 1:
            _skeleton(draft, x, z)
        else:
            color, second = _RIDES[k % 4]
            draft.box(x, 0, z, 0.25, (0.9, 0.9), (0.32, 0.32, 0.34))
            draft.ball(x, 1.1, z, (0.7, 0.85, 0.7), color)
            draft.ball(x + 0.2, 2.3, z, (0.5, 0.5, 0.5), second)
            draft.cone(x - 0.2, 2.6, z, 3.6, 0.4, color)
            draft.obstacle(x, z, 1.1)


def _skeleton(draft: PlainDraft, x: float, z: float) -> None:
    draft.box(x, 0, z, 0.2, (1.0, 2.4), (0.36, 0.30, 0.26))
    for k in range(7):
        at = (k - 3) * 0.6
        size = 0.62 - 0.12 * abs(k - 3)
        draft.ball(x, 1.75 - 0.05 * abs(k - 3) ** 2, z + at, (size, size * 1.2, 0.12), _BONE)
    draft.ball(x, 2.55, z - 2.3, (0.3, 0.3, 0.6), _BONE)
    draft.ball(x, 2.0, z - 1.7, (0.14, 0.75, 0.16), _BONE, 0.0, 0.5)
    draft.ball(x, 1.1, z + 2.3, (0.12, 0.14, 0.9), _BONE, 0.0, 0.2)
    for side in (-0.45, 0.45):
        for at in (-0.7, 0.9):
            draft.post(x + side, 0.2, z + at, 1.6, 0.11, _BONE)
    for at in (-1.6, 0.0, 1.6):
        draft.obstacle(x, z + at, 1.2)


def _hospital(draft: PlainDraft) -> None:
    """Stretchers, waiting chairs and plants along the corridors."""
    for k, (x, z) in enumerate(_spots(draft, 8, 0.8)):
        if k % 3 == 0:
            draft.box(x, 0.75, z, 0.95, (0.38, 0.95), (0.95, 0.96, 0.97))
            draft.box(x, 0.35, z, 0.5, (0.30, 0.85), (0.30, 0.52, 0.62))
            for side in (-0.3, 0.3):
                draft.post(x + side, 0, z, 0.75, 0.08, (0.55, 0.60, 0.63))
            draft.obstacle(x, z, 0.95)
        elif k % 3 == 1:
            for side in (-0.6, 0.0, 0.6):
                color = (0.24, 0.52, 0.72) if side else (0.93, 0.62, 0.26)
                draft.box(x + side, 0.35, z, 0.5, (0.26, 0.26), color)
                draft.box(x + side, 0.5, z - 0.24, 1.0, (0.26, 0.06), color)
            draft.obstacle(x, z, 0.9)
        else:
            draft.post(x, 0, z, 0.5, 0.3, (0.93, 0.93, 0.92))
            draft.ball(x, 1.05, z, (0.5, 0.65, 0.5), (0.26, 0.56, 0.32))
            draft.obstacle(x, z, 0.45)


def _zoo(draft: PlainDraft) -> None:
    """Kiosks, picnic tables and signposts on the paths and lawns."""
    for k, (x, z) in enumerate(_spots(draft, 7, 1.0)):
        color, second = _RIDES[k % 4]
        if k % 3 == 0:
            draft.box(x, 0, z, 2.1, (0.8, 0.8), (0.93, 0.86, 0.68))
            draft.glow_box(x, 1.05, z, 1.75, (0.83, 0.6), (1.0, 0.86, 0.52))
            draft.cone(x, 2.1, z, 3.2, 1.4, color, second, SECTORS)
        elif k % 3 == 1:
            draft.post(x, 0, z, 2.4, 0.1, (0.48, 0.32, 0.19))
            draft.box(x + 0.35, 1.9, z, 2.35, (0.6, 0.08), (0.20, 0.46, 0.30))
            draft.box(x - 0.3, 1.4, z, 1.8, (0.55, 0.08), (0.90, 0.66, 0.24), 0.9)
        else:
            draft.lamp(x, 2.9, z, 0.3, (1.0, 0.94, 0.72))
            draft.post(x, 0, z, 2.7, 0.1, (0.24, 0.36, 0.28))
        draft.obstacle(x, z, 1.1 if k % 3 == 0 else 0.3)


def _park(draft: PlainDraft) -> None:
    """A drop tower, a ride with swings, teacups and popcorn carts."""
    for k, (x, z) in enumerate(_spots(draft, 5, 2.6)):
        color, second = _RIDES[int(draft.rng.integers(4))]
        if k % 3 == 0:  # drop tower
            draft.box(x, 0, z, 0.5, (1.6, 1.6), (0.58, 0.56, 0.66))
            draft.post(x, 0.5, z, 13.0, 0.55, second, color, BANDS)
            seat = float(draft.rng.uniform(3, 9))
            draft.post(x, seat, z, seat + 1.0, 1.3, color)
            draft.lamp(x, 13.4, z, 0.7, (1.0, 0.86, 0.40), pool=0.0)
            draft.obstacle(x, z, 1.9)
        elif k % 3 == 1:  # teacups
            draft.post(x, 0, z, 0.2, 2.6, (0.80, 0.72, 0.80))
            for j in range(4):
                turn = j * math.pi / 2 + 0.5
                cx, cz = x + 1.5 * math.cos(turn), z + 1.5 * math.sin(turn)
                draft.post(cx, 0.2, cz, 1.0, 0.75, _RIDES[j][0])
                draft.ball(cx, 1.0, cz, (0.75, 0.1, 0.75), _RIDES[j][1])
            draft.obstacle(x, z, 2.7)
        else:  # swings
            draft.post(x, 0, z, 5.4, 0.35, second, color, BANDS)
            draft.cone(x, 4.6, z, 6.0, 2.4, color, second, SECTORS)
            for j in range(6):
                turn = j * math.pi / 3
                cx, cz = x + 2.2 * math.cos(turn), z + 2.2 * math.sin(turn)
                draft.box(cx, 1.5, cz, 2.0, (0.28, 0.28), _RIDES[j % 4][0], turn)
                draft.post(cx, 2.0, cz, 4.7, 0.05, (0.86, 0.84, 0.80))
            draft.obstacle(x, z, 2.5)
    for x, z in _spots(draft, 4, 1.0):
        draft.box(x, 0.4, z, 1.1, (0.7, 0.45), (0.90, 0.22, 0.24))
        draft.glow_box(x, 1.1, z, 1.9, (0.62, 0.4), (1.0, 0.86, 0.50))
        draft.box(x, 1.9, z, 2.1, (0.8, 0.55), (0.97, 0.95, 0.90))
        draft.obstacle(x, z, 0.9)
