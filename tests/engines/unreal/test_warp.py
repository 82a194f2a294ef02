"""The Unreal client's reprojection: its arithmetic, and its material's code as HLSL and as C++."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engines.unreal.native import CORE, FIXTURES, FLAGS, HERE, PLUGIN, Build, compiler, run
from tests.support.depth_scene import SCALE, View, depth_scene, psnr, view
from worldbridge.models.procedural import CameraState, build_scene

SHADER = PLUGIN / "Shaders" / "WorldBackdrop.ush"
AXES = np.array([[0, 0, -1], [1, 0, 0], [0, 1, 0]])  # Unreal's X, Y, Z in the protocol's axes
PARAMETERS = (
    "float2 UV, float4 LevelColor, float LevelDepth, Texture2D Frame, SamplerState FrameSampler, "
    "Texture2D Depth, SamplerState DepthSampler, float4 ToFrameX, float4 ToFrameY, "
    "float4 ToFrameZ, float4 Tangents, float DepthScale, float Recede"
)

pytestmark = pytest.mark.timeout(600)  # programs are compiled first


def numbers(pose: Any) -> list[float]:
    return [*pose["position"], *pose["orientation"], pose["fov_y"]]


def test_the_warp_between_any_two_example_poses(build: Build) -> None:
    poses = json.loads((FIXTURES / "poses.json").read_text())
    pairs = [(frame, display) for frame in poses for display in poses]
    lines = [" ".join(map(repr, [*numbers(a), 1.6, *numbers(b), 2.0])) for a, b in pairs]
    printed = run(build("core_test"), "warps", stdin="\n".join(lines)).splitlines()
    for (frame, display), line in zip(pairs, printed, strict=True):
        found = np.array(line.split(), float)
        expected = np.linalg.inv(frame["matrix"]) @ np.array(display["matrix"])
        assert found[:9].reshape(3, 3) == pytest.approx(AXES @ expected[:3, :3] @ AXES.T, abs=1e-9)
        assert found[9:12] == pytest.approx(100 * AXES @ expected[:3, 3], abs=1e-6)
        halves = [math.tan(math.radians(pose["fov_y"]) / 2) for pose in (frame, display)]
        assert found[12:] == pytest.approx([1.6 * halves[0], halves[0], 2 * halves[1], halves[1]])


def test_the_materials_code_compiles_as_hlsl(tmp_path: Path) -> None:
    validator = shutil.which("glslangValidator")
    if validator is None:
        pytest.skip("no glslangValidator (on Debian: glslang-tools)")
    uniforms = PARAMETERS.replace("float2 UV, ", "").split(", ")
    names = [parameter.split()[1] for parameter in PARAMETERS.split(", ")]
    source = tmp_path / "material.frag"
    source.write_text(
        "".join(f"{uniform};\n" for uniform in uniforms)
        + "#define Texture2DSampleLevel(T, S, UV, Mip) T.SampleLevel(S, UV, Mip)\n"
        + f"float3 CustomExpression({PARAMETERS})\n{{\n{SHADER.read_text()}\n}}\n"
        + "float4 Fragment(float2 UV : TEXCOORD0) : SV_Target\n"
        + f"{{ return float4(CustomExpression({', '.join(names)}), 1.0); }}\n"
    )
    options = ["-D", "-V", "-S", "frag", "-e", "Fragment", "-o", tmp_path / "out"]
    done = subprocess.run([validator, *options, source], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program that runs the material's code on a CPU."""
    program = tmp_path_factory.mktemp("warp") / "warp_test"
    command = [compiler("g++", "clang++"), *FLAGS, "-O2", f"-I{CORE}", f'-DSHADER="{SHADER}"']
    run(*command, HERE / "warp_test.cpp", "-o", program, seconds=300)
    return program


def shown(
    program: Path,
    frame: View,
    cameras: Sequence[Any],
    depth_scale: float = 100 * 65535 * SCALE,
    level_depth: float = 1e9,
) -> list[NDArray[np.uint8]]:
    """Return what the material shows to each camera, uint8 [H, W, 3]."""
    height, width, _ = frame.rgb.shape
    message = struct.pack("<3i", width, height, len(cameras))
    message += struct.pack("<3d", depth_scale, width / height, level_depth)
    message += struct.pack("<8d", *numbers(frame.pose)) + frame.rgb.tobytes()
    message += np.clip(frame.depth / SCALE, 1, 65535).round().astype("<u2").tobytes()
    message += b"".join(struct.pack("<8d", *numbers(camera)) for camera in cameras)
    done = subprocess.run([program], input=message, capture_output=True, timeout=300, check=True)
    return list(np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3))


def test_a_frame_is_reprojected_to_a_camera_that_turns_and_walks(material: Path) -> None:
    scene = depth_scene()
    scene.check_reprojected(shown(material, scene.frame, [truth.pose for truth in scene.truths]))


@pytest.mark.parametrize("metres", [-0.4, 0.4])
def test_a_frame_is_reprojected_to_a_camera_beside_it(material: Path, metres: float) -> None:
    scene, city = depth_scene(), build_scene("city", 7, "cpu")
    camera = scene.camera
    across = metres * math.cos(camera.yaw), -metres * math.sin(camera.yaw)
    truth = view(city, CameraState(camera.x + across[0], camera.z + across[1], camera.yaw))
    (image,) = shown(material, scene.frame, [truth.pose])
    unwarped, warped = psnr(scene.frame.rgb, truth.rgb), psnr(image, truth.rgb)
    print(f"{metres} m beside: PSNR {warped:.1f} dB reprojected, {unwarped:.1f} dB as it came")
    assert warped > unwarped + 3


def test_a_frame_without_depth_is_turned(material: Path) -> None:
    scene = depth_scene()
    poses = [{**truth.pose, "position": scene.frame.pose["position"]} for truth in scene.truths]
    turned = shown(material, scene.frame, [truth.pose for truth in scene.truths], depth_scale=0)
    for image, same_place, truth in zip(
        turned, shown(material, scene.frame, poses), scene.truths, strict=True
    ):
        # With depth, a camera that only turns sees the same.
        assert np.array_equal(image, same_place)
        assert psnr(image, truth.rgb) > psnr(scene.frame.rgb, truth.rgb) + 1


def test_the_level_is_shown_where_it_is_nearer_than_the_world(material: Path) -> None:
    frame = depth_scene().frame
    (image,) = shown(material, frame, [frame.pose], level_depth=1000)
    level = (image == (255, 0, 255)).all(-1)
    clear = np.abs(frame.depth - 10) > 2 * SCALE
    assert 0.1 < level.mean() < 0.9
    assert np.array_equal(level[clear], (frame.depth > 10)[clear])
    assert np.abs(image[~level].astype(int) - frame.rgb[~level]).max() <= 1
