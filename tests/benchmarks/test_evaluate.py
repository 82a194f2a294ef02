"""`worldbridge eval`: worlds of known quality score what they have to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.guided.test_world_training import NET, SMALL
from worldbridge.benchmarks.quality import routes
from worldbridge.benchmarks.quality.evaluate import (
    Evaluation,
    Plan,
    SceneRecord,
    evaluate,
    texture_measures,
)
from worldbridge.benchmarks.quality.features import (
    frechet_distance,
    load_reference,
    nearest_distances,
)
from worldbridge.benchmarks.quality.measures import (
    acutance,
    block_texture,
    psnr_db,
    sampson_error_px,
    texture_summary,
)
from worldbridge.benchmarks.quality.report import measure_rows, report_html
from worldbridge.benchmarks.quality.routes import held_out_scene, pose_of, view_of
from worldbridge.bridge.protocol import WorldSpec
from worldbridge.clock import now_ms
from worldbridge.models.guided.checkpoint import save_guided_world
from worldbridge.models.guided.tokenizer import GuidedTokenizer
from worldbridge.models.procedural.actions import ACTION_NAMES
from worldbridge.models.procedural.camera import CameraState, step_camera
from worldbridge.models.procedural.scene import THEMES, Scene
from worldbridge.models.transformer import VideoTransformer
from worldbridge.runtime.controls import control_specs
from worldbridge.runtime.errors import UnknownWorldError
from worldbridge.runtime.frames.i420 import rgb_to_i420
from worldbridge.runtime.worlds.contract import Controls, Synchronous, WorldFrame, WorldStart

pytestmark = pytest.mark.timeout(600)
HEIGHT, WIDTH = 160, 256
PLAN = Plan(1, 3, 3, ("city", "museum"), guesses=False, long_routes=False)


@dataclass(eq=False)
class Walker:
    scene: Scene
    camera: CameraState


class TruthWorld(Synchronous[Walker]):
    """Shows the truth of the scenes that the evaluation plays with seed 0; may change it."""

    spec = WorldSpec(
        name="truth",
        title="Truth",
        width=WIDTH,
        height=HEIGHT,
        fps=15.0,
        frames_per_latent=1,
        themes=THEMES,
        action_schema=control_specs(ACTION_NAMES),
        context_latents=0,
        kind="procedural",
        max_prompt_frames=1,
        conditionings=("actions",),
    )

    def open(self, start: WorldStart) -> Walker:
        assert start.prompt_frames is not None and start.prompt_frames.shape == (
            1,
            3,
            HEIGHT,
            WIDTH,
        )
        return Walker(*held_out_scene(start.theme, 0))

    def render(self, state: Walker, controls: Controls) -> WorldFrame:
        state.camera = self.moved(state, controls)
        view = view_of(state.scene, state.camera, HEIGHT, WIDTH)
        i420 = rgb_to_i420(self.seen(view.rgb.permute(2, 0, 1)))
        depth = (1.0 / view.nearness).numpy().tobytes() if controls.depth else None
        return WorldFrame(i420, pose_of(state.camera), now_ms(), now_ms(), depth=depth)

    def moved(self, state: Walker, controls: Controls) -> CameraState:
        return step_camera(state.scene, state.camera, controls.action)

    def seen(self, rgb: Tensor) -> Tensor:
        return rgb

    def save(self, state: Walker) -> bytes:
        raise NotImplementedError

    def load(self, data: bytes) -> Walker:
        raise NotImplementedError


class StuckWorld(TruthWorld):
    """Always shows its first picture."""

    def moved(self, state: Walker, controls: Controls) -> CameraState:
        return state.camera


class BlurredWorld(TruthWorld):
    """Shows the truth out of focus."""

    def seen(self, rgb: Tensor) -> Tensor:
        blurred = F.avg_pool2d(rgb[None].float(), 9, stride=1, padding=4, count_include_pad=False)
        return blurred[0].to(torch.uint8)


@pytest.fixture(autouse=True)
def short_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, actions in routes.REVISITS.items():
        half = len(actions) // 2
        short = actions[half - 4 : half + 4] if name != "circle" else actions
        monkeypatch.setitem(routes.REVISITS, name, short)


def evaluated(world: TruthWorld) -> tuple[dict[str, Any], Evaluation]:
    evaluation = Evaluation(world, PLAN)
    return evaluation.run(), evaluation


@cache
def truth() -> tuple[dict[str, Any], Evaluation]:
    return evaluated(TruthWorld())


def test_the_truth_scores_as_the_truth() -> None:
    result, evaluation = truth()
    for name in ("steepness", "edge_windows"):
        assert result[name] == result["real"][name] and set(result[name]) == {"1", "3"}
    assert all(value == 99.0 for value in result["kept_psnr_db"].values())
    assert 20 < min(result["real"]["kept_psnr_db"].values()) < 60
    assert all(value == 99.0 for value in result["revisit_psnr_db"].values())
    assert 25 < result["warp_consistency_db"]["1"] < 60
    assert result["still_change"] == 0.0
    assert result["yaw_following"] == result["move_following"] == 1.0
    assert result["next_frame_psnr_db"] == 99.0 > result["copy_last_psnr_db"]
    assert result["theme_accuracy"]["3"] == 1.0 and result["real"]["theme_accuracy"] > 0.9
    assert 0.5 < result["nearest_neighbour_ratio"] < 2.0
    assert set(result["themes"]) == {"city", "museum"}
    page = report_html(result, evaluation.records)
    assert page.count("data:image/webp") == 2 * 3 * 2 + 2 * 2 * 2 and "http" not in page
    assert ("kept_psnr_db.3", "99.0") in [row[:2] for row in measure_rows(result)]


def test_a_world_that_is_stuck_follows_nothing() -> None:
    result, _ = evaluated(StuckWorld())
    assert result["yaw_following"] == result["move_following"] == 0.0
    assert result["frozen_or_collapsed_rate"] == 1.0
    assert result["next_frame_psnr_db"] == result["copy_last_psnr_db"]
    assert max(result["kept_psnr_db"].values()) < 30


def test_blur_is_seen() -> None:
    result, _ = evaluated(BlurredWorld())
    assert result["steepness"]["3"] < 0.5 * result["real"]["steepness"]["3"]
    assert result["edge_windows"]["3"] < 0.5 * result["real"]["edge_windows"]["3"]
    sharp, _ = truth()
    assert result["frechet"] > sharp["frechet"]
    assert result["nearest_neighbour_ratio"] > sharp["nearest_neighbour_ratio"]


def test_steepness_tells_a_step_from_a_ramp() -> None:
    step = torch.zeros(32, 64, 3, dtype=torch.uint8)
    step[:, 4::8] = 200
    step[:, 5::8] = step[:, 6::8] = step[:, 7::8] = 200
    edges, steepness = acutance(step)
    assert edges == 0.5 and steepness == 1.0  # no column has an edge
    ramp = (torch.arange(64) * 3 % 256).to(torch.uint8)[None, :, None].expand(32, 64, 3)
    assert acutance(ramp)[0] == 0.0
    steep = (torch.arange(64) * 20 % 160).to(torch.uint8)[None, :, None].expand(32, 64, 3)
    assert acutance(steep)[1] == pytest.approx(1 / 7)


def test_sampson_error_tells_a_rigid_scene_from_one_that_bends() -> None:
    scene, start = held_out_scene("museum", 1)
    state = start
    for _ in range(4):
        state = step_camera(scene, state, (0.3, 1.0, 0.3, 0.0))
    before, after = (view_of(scene, camera) for camera in (start, state))
    first, last = pose_of(start), pose_of(state)
    error = sampson_error_px(before.rgb, after.rgb, first, last)
    assert error < 1.0
    bent = sampson_error_px(before.rgb, after.rgb.roll(6, 0), first, last)
    assert bent > max(1.5, 2 * error)
    assert math.isnan(sampson_error_px(before.rgb, after.rgb, first, first)), "no baseline"


def test_psnr_of_masked_pixels_alone() -> None:
    a, b = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    b[:4] = 255
    mask = torch.zeros(8, 8, dtype=torch.bool)
    assert torch.isnan(torch.tensor(psnr_db(a, b, mask)))
    mask[0] = True
    assert psnr_db(a, b, mask) == 0.0 and psnr_db(a, a) == 99.0


def test_frechet_distance_of_normal_distributions() -> None:
    torch.manual_seed(0)
    a = torch.randn(4000, 32)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(a, a + 2.0) == pytest.approx(4.0)
    assert frechet_distance(a, 3 * a) == pytest.approx(4.0, rel=0.1)
    assert nearest_distances(a[:5], a).max() == pytest.approx(0.0, abs=1e-2)


def test_the_classifier_is_small_and_knows_the_themes() -> None:
    reference = load_reference()
    for theme in THEMES:
        found = reference.themes(reference.held_out[theme])
        assert sum(name == theme for name in found) > 0.9 * len(found)


def test_patchy_noise_is_punished_though_its_edges_are_steep() -> None:
    scene, start = held_out_scene("museum", 0)
    everywhere = torch.ones(320, 512, dtype=torch.bool)
    torch.manual_seed(0)
    patches = F.interpolate(torch.randint(-60, 61, (1, 1, 45, 73)).float(), (320, 512))[0, 0]
    record = SceneRecord("museum")
    for yaw in (0.0, 1.0, 2.0):
        rgb = view_of(scene, replace(start, yaw=yaw)).rgb
        patchy = (rgb.float() + patches[..., None]).clamp(0, 255).to(torch.uint8)
        assert acutance(patchy)[0] > acutance(rgb)[0]
        assert acutance(patchy)[1] > 0.8
        record.texture.append(block_texture(patchy, everywhere))
        record.real_texture.append(block_texture(rgb, everywhere))
    found, real = texture_measures([record])
    assert real["texture_frechet"] < 0.1 and found["texture_frechet"] > 1.0
    assert found["edge_disorder"] > 1.5 * real["edge_disorder"]
    assert found["texture_octaves"]["8"] > 1.5 * real["texture_octaves"]["8"]
    assert found["flat_share"] < 0.5 * real["flat_share"]


def test_texture_of_an_edge_and_of_noise() -> None:
    mask = torch.ones(64, 64, dtype=torch.bool)
    edge = torch.zeros(64, 64, 3, dtype=torch.uint8)
    edge[:, 21:] = 200
    found = texture_summary(block_texture(edge, mask))
    assert found["edge_disorder"] < 0.01 and found["flat_share"] > 0.8
    torch.manual_seed(0)
    noise = torch.randint(0, 256, (64, 64, 1), dtype=torch.uint8).expand(64, 64, 3)
    found = texture_summary(block_texture(noise, mask))
    # Differences across and down share a pixel, so half of the gradients of noise follow an edge.
    assert found["edge_disorder"] > 0.45 and found["flat_share"] == 0.0
    mask[:, :40] = False
    assert len(block_texture(edge, mask)) == 2


def test_scenes_are_played_in_processes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = replace(SMALL, height=64, width=96)
    save_guided_world(tmp_path / "world", GuidedTokenizer(sizes), VideoTransformer(NET))
    seen: list[float] = []
    result, records = evaluate(
        str(tmp_path / "world"), quick=True, threads=2, progress=lambda _, share: seen.append(share)
    )
    assert result["still_change"] == 0.0 and set(result["themes"]) == {"city", "museum"}
    assert result["world"] == "guided" and 0 < result["real"]["edge_windows"]["3"] < 1
    assert all(set(record.sheet) == {0, 1, 3} for record in records)
    assert [record.theme for record in records] == ["city", "museum"]
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_an_unknown_world_is_refused_before_processes_start() -> None:
    with pytest.raises(UnknownWorldError):
        evaluate("narnia", threads=2)
