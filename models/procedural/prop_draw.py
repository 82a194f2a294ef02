"""Drawing of props: analytic shapes in their screen boxes, depth-tested against the walls.

In a shape's unit space a pixel's ray is linear in the image coordinates (a, b). Working with
nearness w = 1 / depth, a box is then decided by linear functions of (a, b) alone, and a quadric by
one quadratic polynomial and its square root. This first pass only notes which shape is nearest at a
pixel; colour and light are computed afterwards, once per covered pixel.
"""

import torch
from torch import Tensor

from worldbridge.models.procedural.camera import CameraState
from worldbridge.models.procedural.prop_shade import shade_props
from worldbridge.models.procedural.prop_view import FACES, shapes_in_view
from worldbridge.models.procedural.props import BOX, ELLIPSOID
from worldbridge.models.procedural.raycast import View
from worldbridge.models.procedural.scene import Scene

__all__ = ["draw_props"]


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
