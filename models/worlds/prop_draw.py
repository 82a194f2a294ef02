"""Drawing of props: analytic shapes in their screen boxes, depth-tested against the walls.

In a shape's unit space a pixel's ray is linear in the image coordinates (a, b). Working with
nearness w = 1 / depth, a box is then decided by linear functions of (a, b) alone, and a quadric by
one quadratic polynomial and its square root. This first pass only notes which shape is nearest at a
pixel; colour and light are computed afterwards, once per covered pixel.
"""

import torch
from torch import Tensor

from worldbridge.models.worlds.camera import CameraState
from worldbridge.models.worlds.prop_shade import shade_props
from worldbridge.models.worlds.prop_view import shapes_in_view
from worldbridge.models.worlds.props import BOX, ELLIPSOID
from worldbridge.models.worlds.raycast import View
from worldbridge.models.worlds.scene import Scene

__all__ = ["draw_props"]

_Plane = list[float]  # weights of (a, b, 1)


def draw_props(scene: Scene, state: CameraState, view: View, image: Tensor, near: Tensor) -> None:
    """Draw all visible props into `image` [3, H, W] (0..255) and nearness [H, W], in place."""
    shapes = shapes_in_view(scene.props, state, view)
    if not len(shapes.index):
        return
    owner = torch.full_like(near, -1, dtype=torch.int32)
    slabs, halves = shapes.slabs.tolist(), shapes.half.tolist()
    inners, ups = shapes.inner.tolist(), shapes.up.tolist()
    for k, (kind, box, limit) in enumerate(
        zip(shapes.kind.tolist(), shapes.boxes.tolist(), shapes.limit.tolist(), strict=True)
    ):
        y0, y1, x0, x1 = box
        window = near[y0:y1, x0:x1]
        # Asking costs a synchronisation, which only pays on a CPU.
        if near.device.type == "cpu" and float(window.min()) > limit:
            continue
        a, b = view.a[None, x0:x1] - shapes.middle[k, 0], view.b[y0:y1, None] - shapes.middle[k, 1]
        if kind == BOX:
            w, hit = _box(slabs[k], shapes.origin[k].tolist(), a, b)
        else:
            w, hit = _quadric(inners[k], halves[k], None if kind == ELLIPSOID else ups[k], a, b)
        hit &= w > window
        window.copy_(torch.where(hit, w, window))
        owner[y0:y1, x0:x1].masked_fill_(hit, k)
    shade_props(scene, view, image, near, owner, shapes)


def _plane(row: _Plane, a: Tensor, b: Tensor) -> Tensor:
    return (a * row[0] + row[2]) + b * row[1]


def _box(slabs: list[list[_Plane]], origin: list[float], a: Tensor,
         b: Tensor) -> tuple[Tensor, Tensor]:
    """Nearness and hit mask of a box: it is entered by the last of the planes it faces us with.

    slabs: per axis the nearness planes of its low and its high face.
    """
    entering: Tensor | None = None
    leaving: Tensor | None = None
    for o, (low_row, high_row) in zip(origin, slabs, strict=True):
        low, high = _plane(low_row, a, b), _plane(high_row, a, b)
        if abs(o) > 1.0:
            front, back = (high, low) if o > 0 else (low, high)
            entering = front if entering is None else torch.minimum(entering, front)
        else:
            back = torch.maximum(low, high)
        leaving = back if leaving is None else torch.maximum(leaving, back)
    assert leaving is not None
    if entering is None:  # the eye is inside
        return leaving, torch.zeros_like(leaving, dtype=torch.bool)
    return entering, entering > leaving


def _quadric(inner: list[float], half: _Plane, up: list[float] | None, a: Tensor,
             b: Tensor) -> tuple[Tensor, Tensor]:
    """Nearness and hit mask of an ellipsoid, cylinder or cone; misses have nearness NaN.

    inner: the polynomial under the root (aa, bb, cc, ab, ac, bc); up: height within the clip range
    (None for an ellipsoid), as a plane and a weight of the nearness.
    """
    aa, bb, cc, ab, ac, bc = inner
    terms = (a * (a * aa + ac) + cc) + b * (b * bb + bc)
    w = torch.addcmul(terms, a, b, value=ab).sqrt_().sub_(_plane(half, a, b))
    if up is None:
        return w, w > 0
    height = _plane(up[:3], a, b).add_(w, alpha=up[3])
    return w, height.abs_() < w
