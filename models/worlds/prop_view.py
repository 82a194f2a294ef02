"""Which props a camera can see, where on the screen, and the polynomials that draw them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldbridge.models.worlds import actions
from worldbridge.models.worlds.camera import CameraState
from worldbridge.models.worlds.props import CONE, CYLINDER, PropArrays
from worldbridge.models.worlds.raycast import View

__all__ = ["ShapesInView", "shapes_in_view"]

_NEAR_M = 0.12
_FAR_M = 46.0
_SMALLEST_PX = 2.2  # radius at 320 rows below which a shape is not drawn
_MAX_DRAWN = 72
Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ShapesInView:
    """The n shapes in view, near to far. Planes are weights of (a, b, 1) about `middle`."""

    index: Ints  # [n] into the scene's props
    kind: Ints  # [n]
    boxes: Ints  # [n, 4] screen rows [y0, y1), columns [x0, x1)
    limit: Array  # [n] upper bound of the nearness
    middle: Array  # [n, 2] image coordinates of the box centre
    distance: Array  # [n] depth of the centre
    origin: Array  # [n, 3] the eye in unit space
    rays: Array  # [n, 3, 3] unit-space direction as planes about the image centre
    slabs: Array  # [n, 3, 2, 3] nearness of the low and high face planes of each axis
    half: Array  # [n, 3] half the linear coefficient of the hit equation, scaled
    inner: Array  # [n, 6] what is under its root: aa, bb, cc, ab, ac, bc
    up: Array  # [n, 4] height within the clip range: plane, weight of nearness


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
    points = np.where(hulls[..., 2:] < _NEAR_M, np.nan, hulls)
    astride = np.flatnonzero(np.isnan(points).any((1, 2)))
    padded = np.concatenate([points, np.full((len(hulls), 64, 3), np.nan)], 1)
    padded[astride, 8:] = _cuts(hulls[astride])
    with np.errstate(invalid="ignore"):
        columns = padded[..., 0] / padded[..., 2] / view.step + view.width / 2
        rows = view.height / 2 - padded[..., 1] / padded[..., 2] / view.step
    rows, columns = np.nan_to_num(rows, nan=1e9), np.nan_to_num(columns, nan=1e9)
    low = np.stack([rows.min(1), columns.min(1)], 1)
    rows[rows > 1e8], columns[columns > 1e8] = -1e9, -1e9
    high = np.stack([rows.max(1), columns.max(1)], 1) + 1
    boxes = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)
    limits = np.array([view.height, view.height, view.width, view.width])
    clipped: Ints = np.clip(boxes, 0, limits).astype(np.int64)
    return clipped


def _cuts(hulls: Array) -> Array:
    """Where segments between corners [m, 8, 3] cross the near plane, [m, 64, 3], NaN elsewhere."""
    start, end = hulls[:, :, None], hulls[:, None]
    crossing = (start[..., 2] < _NEAR_M) & (end[..., 2] >= _NEAR_M)
    span = np.where(crossing, end[..., 2] - start[..., 2], 1.0)
    share = ((_NEAR_M - start[..., 2]) / span)[..., None]
    points = np.where(crossing[..., None], start + share * (end - start), np.nan)
    result: Array = points.reshape(len(hulls), 64, 3)
    return result


def _polynomials(
    props: PropArrays, chosen: Ints, boxes: Ints, offset: Array, ahead: Array, axes: Array,
    view: View,
) -> ShapesInView:
    local, kind = props.local[chosen], props.kind[chosen]
    origin = -np.einsum("nij,nj->ni", local, offset)
    rays = local @ np.stack([axes[0], axes[1], axes[2]], 1)
    middle = np.stack([boxes[:, 2] + boxes[:, 3] - view.width,
                       view.height - boxes[:, 0] - boxes[:, 1]], 1) * (view.step / 2)
    # Polynomials about the box's own centre keep their float32 evaluation exact enough.
    near = rays.copy()
    near[:, :, 2] += np.einsum("nij,nj->ni", rays[:, :, :2], middle)
    faces = np.array([-1.0, 1.0]) - origin[:, :, None]
    slabs = near[:, :, None] / np.where(np.abs(faces) < 1e-9, 1e-9, faces)[..., None]
    half, inner = _hit_equation(kind, origin, near)
    is_cone = kind == CONE
    centre, reach = np.where(is_cone, -0.5, 0.0), np.where(is_cone, 0.5, 1.0)
    up = np.concatenate([near[:, 1], (origin[:, 1] - centre)[:, None]], 1) / reach[:, None]
    limit = 1.0 / np.maximum(ahead - props.radius[chosen], _NEAR_M)
    return ShapesInView(chosen, kind, boxes, limit, middle, ahead, origin, rays, slabs, half,
                        inner, up)


def _hit_equation(kind: Ints, origin: Array, rays: Array) -> tuple[Array, Array]:
    """Nearness of a hit = sqrt(inner) - half, for x^2 + s y^2 + z^2 = 1 (or 0: a cone)."""
    signs = np.ones((len(kind), 3))
    signs[kind == CYLINDER, 1] = 0.0
    signs[kind == CONE, 1] = -1.0
    constant = (signs * origin**2).sum(1) - np.where(kind == CONE, 0.0, 1.0)
    constant = np.where(np.abs(constant) < 1e-9, 1e-9, constant)[:, None]
    half = np.einsum("ni,nij->nj", signs * origin, rays) / constant
    square = np.einsum("nik,ni,nil->nkl", rays, signs, rays) / constant[..., None]
    m = half[:, :, None] * half[:, None] - square
    inner = np.stack([m[:, 0, 0], m[:, 1, 1], m[:, 2, 2],
                      2 * m[:, 0, 1], 2 * m[:, 0, 2], 2 * m[:, 1, 2]], 1)
    return half, inner
