"""The image in the README: `python -m tests.support.screenshots docs/images/playing.webp`.

A real server serves the guided world, Chromium plays four themes of it, and the screenshots
are put together into one image.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

from tests.support.chromium import Browser, chromium, find_chromium
from tests.support.server import serving

SCENES: Final = (("city", 1), ("museum", 1), ("zoo", 1), ("amusement_park", 1))
PAGE: Final = {"width": 1024, "height": 640, "deviceScaleFactor": 1, "mobile": False}
WIDTH, HEIGHT, COLUMNS = 720, 450, 2
WALK_S: Final = 1.5
TURN_S: Final = 0.4  # so that a strip at the side is drawn by the world
FADE_S: Final = 1.0  # of the hint that explains the keys


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with serving(folder / "log", "--world", "guided", "--seats", "1") as server:
            asyncio.run(_take(server.url, folder))
        shots = [Image.open(folder / f"{theme}.png").convert("RGB") for theme, _ in SCENES]
    rows = -(-len(shots) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * WIDTH, rows * HEIGHT))
    for place, shot in enumerate(shots):
        row, column = divmod(place, COLUMNS)
        sheet.paste(shot.resize((WIDTH, HEIGHT)), (column * WIDTH, row * HEIGHT))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, quality=82, method=6)


async def _take(url: str, folder: Path) -> None:
    binary = find_chromium()
    assert binary is not None, "no Chromium; name one with CHROMIUM=/path/to/chrome"
    async with chromium(binary) as browser:
        for theme, seed in SCENES:
            await _walk(browser, f"{url}/?autoplay=1&theme={theme}&seed={seed}", folder, theme)


async def _walk(browser: Browser, url: str, folder: Path, theme: str) -> None:
    page = await browser.new_page()
    await page.call("Emulation.setDeviceMetricsOverride", **PAGE)
    await page.open(url)
    await page.until("window.worldbridge && worldbridge.state === 'playing'", 300)
    for code, seconds in (("KeyW", WALK_S), ("ArrowLeft", TURN_S)):
        await page.key(code, down=True)
        await asyncio.sleep(seconds)
        await page.key(code, down=False)
    await page.until("document.body.dataset.hint === 'false'", 60)
    # the rates of whatever else runs here are no property of the world; bench world measures them
    await page.evaluate("document.getElementById('hud-pill').style.visibility = 'hidden'")
    await asyncio.sleep(FADE_S)
    await page.screenshot(folder / f"{theme}.png")
    await page.call("Page.navigate", url="about:blank")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
