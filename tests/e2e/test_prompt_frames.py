"""A player's own prompt frames: on the page, in a program, on the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.chromium import Browser, Page
from tests.support.page import HEIGHT, WIDTH, grab, likeness
from tests.support.server import Server, serving
from worldbridge.bridge.protocol import BridgeError
from worldbridge.engine_plugins.python import Client, connect
from worldbridge.models.procedural import build_scene, render, soften, spawn

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CLI = [sys.executable, "-m", "worldbridge"]
ALIKE = 0.8  # the tokenizer is lossy; frames of two places are below 0.5


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("embedded") / "server.log"
    with serving(log, "--world", "embedded", "--seats", "2", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return two screenshots that are larger than the world, and two files that are no images."""
    folder = tmp_path_factory.mktemp("images")
    found = {"text": folder / "notes.txt", "fake": folder / "fake.png"}
    found["text"].write_text("not an image")
    found["fake"].write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    for name, theme in (("museum", "museum"), ("zoo", "zoo")):
        scene = soften(build_scene(theme, 5))
        shot = render(scene, spawn(scene, 5)).permute(1, 2, 0).numpy()
        found[name] = folder / f"{name}.png"
        Image.fromarray(shot).resize((1024, 640)).convert("RGBA").save(found[name])
    return found


def small(rgb: NDArray[np.uint8] | Path) -> NDArray[np.float32]:
    image = Image.open(rgb) if isinstance(rgb, Path) else Image.fromarray(rgb)
    return np.asarray(image.convert("L").resize((WIDTH, HEIGHT))).astype(np.float32)


async def _seen(client: Client) -> NDArray[np.float32]:
    """Return a frame that surely belongs to the last world that was asked for."""
    for _ in range(4):
        frame = await client.frame()
    return small(frame.rgb())


async def test_a_program_starts_from_its_screenshot(
    embedded: Server, files: dict[str, Path]
) -> None:
    async with connect(
        embedded.url, theme="museum", seed=1, prompt_frames=files["museum"]
    ) as client:
        async with asyncio.timeout(120):
            assert likeness(await _seen(client), small(files["museum"])) > ALIKE
            pixels = np.asarray(Image.open(files["zoo"]))
            client.start(theme="zoo", prompt_frames=[pixels] * 9)
            while likeness(await _seen(client), small(files["zoo"])) <= ALIKE:
                pass
            client.start(prompt_frames=[files["fake"]])
            while client.refusal is None:
                await client.frame()
            assert client.refusal.code == "bad_prompt_frame"
            assert likeness(await _seen(client), small(files["zoo"])) > ALIKE / 2
            client.start(theme="city", prompt_frames=[])
            while likeness(await _seen(client), small(files["zoo"])) > ALIKE / 2:
                pass


async def test_it_is_the_same_world_after_the_workers_death(
    embedded: Server, files: dict[str, Path]
) -> None:
    async with connect(embedded.url, theme="zoo", seed=1, prompt_frames=files["zoo"]) as client:
        async with asyncio.timeout(300):
            before = await client.frame()
            await asyncio.sleep(2.5)  # the session is saved once a second
            embedded.kill("worker")
            while client.status.state != "reconnecting":
                await asyncio.sleep(0.02)
            while client.status.state != "playing":
                await asyncio.sleep(0.02)
            while (after := await client.frame()).header.frame <= before.header.frame:
                pass
            assert likeness(small(after.rgb()), small(files["zoo"])) > ALIKE
            client.start()  # restart: the gateway still has the image
            assert likeness(await _seen(client), small(files["zoo"])) > ALIKE


async def test_a_rendered_world_refuses(procedural: Server, files: dict[str, Path]) -> None:
    async with connect(procedural.url, prompt_frames=files["zoo"]) as client, asyncio.timeout(60):
        with pytest.raises(BridgeError, match="bad_prompt_frame.*'procedural'"):
            await client.frame()


# --- the page -----------------------------------------------------------------------------------


async def _drag(
    page: Page, *paths: Path, kinds: tuple[str, ...] = ("dragEnter", "dragOver")
) -> None:
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in kinds:
        await page.call("Input.dispatchDragEvent", type=kind, x=500, y=300, data=data)


async def _drop(page: Page, *paths: Path) -> None:
    await _drag(page, *paths, kinds=("dragEnter", "dragOver", "drop"))


async def _shows(page: Page, file: Path, seconds: float = 120) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        [frame] = await grab(page, apart=2, limit_s=60)
        found = likeness(frame, small(file))
        if found > ALIKE:
            return
        assert asyncio.get_running_loop().time() < deadline, f"likeness {found:.2f}"


