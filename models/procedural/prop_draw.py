"""Drawing of props: analytic shapes in their screen boxes, depth-tested against the walls.

In a shape's unit space a pixel's ray is linear in the image coordinates (a, b). Working with
nearness w = 1 / depth, a box is then decided by linear functions of (a, b) alone, and a quadric by
one quadratic polynomial and its square root. This first pass only notes which shape is nearest at a
pixel; colour and light are computed afterwards, once per covered pixel.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldbridge.models.procedural import actions
from worldbridge.models.procedural.camera import CameraState
from worldbridge.models.procedural.props import (
    BANDS,
    BOX,
    CONE,
    CYLINDER,
    ELLIPSOID,
    PATCHES,
    PLAIN,
    SECTORS,
    STRIPES,
    PropArrays,
)
from worldbridge.models.procedural.raycast import View
from worldbridge.models.procedural.scene import Scene

__all__ = ["FACES", "PLANES", "ShapesInView", "draw_props", "shade_props", "shapes_in_view"]


# -- which props a camera sees ---------------------------------------------------------------------

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


# -- colour and light ------------------------------------------------------------------------------

_BOX_LIGHT = np.array([0.74, 0.92, 0.62, 1.04, 0.90, 0.82])  # faces towards -x, +x, -y, +y, -z, +z
_AMBIENT, _SUNLIGHT = 0.80, 0.24
_HAZE = 0.85


def shade_props(
    scene: Scene, view: View, image: Tensor, near: Tensor, owner: Tensor, shapes: ShapesInView
) -> None:
    """Colour the pixels of `image` [3, H, W] whose `owner` [H, W] is the number of a shape's face.

    near: nearness [H, W] of what is seen.
    """
    pixel = (owner.view(-1) >= 0).nonzero().view(-1)
    face = owner.view(-1).index_select(0, pixel)
    row = torch.div(pixel, view.width, rounding_mode="floor")
    a = view.a.index_select(0, pixel - row * view.width)
    b = view.b.index_select(0, row)
    depth = near.view(-1).index_select(0, pixel).reciprocal_()
    table = torch.from_numpy(_face_table(scene, shapes)).to(image.device)
    value = table.index_select(1, face)  # [10, pixels]
    light = (value[0] * a).addcmul_(value[1], b).add_(value[2]).mul_(depth).add_(value[3])
    light.clamp_(_AMBIENT - _SUNLIGHT, _AMBIENT + _SUNLIGHT)
    color = value[4:7]
    if scene.props.pattern[shapes.index].any():
        _add_patterns(scene, shapes, color, face, a, b, depth)
    image.view(3, -1).index_copy_(1, pixel, color.mul_(light).add_(value[7:10]))


def _fog(scene: Scene, shapes: ShapesInView) -> NDArray[np.float64]:
    share: NDArray[np.float64] = np.clip(shapes.distance / scene.look.fog_range_m, 0.0, 1.0)
    return _HAZE * share[:, None] ** 2


def _face_table(scene: Scene, shapes: ShapesInView) -> NDArray[np.float32]:
    """Light plane and offset (4), colour (3), haze (3) of each numbered face, [10, n * FACES]."""
    fog, sun = _fog(scene, shapes), scene.props.sun[shapes.index]
    light = np.empty((len(fog), FACES, 4))
    light[:, :, :3] = _SUNLIGHT * np.einsum("ni,nij->nj", sun[:, :3], shapes.rays)[:, None]
    offset = (sun[:, :3] * shapes.origin).sum(1) + sun[:, 3]
    light[:, :, 3] = (_AMBIENT + _SUNLIGHT * offset)[:, None]
    is_box = shapes.kind == BOX
    light[is_box] = 0.0
    light[is_box, :, 3] = _BOX_LIGHT[shapes.faces[is_box]]
    color = scene.props.color[shapes.index] * np.array(scene.tint) * 255.0 * (1.0 - fog)
    haze = np.array(scene.look.fog_color) * 255.0 * fog
    rest = np.repeat(np.concatenate([color, haze], 1)[:, None], FACES, 1)
    table = np.concatenate([light, rest], 2).reshape(-1, 10)
    return np.ascontiguousarray(table.T, np.float32)


def _add_patterns(
    scene: Scene,
    shapes: ShapesInView,
    color: Tensor,
    face: Tensor,
    a: Tensor,
    b: Tensor,
    depth: Tensor,
) -> None:
    """Mix the second colour into `color` [3, pixels] where a pattern asks for it, in place."""
    patterns = scene.props.pattern[shapes.index]
    numbers = torch.from_numpy(np.repeat(patterns, FACES).astype(np.int32)).to(face.device)
    pattern = numbers.index_select(0, face)
    chosen = (pattern != PLAIN).nonzero().view(-1)
    shape = torch.div(face.index_select(0, chosen), FACES, rounding_mode="floor")
    difference = scene.props.second[shapes.index] - scene.props.color[shapes.index]
    difference = difference * np.array(scene.tint) * 255.0 * (1.0 - _fog(scene, shapes))
    rays = shapes.rays.transpose(0, 2, 1).reshape(-1, 9)
    table = np.concatenate([rays, shapes.origin, difference], 1).T.astype(np.float32)
    value = torch.from_numpy(np.ascontiguousarray(table)).to(face.device).index_select(1, shape)
    local = value[0:3] * a.index_select(0, chosen) + value[3:6] * b.index_select(0, chosen)
    local = (local + value[6:9]) * depth.index_select(0, chosen) + value[9:12]
    second = _pattern_mask(pattern.index_select(0, chosen), local)
    color.index_add_(1, chosen, value[12:15] * second)


def _pattern_mask(pattern: Tensor, local: Tensor) -> Tensor:
    """Where the second colour shows, float 0/1 [pixels]; local: unit-space points [3, pixels]."""
    x, y, z = local
    waves = {
        SECTORS: x * z * (x * x - z * z),
        BANDS: torch.sin(y * 9.0),
        STRIPES: torch.sin(z * 12.0),
        PATCHES: torch.sin(x * 7 + z * 2) * torch.sin(y * 7) + 0.4 * torch.sin(z * 6) - 0.1,
    }
    second = torch.zeros_like(x)
    for kind, wave in waves.items():
        second += ((pattern == kind) & (wave > 0)).float()
    return second


# -- drawing ---------------------------------------------------------------------------------------


def draw_props(scene: Scene, state: CameraState, view: View, image: Tensor, near: Tensor) -> None:
    """Draw all visible props into `image` [3, H, W] (0..255) and nearness [H, W], in place."""
    shapes = shapes_in_view(scene.props, state, view)
    if not len(shapes.index):
        return
    owner = torch.full_like(near, -1, dtype=torch.int32)
    across = torch.from_numpy(shapes.across).to(near.device)
    down = torch.from_numpy(shapes.down).to(near.device)
    kinds, entering, limits = shapes.kind.tolist(), shapes.entering.tolist(), shapes.limit.tolist()
    for k, (y0, y1, x0, x1) in enumerate(shapes.boxes.tolist()):
        window = near[y0:y1, x0:x1]
        # Asking costs a synchronisation, which only pays on a CPU.
        if near.device.type == "cpu" and float(window.min()) > limits[k]:
            continue
        across_k, down_k = across[k, :, None, x0:x1], down[k, :, y0:y1, None]
        if kinds[k] == BOX:
            w, hit, face = _box(entering[k], across_k, down_k)
            hit &= w > window
            mine = owner[y0:y1, x0:x1]
            mine.copy_(torch.where(hit, face.to(torch.int32) + k * FACES, mine))
        else:
            w, hit = _quadric(kinds[k] == ELLIPSOID, across_k, down_k, window)
            owner[y0:y1, x0:x1].masked_fill_(hit, k * FACES)
        window.copy_(torch.where(hit, w, window))
    shade_props(scene, view, image, near, owner, shapes)


def _box(entering: int, across: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nearness, hit mask and entered face of a box.

    It is hit where the last of the `entering` planes (the first ones) comes before all others.
    """
    planes = across + down
    w, face = planes[:entering].min(0)
    return w, w > planes[entering:].amax(0), face


def _quadric(whole: bool, across: Tensor, down: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Nearness and visible mask of an ellipsoid (`whole`), or of a clipped cylinder or cone.

    Rows of the tables: under the root, half linear coefficient, height plane, mixed term, and the
    weight of nearness in the height. Misses have nearness NaN, which no comparison passes.
    """
    inner, half, height = across[:3] + down[:3]
    w = inner.addcmul_(across[3], down[3]).sqrt_().sub_(half)
    hit = w > window
    if not whole:
        hit &= height.addcmul_(w, down[4]).abs_() < w
    return w, hit
