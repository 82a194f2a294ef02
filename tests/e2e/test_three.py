"""The npm package as npm packs it, and the three.js example with it in a headless Chromium."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
import math
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support import test_card
from tests.support.chromium import Browser, Page
from tests.support.client_server import LAST, client_server
from tests.support.depth_scene import BALL_M, depth_scene
from tests.support.npm import npm_package
from tests.support.server import serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 100.0  # software rendering beside other work is slow, not wrong
LIBRARY = ROOT / "engine_plugins" / "js"
EXAMPLE = ROOT / "examples" / "three"
CONSUMER = ROOT / "tests" / "web" / "consumer.ts"
# The screen pixel in which each pixel of the card is seen: [column, row, ...] in CSS pixels.
PROJECT = """
((width, height) => {
  const { screen, camera } = example;
  const pixels = [];
  for (let y = 0.5; y < height; y += 1)
    for (let x = 0.5; x < width; x += 1) {
      const at = screen.position.clone().set(x / width - 0.5, 0.5 - y / height, 0);
      screen.localToWorld(at).project(camera);
      pixels.push(Math.floor((at.x + 1) / 2 * innerWidth));
      pixels.push(Math.floor((1 - at.y) / 2 * innerHeight));
    }
  return pixels;
})(%d, %d)
"""


def npm(*arguments: str, folder: Path) -> str:
    """Return what npm prints. Skips the test without npm, or where npm reaches no registry."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    done = subprocess.run(
        ["npm", *arguments], cwd=folder, capture_output=True, text=True, timeout=240
    )
    if done.returncode and re.search(r"EAI_AGAIN|ENOTFOUND|ECONN|ETIMEDOUT|E404", done.stderr):
        pytest.skip(f"npm reaches no registry: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    name = npm("pack", "--silent", "--pack-destination", str(folder), folder=LIBRARY).strip()
    return folder / name


def test_the_package_holds_the_library_and_its_types(package: Path, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    npm("install", "--silent", "--offline", "--no-audit", str(package), folder=tmp_path)
    installed = tmp_path / "node_modules" / "@worldbridge" / "client"
    manifest = json.loads((installed / "package.json").read_text())
    files = {path.name for path in installed.iterdir()}
    sources = {path.name for path in LIBRARY.iterdir() if path.suffix in (".js", ".ts")}
    assert files == sources | {"package.json", "README.md"}
    assert all((installed / path).is_file() for path in manifest["exports"]["."].values())
    script = "import * as all from '@worldbridge/client'; console.log(Object.keys(all).join())"
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert {"Client", "Session", "sessionUrl", "protocol"} <= set(done.stdout.strip().split(","))


def test_a_program_in_typescript_compiles(package: Path, tmp_path: Path) -> None:
    tsc = npm_package("typescript", "5.9.3") / "bin" / "tsc"
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    npm("install", "--silent", "--offline", "--no-audit", str(package), folder=tmp_path)
    shutil.copy(CONSUMER, tmp_path)
    options = ["--noEmit", "--strict", "--module", "nodenext", "--target", "es2022"]
    command = ["node", str(tsc), *options, "--lib", "es2022,dom,dom.iterable", CONSUMER.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The example, installed and served as its README says."""
    folder = tmp_path_factory.mktemp("three") / "site"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    manifest = json.loads((folder / "package.json").read_text())
    manifest["dependencies"]["@worldbridge/client"] = f"file:{package}"
    (folder / "package.json").write_text(json.dumps(manifest))
    npm("install", "--silent", "--no-audit", "--no-fund", folder=folder)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


async def sampled(page: Page, tmp_path: Path) -> test_card.Pixels:
    """Return the card as the scene's camera sees it, one screen pixel for each of the card's."""
    pixels = await page.evaluate(PROJECT % (test_card.WIDTH, test_card.HEIGHT))
    columns, rows = np.array(pixels).reshape(-1, 2).T
    await page.screenshot(tmp_path / "screen.png")
    screen = np.asarray(Image.open(tmp_path / "screen.png").convert("RGB"))
    image: test_card.Pixels = screen[rows, columns].reshape(test_card.HEIGHT, test_card.WIDTH, 3)
    return image


async def test_the_test_card_stands_upright_on_the_mesh(
    site: str, browser: Browser, tmp_path: Path
) -> None:
    with client_server("whole", in_step=False) as server:
        page = await browser.new_page()
        await page.call("Page.navigate", url=f"{site}/?server={server.url}")
        await page.until(f"globalThis.example?.world.header?.frame === {LAST}", PATIENCE_S)
        rendered = await page.evaluate("example.rendered")
        await page.until(f"example.rendered > {rendered + 2}", PATIENCE_S)
        image = await sampled(page, tmp_path)
    assert test_card.read_number(image) == 23
    assert test_card.faults(image) == []
    assert not any(line.startswith("exception") for line in page.log), page.log


# Shows the frame from a pose, with a ball where it says, and returns the canvas as a PNG file.
COMPOSE = """
((pose, ball) => {
  const { renderer, scene, camera, ball: mesh, THREE } = example;
  renderer.setAnimationLoop(null);
  renderer.setPixelRatio(1);
  renderer.setSize(512, 320);
  camera.aspect = 512 / 320;
  camera.position.fromArray(pose.position);
  camera.quaternion.fromArray(pose.orientation);
  camera.fov = pose.fov_y;
  camera.updateProjectionMatrix();
  camera.updateMatrixWorld();
  mesh.visible = ball !== null;
  if (ball) {
    mesh.geometry = new THREE.SphereGeometry(ball[3], 64, 32);
    mesh.material = new THREE.MeshBasicMaterial({ color: 0xff00ff });
    mesh.position.fromArray(ball);
  }
  renderer.render(scene, camera);
  return renderer.domElement.toDataURL("image/png").split(",")[1];
})(%s, %s)
"""


async def test_the_worlds_walls_hide_an_object_of_the_scene(site: str, browser: Browser) -> None:
    scene = depth_scene()
    ball = json.dumps([*scene.centre, BALL_M])
    with client_server("whole", session=[scene.frame.fields()] * 3, in_step=False) as server:
        page = await browser.new_page()
        await page.call("Page.navigate", url=f"{site}/compositing.html?server={server.url}")
        shown = f"globalThis.example?.world.header?.frame === {LAST} && example.backdrop.visible"
        await page.until(shown, PATIENCE_S)

        async def compose(pose: Mapping[str, Any], ball: str) -> NDArray[np.uint8]:
            data = await page.evaluate(COMPOSE % (json.dumps(pose), ball))
            return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

        scene.check_ball(await compose(scene.frame.pose, ball))
        scene.check_reprojected([await compose(truth.pose, "null") for truth in scene.truths])
        (hello,) = server.of("hello")
    assert hello["depth"] is True
    assert not any("error" in line.lower() for line in page.log), page.log


async def test_a_room_is_given_to_a_world_that_draws_the_street(
    site: str, browser: Browser
) -> None:
    """The wall with the door is 4.3 m ahead, the eye 1.6 m above the floor."""
    conditionings = ("actions", "camera", "observations")
    with client_server("whole", conditionings=conditionings, answers=True) as server:
        page = await browser.new_page()
        await page.call("Page.navigate", url=f"{site}/street.html?server={server.url}")
        await page.until("globalThis.example?.guide.sent >= 1", PATIENCE_S)
        await page.until("Math.abs(example.world.seenFrom.elements[14] - 1.4) < 1e-3", PATIENCE_S)
        seen_from = await page.evaluate("[...example.world.seenFrom.elements]")
        await asyncio.to_thread(server.wait, lambda: bool(server.of("observe")), PATIENCE_S)
        view = server.of("observe")[0]["observation"]
        # an input says which frames were shown, and has states only where some were taken
        await asyncio.to_thread(
            server.wait, lambda: any(i["states"] for i in server.of("input")), PATIENCE_S
        )
        states = [state for i in server.of("input") for state in i["states"]]
        assert states[-1]["camera"] == view["camera"]
        assert not any("error" in line.lower() for line in page.log), page.log
    assert view["camera"] == {
        "position": [0.0, 1.6, 1.4],
        "orientation": [0.0, 0.0, 0.0, 1.0],
        "fov_y": 50.0,
    }
    assert view["fresh"] is False
    # frames come in the world's coordinates; they are placed in the scene's
    assert seen_from == pytest.approx(
        [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1.6, 1.4, 1], abs=1e-3
    )
    width, height = view["width"], view["height"]
    assert (width, height) == (320, 192)
    rgb = np.frombuffer(view["rgb"], np.uint8).reshape(height, width, 3)
    depth = np.frombuffer(view["depth"], "<u2").reshape(height, width) * view["depth_scale"]
    row = height // 2
    assert not depth[row, width // 2 - 20 : width // 2 + 20].any()  # the door
    assert np.abs(depth[row, 205:230] - 4.3).max() < 0.02
    bottom = math.tan(math.radians(25)) * (1 - 1 / height)
    assert np.abs(depth[-1, 150:170] - 1.6 / bottom).max() < 0.02
    wall = rgb[row, 205:230].astype(int)
    assert 40 < wall.min() and np.ptp(wall, axis=1).max() < 12  # grey


async def test_a_key_steers_the_world_on_the_mesh(
    site: str, browser: Browser, tmp_path: Path
) -> None:
    options = ("--world", "procedural", "--seats", "1", "--fps", "60", "--allow-origin", site)
    with serving(tmp_path / "log", *options) as server:
        page = await browser.new_page()
        await page.call("Page.navigate", url=f"{site}/?server={server.url}&theme=city&seed=7")
        await page.until("globalThis.example?.world.shown > 5", PATIENCE_S)
        where = "example.world.header.camera.position"
        before = await page.evaluate(where)
        await page.key("KeyW", down=True)
        await page.until(f"Math.hypot(...{where}.map((v, i) => v - {before}[i])) > 1", PATIENCE_S)
        await page.key("KeyW", down=False)
        counts = "[performance.now(), example.rendered, example.world.shown]"
        began = await page.evaluate(counts)
        await page.until(f"performance.now() > {began[0]} + 3000", PATIENCE_S)
        ended = await page.evaluate(counts)
        seconds = (ended[0] - began[0]) / 1000
        for name, first, last in zip(("rendered", "shown"), began[1:], ended[1:], strict=True):
            print(f"three.js at 60 frames/s: {(last - first) / seconds:.1f} {name} per second")
