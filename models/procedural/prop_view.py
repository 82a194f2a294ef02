"""Which props a camera can see, where on the screen, and the polynomials that draw them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldbridge.models.procedural import actions
from worldbridge.models.procedural.camera import CameraState
from worldbridge.models.procedural.props import BOX, CONE, CYLINDER, PropArrays
from worldbridge.models.procedural.raycast import View

__all__ = ["FACES", "PLANES", "ShapesInView", "shapes_in_view"]

FACES = 3  # numbers reserved per shape: a box tells apart the faces that it shows
PLANES = 6  # rows per shape in the tables that draw it

_NEAR_M = 0.12
_FAR_M = 46.0
_SMALLEST_PX = 2.2  # radius at 320 rows below which a shape is not drawn
_MAX_DRAWN = 60
Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ShapesInView:
    """The n shapes in view, near to far. Planes are weights of (a, b, 1) about `middle`."""

    index: Ints  # [n] into the scene's props
    kind: Ints  # [n]
    boxes: Ints  # [n, 4] screen rows [y0, y1), columns [x0, x1)
    limit: Array  # [n] upper bound of the nearness
    distance: Array  # [n] depth of the centre
    origin: Array  # [n, 3] the eye in unit space
    rays: Array  # [n, 3, 3] unit-space direction as planes, weights of (a, b, 1)
    entering: Ints  # [n] how many of a box's planes face the eye; they come first
    across: Floats  # [n, PLANES, W] and
    down: Floats  # [n, PLANES, H]: terms that add up to planes or polynomials over the image
    faces: Ints  # [n, FACES] axis * 2 + side of a box's entering planes


def shapes_in_view(props: PropArrays, state: CameraState, view: View) -> ShapesInView:
    axes = _camera_axes(view)  # rows: right, up, forward
    offset = props.center - np.array([state.x, actions.EYE_HEIGHT_M, state.z])
    ahead = offset @ axes[2]
    size = props.radius / np.maximum(ahead, 0.3)
    smallest = _SMALLEST_PX * 2 * view.tan_half / actions.IMAGE_HEIGHT
    seen = (ahead + props.radius > _NEAR_M) & (ahead < _FAR_M) & (size > smallest)
    beside = np.abs(offset @ axes[0]) * (view.height / view.width)
    seen &= beside < view.tan_half * np.maximum(ahead, 0.0) + 1.6 * props.radius
    chosen = np.flatnonzero(seen)
    chosen = chosen[np.argsort(-size[chosen], kind="stable")][:_MAX_DRAWN]
    chosen = chosen[np.argsort(ahead[chosen], kind="stable")]
    boxes = _screen_boxes((props.corners[chosen] + offset[chosen, None]) @ axes.T, view)
    filled = (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])
    chosen, boxes = chosen[filled], boxes[filled]
    return _polynomials(props, chosen, boxes, offset[chosen], ahead[chosen], axes, view)


def _camera_axes(view: View) -> Array:
    (fx, fz), (rx, rz) = view.forward, view.right
    c, s = view.cos_pitch, view.sin_pitch
    return np.array([[rx, 0.0, rz], [-fx * s, c, -fz * s], [fx * c, s, fz * c]])


def _screen_boxes(hulls: Array, view: View) -> Ints:
    """Screen boxes [n, 4] of hulls [n, 8, 3] given in camera coordinates (right, up, ahead)."""
    astride = np.flatnonzero((hulls[..., 2] < _NEAR_M).any(1))
    boxes = _bounds(hulls[..., 0], hulls[..., 1], np.maximum(hulls[..., 2], _NEAR_M), view)
    for k in astride:
        across, up, ahead = _in_front(hulls[k]).T
        boxes[k] = _bounds(across[None], up[None], ahead[None], view)[0]
    limits = np.array([view.height, view.height, view.width, view.width])
    clipped: Ints = np.clip(boxes, 0, limits).astype(np.int64)
    return clipped


def _bounds(across: Array, up: Array, ahead: Array, view: View) -> Array:
    columns = across / (ahead * view.step) + view.width / 2
    rows = view.height / 2 - up / (ahead * view.step)
    return np.stack([rows.min(1), rows.max(1) + 1, columns.min(1), columns.max(1) + 1], 1)


def _in_front(hull: Array) -> Array:
    """Corners [m, 3] of the part of a hull [8, 3] that lies beyond the near plane."""
    front, behind = hull[hull[:, 2] >= _NEAR_M], hull[hull[:, 2] < _NEAR_M]
    if not len(front):
        return np.array([[0.0, -1e6, 1.0]])  # projects to nowhere on the screen
    share = (_NEAR_M - behind[:, None, 2]) / (front[None, :, 2] - behind[:, None, 2])
    cuts = behind[:, None] + share[..., None] * (front[None] - behind[:, None])
    return np.concatenate([front, cuts.reshape(-1, 3)])


def _polynomials(
    props: PropArrays,
    chosen: Ints,
    boxes: Ints,
    offset: Array,
    ahead: Array,
    axes: Array,
    view: View,
) -> ShapesInView:
    local, kind = props.local[chosen], props.kind[chosen]
    origin = -np.einsum("nij,nj->ni", local, offset)
    rays = local @ axes.T
    # Terms about the box's own centre stay small, so that float32 sums of them are exact enough.
    middle = np.stack(
        [boxes[:, 2] + boxes[:, 3] - view.width, view.height - boxes[:, 0] - boxes[:, 1]], 1
    ) * (view.step / 2)
    near = rays.copy()
    near[:, :, 2] += np.einsum("nij,nj->ni", rays[:, :, :2], middle)
    a = (np.arange(view.width) + 0.5 - view.width / 2) * view.step - middle[:, :1]
    b = (view.height / 2 - 0.5 - np.arange(view.height)) * view.step - middle[:, 1:]
    across = np.zeros((len(chosen), PLANES, view.width), np.float32)
    down = np.zeros((len(chosen), PLANES, view.height), np.float32)
    is_box = kind == BOX
    slabs, entering, faces = _slabs(origin[is_box], near[is_box])
    across[is_box] = slabs[..., :1] * a[is_box, None] + slabs[..., 2:]
    down[is_box] = slabs[..., 1:2] * b[is_box, None]
    curved = ~is_box
    across[curved], down[curved] = _quadrics(
        kind[curved], origin[curved], near[curved], a[curved], b[curved]
    )
    counts, shown = np.zeros(len(chosen), np.int64), np.zeros((len(chosen), FACES), np.int64)
    counts[is_box], shown[is_box] = entering, faces
    limit = 1.0 / np.maximum(ahead - props.radius[chosen], _NEAR_M)
    limit[is_box & (counts == 0)] = 0.0  # the eye is inside: nothing to draw
    return ShapesInView(
        chosen, kind, boxes, limit, ahead, origin, rays, counts, across, down, shown
    )


def _slabs(origin: Array, rays: Array) -> tuple[Array, Ints, Ints]:
    """Nearness of the six face planes [m, 6, 3], those that face the eye first, and their order."""
    gap = np.array([-1.0, 1.0]) - origin[:, :, None]  # [m, axis, side]
    planes = rays[:, :, None] / np.where(np.abs(gap) < 1e-9, 1e-9, gap)[..., None]
    facing = np.stack([origin < -1.0, origin > 1.0], 2).reshape(-1, 6)
    order = np.argsort(~facing, axis=1, kind="stable")
    planes = np.take_along_axis(planes.reshape(-1, 6, 3), order[..., None], 1)
    return planes, facing.sum(1), order[:, :FACES]


def _quadrics(kind: Ints, origin: Array, rays: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Tables [m, PLANES, W] and [m, PLANES, H] of shapes x^2 + s y^2 + z^2 = 1 (or 0: a cone).

    Nearness of a hit = sqrt(inner) - half.
    """
    signs = np.ones((len(kind), 3))
    signs[kind == CYLINDER, 1] = 0.0
    signs[kind == CONE, 1] = -1.0
    constant = (signs * origin**2).sum(1) - np.where(kind == CONE, 0.0, 1.0)
    constant = np.where(np.abs(constant) < 1e-9, 1e-9, constant)[:, None]
    half = np.einsum("ni,nij->nj", signs * origin, rays) / constant
    square = np.einsum("nik,ni,nil->nkl", rays, signs, rays) / constant[..., None]
    inner = (half[:, :, None] * half[:, None] - square)[..., None]
    is_cone = kind == CONE
    centre, reach = np.where(is_cone, -0.5, 0.0), np.where(is_cone, 0.5, 1.0)
    up = (rays[:, 1] / reach[:, None])[..., None]
    half = half[..., None]
    weight = (origin[:, 1] - centre) / reach
    across = [
        a * (a * inner[:, 0, 0] + 2 * inner[:, 0, 2]) + inner[:, 2, 2],
        a * half[:, 0] + half[:, 2],
        a * up[:, 0] + up[:, 2],
        a * 2 * inner[:, 0, 1],
    ]
    down = [
        b * (b * inner[:, 1, 1] + 2 * inner[:, 1, 2]),
        b * half[:, 1],
        b * up[:, 1],
        b,
        np.broadcast_to(weight[:, None], b.shape),
    ]
    across += [np.zeros_like(a)] * (PLANES - len(across))
    down += [np.zeros_like(b)] * (PLANES - len(down))
    return np.stack(across, 1), np.stack(down, 1)
