"""Camera conditioning: one ray per token, as Pluecker coordinates.

The recipe is that of arXiv 2501.03575, section 6.1.2, published for diffusion models: a ray is
r = (d, m) with the direction d and the moment m = c x d about the origin, where c is the camera's
center. Poses are relative to the first frame. The pose of a latent is that of its middle frame:
the 4th of 8.

Where our models differ from the published ones, and why:

- There the six numbers are concatenated to the latent, which a linear layer then embeds. That is
  the sum of two linear layers, and our tokens already have an embedding. So the second layer,
  `camera_embedding`, is added to it here. It starts at zero, so that a model trained without
  cameras keeps its outputs until it is trained on.
- A latent has h x w tokens, and a token's ray goes through the center of its patch.
- A position predicts the next token, so it receives the ray of that token, not of its own. What
  predicts the first token of a latent thus knows the new camera.

Poses are right-handed, +Y up, -Z ahead, metres, quaternions (x, y, z, w), and a vertical field of
view in degrees; pixels are square.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "POSE_DIM",
    "RAY_DIM",
    "check_poses",
    "middle_frame",
    "pluecker_rays",
    "predicted_rays",
    "rotation_matrix",
]

POSE_DIM = 8  # position x, y, z; rotation x, y, z, w; vertical field of view
RAY_DIM = 6  # direction, moment


def middle_frame(frames_per_latent: int) -> int:
    """Return which of a latent's frames its pose is of, counted from 1: the 4th of 8."""
    return max(1, frames_per_latent // 2)


def rotation_matrix(quaternion: Tensor) -> Tensor:
    """Convert quaternions [..., 4] (x, y, z, w) of any length but zero to matrices [..., 3, 3]."""
    x, y, z, w = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def pluecker_rays(poses: Tensor, first: Tensor, height: int, width: int) -> Tensor:
    """Return the rays of poses [..., 8] relative to the pose first [8].

    The result is float64 [..., height, width, 6].

    d = R_first^T R e and m = (R_first^T (c - c_first)) x d, where e is the unit vector through the
    center of a token in the camera's own axes. Computed in float64: a moment is a difference of
    positions that may be far from the origin.
    """
    poses, first = poses.double(), first.double()
    back = rotation_matrix(first[3:7]).transpose(-1, -2)
    turn = back @ rotation_matrix(poses[..., 3:7])
    centre = (back @ (poses[..., :3] - first[:3])[..., None])[..., 0]
    own = _token_directions(poses[..., 7], height, width)
    direction = (turn[..., None, None, :, :] @ own[..., None])[..., 0]
    moment = torch.linalg.cross(centre[..., None, None, :].expand_as(direction), direction)
    return torch.cat([direction, moment], dim=-1)


def _token_directions(fov_y: Tensor, height: int, width: int) -> Tensor:
    """Return unit vectors [..., height, width, 3] in the camera's axes for fields of view [...]."""
    half = (torch.deg2rad(fov_y) / 2).tan()[..., None, None]
    rows = torch.arange(height, dtype=torch.float64, device=fov_y.device)
    columns = torch.arange(width, dtype=torch.float64, device=fov_y.device)
    up = (1 - (2 * rows + 1) / height)[:, None] * half
    right = ((2 * columns + 1) / width - 1) * (width / height) * half
    right, up = torch.broadcast_tensors(right, up)
    vectors = torch.stack([right, up, -torch.ones_like(up)], dim=-1)
    unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit


def predicted_rays(poses: Tensor, height: int, width: int, begin_of_video: bool) -> Tensor:
    """Return the ray of each position of a clip, [n, 6], from poses [T, 8].

    n is the number of the clip's tokens, plus one with a begin-of-video token. The last position
    predicts nothing of the clip; its ray is zero. Used in training and tests.
    """
    rays = pluecker_rays(poses, poses[0], height, width).flatten(0, 2)
    behind = rays if begin_of_video else rays[1:]
    return torch.cat([behind, torch.zeros_like(rays[:1])])


def check_poses(poses: Tensor | None, count: int) -> None:
    """Raise ValueError unless these are `count` poses [count, 8] that a camera can have."""
    if poses is None or tuple(poses.shape) != (count, POSE_DIM):
        got = None if poses is None else tuple(poses.shape)
        raise ValueError(
            f"expected one camera pose per latent, {(count, POSE_DIM)} (position, quaternion "
            f"x y z w, vertical field of view), got {got}"
        )
    if not bool(poses.isfinite().all()):
        raise ValueError(f"camera poses must be finite, got {poses.tolist()}")
    lengths, views = poses[:, 3:7].norm(dim=-1), poses[:, 7]
    if bool(((lengths - 1).abs() > 0.02).any()):
        raise ValueError(f"rotations must be unit quaternions, got lengths {lengths.tolist()}")
    if not bool(((views > 0) & (views < 180)).all()):
        raise ValueError(f"fields of view must be in (0, 180) degrees, got {views.tolist()}")
