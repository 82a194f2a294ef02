"""Solid primitives in the scene: ellipsoids, upright cylinders, cones and boxes."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worldbridge.models.procedural.tiles import Color

__all__ = [
    "BANDS",
    "BOX",
    "CONE",
    "CYLINDER",
    "ELLIPSOID",
    "PATCHES",
    "PLAIN",
    "SECTORS",
    "STRIPES",
    "Primitive",
    "PropArrays",
]

ELLIPSOID, CYLINDER, CONE, BOX = 0, 1, 2, 3
PLAIN, SECTORS, BANDS, PATCHES, STRIPES = 0, 1, 2, 3, 4
_SUN = np.array([0.45, 0.75, -0.48])
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Primitive:
    """A shape of half-extents `size` about `center`; a cone has its apex there and hangs down.

    `tilt` leans its top towards its own -Z, then `yaw` turns it about +Y (radians).
    """

    kind: int
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    color: Color
    yaw: float = 0.0
    tilt: float = 0.0
    second: Color = (0.0, 0.0, 0.0)
    pattern: int = PLAIN


@dataclass(frozen=True, slots=True)
class PropArrays:
    """All P primitives of a scene as arrays, ready to be projected at once."""

    prims: tuple[Primitive, ...]
    kind: NDArray[np.int64] = field(init=False)  # [P]
    center: Array = field(init=False)  # [P, 3]
    local: Array = field(init=False)  # [P, 3, 3] world offsets to unit space
    corners: Array = field(init=False)  # [P, 8, 3] world offsets of the hull
    radius: Array = field(init=False)  # [P] of the bounding sphere
    color: Array = field(init=False)  # [P, 3]
    second: Array = field(init=False)  # [P, 3]
    sun: Array = field(init=False)  # [P, 4] unit-space weights and offset of a cosine-like light
    pattern: NDArray[np.int64] = field(init=False)  # [P]

    def __post_init__(self) -> None:
        def column(values: list[tuple[float, ...]], width: int) -> Array:
            return np.array(values, np.float64).reshape(-1, width)

        prims, put = self.prims, object.__setattr__
        kind = np.array([p.kind for p in prims], np.int64)
        local = np.array([_to_local(p) for p in prims]).reshape(-1, 3, 3)
        corners = np.einsum("pij,pkj->pki", np.linalg.inv(local), _unit_hulls(kind))
        put(self, "kind", kind)
        put(self, "center", column([p.center for p in prims], 3))
        put(self, "local", local)
        put(self, "corners", corners)
        put(self, "radius", np.linalg.norm(corners, axis=2).max(1, initial=0.0))
        put(self, "color", column([p.color for p in prims], 3))
        put(self, "second", column([p.second for p in prims], 3))
        put(self, "sun", column([_sunlight(p, m) for p, m in zip(prims, local, strict=True)], 4))
        put(self, "pattern", np.array([p.pattern for p in prims], np.int64))


def _to_local(prim: Primitive) -> Array:
    cy, sy = math.cos(prim.yaw), math.sin(prim.yaw)
    ct, st = math.cos(prim.tilt), math.sin(prim.tilt)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    lean = np.array([[1, 0, 0], [0, ct, st], [0, -st, ct]])
    local: Array = (turn @ lean).T / np.asarray(prim.size)[:, None]
    return local


def _unit_hulls(kind: NDArray[np.int64]) -> Array:
    """Corners [P, 8, 3] of the unit-space boxes around the shapes."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    hulls = np.repeat(signs[None], len(kind), 0)
    cones = kind == CONE
    hulls[cones, :, 1] = (hulls[cones, :, 1] - 1.0) / 2.0
    return hulls


def _sunlight(prim: Primitive, local: Array) -> tuple[float, ...]:
    sun = local @ _SUN
    if prim.kind == CYLINDER:
        sun = sun * np.array([1.0, 0.0, 1.0])
    sun = sun / max(float(np.linalg.norm(sun)), 1e-9)
    return (*sun.tolist(), 0.4 if prim.kind == CONE else 0.0)
