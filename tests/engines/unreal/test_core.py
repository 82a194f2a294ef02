"""The Unreal client's core against the example messages, poses and gamepads of every client."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.engines.unreal.native import FIXTURES, Build, run

pytestmark = pytest.mark.timeout(600)  # the core is compiled first
DIRECTIONS = ("client", "server")


def examples(kind: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return the messages between client and server, and what is known about each."""
    pages = [
        (path, json.loads(path.read_text())) for path in sorted((FIXTURES / kind).glob("*.json"))
    ]
    return [(path, page) for path, page in pages if page["direction"] in DIRECTIONS]


def results(build: Build, found: list[tuple[Path, dict[str, Any]]]) -> list[str]:
    lines = [f"{page['direction']} {path.with_suffix('.msgpack')}" for path, page in found]
    return run(build("core_test"), "messages", stdin="\n".join(lines)).splitlines()


def test_every_valid_message_is_read_and_written_again_byte_for_byte(build: Build) -> None:
    found = examples("valid")
    assert len(found) >= 25
    assert results(build, found) == ["ok"] * len(found)


def test_every_invalid_message_is_refused_with_its_code_and_path(build: Build) -> None:
    found = examples("invalid")
    assert len(found) >= 40
    answers = [line.rstrip() for line in results(build, found)]
    expected = [f"{page['code']} {page['path']}".rstrip() for _, page in found]
    names = [path.stem for path, _ in found]
    assert dict(zip(names, answers, strict=True)) == dict(zip(names, expected, strict=True))


def test_typed_messages_are_encoded_as_the_examples(build: Build) -> None:
    run(build("core_test"), "encode", FIXTURES / "valid")


def test_gamepads_are_sampled_as_the_example(build: Build) -> None:
    pads = json.loads((FIXTURES / "gamepads.json").read_text())
    example = json.loads((FIXTURES / "valid" / "client_input_gamepads.json").read_text())
    count = len(example["message"]["states"])
    order = [pads[0], *reversed(pads[1:])]  # the example's states are newest first
    lines = [" ".join(map(str, [*pad["axes"], *pad["pressed"]])) for pad in order]
    printed = run(build("core_test"), "gamepads", stdin="\n".join(lines))
    assert len(pads) > count, "the input carries the newest states, not all"
    assert (
        bytes.fromhex(printed)
        == (FIXTURES / "valid" / "client_input_gamepads.msgpack").read_bytes()
    )


def rotated(quaternion: list[float], vector: list[float]) -> list[float]:
    """Return a vector turned by a unit quaternion (x, y, z, w)."""
    x, y, z, w = quaternion
    a, b, c = vector
    s, t, u = (2 * (y * c - z * b), 2 * (z * a - x * c), 2 * (x * b - y * a))
    return [a + w * s + y * u - z * t, b + w * t + z * s - x * u, c + w * u + x * t - y * s]


def to_unreal(vector: list[float]) -> list[float]:
    """Return a direction of the protocol in Unreal's axes: X forward, Y right, Z up."""
    return [-vector[2], vector[0], vector[1]]


def test_poses_are_the_same_rotation_in_unreals_axes_and_come_back(build: Build) -> None:
    poses = json.loads((FIXTURES / "poses.json").read_text())
    aspect = 1.6
    lines = [
        " ".join(map(repr, [*pose["position"], *pose["orientation"], pose["fov_y"], aspect]))
        for pose in poses
    ]
    printed = run(build("core_test"), "poses", stdin="\n".join(lines)).splitlines()
    for pose, line in zip(poses, printed, strict=True):
        *numbers, same = map(float, line.split())
        assert same == 1, f"{pose['name']}: not the same after both conversions"
        position, rotation, fov_x = numbers[:3], numbers[3:7], numbers[7]
        assert position == pytest.approx([100 * v for v in to_unreal(pose["position"])])
        for axis in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]):
            turned = [sum(row[i] * axis[i] for i in range(3)) for row in pose["matrix"][:3]]
            # Turning, then changing axes, is the same as changing axes, then turning.
            assert rotated(rotation, to_unreal(axis)) == pytest.approx(to_unreal(turned), abs=1e-9)
        half = math.tan(math.radians(pose["fov_y"]) / 2) * aspect
        assert math.tan(math.radians(fov_x) / 2) == pytest.approx(half)


def test_session_input_clock_slot_and_websocket(build: Build) -> None:
    assert run(build("core_test"), "unit") == "ok\n"