VISIBLE = "document.querySelector('{0}').checkVisibility()"
TOAST = "document.querySelector('#toasts').textContent.includes('{0}')"
TITLE = "document.querySelector('#hero-title').textContent"


@pytest.mark.browser
async def test_an_image_is_dropped_on_the_page_and_played(
    embedded: Server, browser: Browser, files: dict[str, Path]
) -> None:
    page = await browser.new_page()
    await page.open(f"{embedded.url}/?theme=museum&seed=1&video=jpeg")
    await page.until(VISIBLE.format("#prompt .prompt-choose"), 60)
    await _drag(page, files["museum"])
    assert await page.evaluate("document.querySelector('#drop').matches(':popover-open')")
    await _drop(page, files["text"])
    await page.until(TOAST.format("notes.txt is not"))
    await _drop(page, files["fake"])
    await page.until(TOAST.format("fake.png is damaged"))
    assert await page.evaluate(VISIBLE.format("#prompt .prompt-choose"))

    await _drop(page, files["museum"])
    await page.until(VISIBLE.format("#prompt .prompt-thumb"))
    assert not await page.evaluate("document.querySelector('#drop').matches(':popover-open')")
    assert await page.evaluate(TITLE) == "Your image"
    await page.evaluate("window.old = true")
    await page.call("Page.reload")  # the choice outlives it, in this tab
    # while the page is being built, not everything is there yet
    thumb = "document.querySelector('#prompt .prompt-thumb')?.checkVisibility()"
    await page.until(f"!window.old && {thumb} && {TITLE} === 'Your image'", 60)
    await page.evaluate("document.querySelector('#play').click()")
    await page.until("worldbridge.state === 'playing'", 120)
    assert await page.evaluate("worldbridge.session.promptFrames") == 1
    await _shows(page, files["museum"])

    await _drop(page, files["zoo"])  # in the running world: at once
    await _shows(page, files["zoo"])
    await page.evaluate("document.querySelector('#menu-button').click()")
    assert await page.evaluate(VISIBLE.format("#menu-prompt .prompt-thumb"))
    await page.evaluate("document.querySelector('#menu-prompt .prompt-clear').click()")
    await page.evaluate("document.querySelector('#menu-form').requestSubmit()")
    await page.until(
        "worldbridge.state === 'playing' && worldbridge.session.promptFrames === 0", 120
    )
    await page.call("Page.navigate", url="about:blank")
    assert not [line for line in page.log if line.startswith("exception")], page.log


@pytest.mark.browser
async def test_a_rendered_world_does_not_offer_it(
    procedural: Server, browser: Browser, files: dict[str, Path]
) -> None:
    page = await browser.new_page()
    await page.open(f"{procedural.url}/?theme=zoo&seed=3")
    await page.until("document.querySelector('#server-text').textContent.includes('Ready')", 60)
    assert not await page.evaluate(VISIBLE.format("#prompt"))
    await _drag(page, files["zoo"])
    said = await page.evaluate("document.querySelector('#drop').innerText")
    assert "Not in this world" in said and "rendered" in said
    await _drop(page, files["zoo"])  # the browser gives no drop to a page that takes none
    await page.until("!document.querySelector('#drop').matches(':popover-open')")
    assert await page.evaluate(TITLE) == "Zoo"
    assert await page.evaluate("worldbridge.state") == "idle"


# --- the command line ---------------------------------------------------------------------------


async def test_serve_and_profile_take_prompt_frames(tmp_path: Path, files: dict[str, Path]) -> None:
    prompt = ("--world", "embedded", "--prompt-frame", str(files["museum"]))
    with serving(tmp_path / "log", "--threads", "1", *prompt) as server:
        async with connect(server.url, theme="museum") as client, asyncio.timeout(120):
            assert likeness(await _seen(client), small(files["museum"])) > ALIKE
        command = [*CLI, "profile", server.url, "--seconds", "3", "--json"]
        result = await asyncio.to_thread(_run, [*command, "--prompt-frame", str(files["zoo"])])
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["world"] == "embedded"


@pytest.mark.parametrize(
    ("name", "world", "said"),
    [
        ("text", "embedded", "it is not an image"),
        ("missing", "embedded", "cannot read the prompt-frame"),
        ("fake", "embedded", "expected a PNG, JPEG or WebP file"),
        ("zoo", "procedural", "cannot start from these prompt frames"),
    ],
)
def test_serve_names_what_it_cannot_start_from(
    files: dict[str, Path], name: str, world: str, said: str
) -> None:
    path = files.get(name, Path("/nowhere/missing.png"))
    result = _run([*CLI, "serve", "--port", "0", "--world", world, "--prompt-frame", str(path)])
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert said in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 400}
    return subprocess.run(command, **options)
