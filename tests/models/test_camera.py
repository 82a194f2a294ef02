"""Camera rays: their geometry, and what they do to a model."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from worldbridge.models.conditioning.camera import (
    check_poses,
    middle_frame,
    pluecker_rays,
    predicted_rays,
    rotation_matrix,
)
from worldbridge.models.transformer import (
    KVCache,
    TransformerConfig,
    VideoTransformer,
    WavefrontConfig,
)

HEIGHT, WIDTH = 3, 5
CONFIG = TransformerConfig(
    dim=24,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    head_dim=12,
    ffn_hidden_size=32,
    vocab_size=50,
    latent_shape=(3, HEIGHT, WIDTH),
    camera="pluecker",
)


def pose(
    position: tuple[float, ...] = (0, 0, 0),
    rotation: tuple[float, ...] = (0, 0, 0, 1),
    fov: float = 60.0,
) -> Tensor:
    return torch.tensor([*position, *rotation, fov], dtype=torch.float64)


def random_poses(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    poses = torch.randn(count, 8, generator=generator, dtype=torch.float64)
    poses[:, 3:7] /= poses[:, 3:7].norm(dim=-1, keepdim=True)
    poses[:, 7] = 50.0
    return poses


def test_rotations_turn_as_our_conventions_say() -> None:
    """A quarter turn to the left about +Y takes ahead (-Z) to the left (-X)."""
    left = torch.tensor([0, math.sin(math.pi / 4), 0, math.cos(math.pi / 4)], dtype=torch.float64)
    ahead = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    turned = rotation_matrix(left) @ ahead
    torch.testing.assert_close(turned, torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64))
    matrix = rotation_matrix(random_poses(9)[:, 3:7])
    identity = torch.eye(3, dtype=torch.float64).expand(9, 3, 3)
    torch.testing.assert_close(matrix @ matrix.transpose(-1, -2), identity)


def test_the_first_camera_looks_through_its_own_picture() -> None:
    rays = pluecker_rays(pose((7, 8, 9)), pose((7, 8, 9)), HEIGHT, WIDTH)
    assert rays.shape == (HEIGHT, WIDTH, 6) and not rays[..., 3:].any()
    directions = rays[..., :3]
    middle = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(directions[1, 2], middle)
    assert directions[0, 2, 1] > 0 > directions[2, 2, 1], "row 0 is up"
    assert directions[1, 0, 0] < 0 < directions[1, 4, 0], "column 0 is left"
    # the upper border of the frame is half the field of view above the middle
    top = math.tan(math.radians(30)) * (2 / 3)  # the centre of the first of three rows
    torch.testing.assert_close(
        directions[0, 2, 1] / -directions[0, 2, 2], torch.tensor(top, dtype=torch.float64)
    )
    # pixels are square, so the horizontal field is wider by 5 / 3
    side = math.tan(math.radians(30)) * (5 / 3) * (4 / 5)
    torch.testing.assert_close(
        directions[1, 4, 0] / -directions[1, 4, 2], torch.tensor(side, dtype=torch.float64)
    )


def test_a_ray_of_the_reference_and_of_every_camera() -> None:
    """The formula once more, one token at a time, in coordinates of the first camera."""
    poses = random_poses(4, 3)
    rays = pluecker_rays(poses, poses[0], HEIGHT, WIDTH)
    base = rotation_matrix(poses[0, 3:7]).T
    half = math.tan(math.radians(25))
    for t in range(4):
        centre = base @ (poses[t, :3] - poses[0, :3])
        for row in range(HEIGHT):
            for column in range(WIDTH):
                x = ((column + 0.5) / WIDTH * 2 - 1) * WIDTH / HEIGHT * half
                y = (1 - (row + 0.5) / HEIGHT * 2) * half
                e = torch.tensor([x, y, -1.0], dtype=torch.float64)
                d = base @ rotation_matrix(poses[t, 3:7]) @ (e / e.norm())
                expected = torch.cat([d, torch.linalg.cross(centre, d)])
                torch.testing.assert_close(rays[t, row, column], expected)


def test_a_point_that_a_token_sees_lies_on_its_ray() -> None:
    poses = random_poses(6, 1)
    rays = pluecker_rays(poses, poses[0], HEIGHT, WIDTH)
    direction, moment = rays[..., :3], rays[..., 3:]
    torch.testing.assert_close(direction.norm(dim=-1), torch.ones(6, HEIGHT, WIDTH).double())
    assert float((direction * moment).sum(-1).abs().max()) < 1e-9
    base = rotation_matrix(poses[0, 3:7]).T
    centre = ((base @ (poses[:, :3] - poses[0, :3]).T).T)[:, None, None]
    point = centre + 2.5 * direction
    torch.testing.assert_close(torch.linalg.cross(point, direction), moment)


def test_where_the_world_lies_makes_no_difference() -> None:
    """Also far away: positions are subtracted before they are multiplied."""
    poses = random_poses(5, 2)
    moved = poses.clone()
    turn = random_poses(1, 8)[0, 3:7]
    x, y, z, w = turn.tolist()
    for t in range(5):
        a, b, c, d = poses[t, 3:7].tolist()
        moved[t, 3:7] = torch.tensor(
            [
                w * a + x * d + y * c - z * b,
                w * b - x * c + y * d + z * a,
                w * c + x * b - y * a + z * d,
                w * d - x * a - y * b - z * c,
            ],
            dtype=torch.float64,
        )
    moved[:, :3] = (rotation_matrix(turn) @ poses[:, :3].T).T + 1e5
    torch.testing.assert_close(
        pluecker_rays(moved, moved[0], HEIGHT, WIDTH),
        pluecker_rays(poses, poses[0], HEIGHT, WIDTH),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize(("frames", "middle"), [(1, 1), (2, 1), (4, 2), (8, 4)])
def test_the_middle_frame_is_the_fourth_of_eight(frames: int, middle: int) -> None:
    assert middle_frame(frames) == middle


def test_a_position_gets_the_ray_of_what_it_predicts() -> None:
    poses = random_poses(2)
    rays = pluecker_rays(poses, poses[0], HEIGHT, WIDTH).flatten(0, 2)
    plain, begun = (predicted_rays(poses, HEIGHT, WIDTH, begin) for begin in (False, True))
    assert torch.equal(plain[:-1], rays[1:]) and not plain[-1].any() and len(plain) == 30
    assert torch.equal(begun[:-1], rays) and not begun[-1].any() and len(begun) == 31


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: None, r"\(2, 8\).*got None"),
        (lambda p: p[:, :7], r"got \(2, 7\)"),
        (lambda p: p[:1], r"got \(1, 8\)"),
        (lambda p: p.index_fill(1, torch.tensor([0]), math.nan), "finite"),
        (lambda p: p * 2, "unit quaternions"),
        (lambda p: p.index_fill(1, torch.tensor([7]), 180.0), r"\(0, 180\) degrees"),
    ],
)
def test_what_is_no_camera_is_refused(change: object, message: str) -> None:
    poses = random_poses(2)
    check_poses(poses, 2)
    with pytest.raises(ValueError, match=message):
        check_poses(change(poses), 2)  # type: ignore[operator]


# -- the model ------------------------------------------------------------------------------------


def build(config: TransformerConfig) -> VideoTransformer:
    torch.manual_seed(0)
    return VideoTransformer(config).eval().requires_grad_(False)


def clip() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(50, (1, 45), generator=torch.Generator().manual_seed(1))
    return tokens, predicted_rays(random_poses(3), HEIGHT, WIDTH, False)[None]


def test_an_untrained_camera_leaves_a_checkpoint_as_it_was() -> None:
    plain = build(dataclasses.replace(CONFIG, camera="none"))
    model = build(CONFIG)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unexpected) == (["camera_embedding.weight"], [])
    tokens, rays = clip()
    assert torch.equal(model(tokens, rays=rays), plain(tokens))


def test_a_trained_camera_reaches_what_it_leads_to_and_nothing_before() -> None:
    model = build(CONFIG)
    torch.nn.init.normal_(model.camera_embedding.weight, std=0.2)
    tokens, rays = clip()
    first = model(tokens, rays=rays)
    later = rays.clone()
    later[:, 29:] += 1.0  # from the position on that predicts token 30, the third latent's first
    second = model(tokens, rays=later)
    assert torch.equal(first[:, :29], second[:, :29])
    assert (first[:, 29:] != second[:, 29:]).any(-1).all()


def test_prefill_and_cached_decode_are_equal() -> None:
    model = build(CONFIG)
    torch.nn.init.normal_(model.camera_embedding.weight, std=0.2)
    tokens, rays = clip()
    whole = model(tokens, rays=rays)
    cache = KVCache.allocate(CONFIG, 1, 45, model.norm.weight)
    parts = [20, *[1] * 25]
    pieces = [
        model(part, cache, rays=own)
        for part, own in zip(tokens.split(parts, 1), rays.split(parts, 1), strict=True)
    ]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-5)


def test_rays_are_wanted_or_refused() -> None:
    tokens, rays = clip()
    with pytest.raises(ValueError, match=r"takes camera rays \[B, S, 6\], got none"):
        build(CONFIG)(tokens)
    with pytest.raises(ValueError, match="no camera rays, got some"):
        build(dataclasses.replace(CONFIG, camera="none"))(tokens, rays=rays)


def test_the_config_knows_which_cameras_there_are() -> None:
    with pytest.raises(ValueError, match="unknown camera 'fisheye'"):
        dataclasses.replace(CONFIG, camera="fisheye")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token grid takes no camera"):
        dataclasses.replace(CONFIG, vocab_size=64, grid=WavefrontConfig(fsq_levels=(8, 8)))
    assert TransformerConfig.from_dict(CONFIG.to_dict()) == CONFIG
    old = CONFIG.to_dict()
    del old["camera"]
    assert TransformerConfig.from_dict(old).camera == "none"
