"""What is on the page's screen, as numbers, and how it moves."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from tests.support.chromium import Page

WIDTH, HEIGHT = 128, 80
Frames = NDArray[np.float32]

# Draws the frame that the page shows (video or canvas) small and grey, each time a new frame is
# on the screen. Counted in frames, not in seconds: a busy machine is slow, not wrong.
_GRAB = """
(async (count, apart, limitMs) => {
  const shown = () => worldbridge.stats().page.frames.shown;
  const until = performance.now() + limitMs;
  const source = document.getElementById(worldbridge.session.video === "webrtc" ? "video" : "canvas");
  const small = new OffscreenCanvas(%(width)d, %(height)d).getContext("2d", {willReadFrequently: true});
  const grey = new Uint8Array(count * %(width)d * %(height)d);
  let at = 0;
  for (let i = 0; i < count; i++) {
    for (const next = shown() + apart; shown() < next;) {
      if (performance.now() > until) throw new Error(`${i} of ${count} frames in ${limitMs} ms`);
      await new Promise((done) => setTimeout(done, 5));
    }
    small.drawImage(source, 0, 0, %(width)d, %(height)d);
    const { data } = small.getImageData(0, 0, %(width)d, %(height)d);
    for (let p = 0; p < data.length; p += 4) {
      grey[at++] = 0.3 * data[p] + 0.59 * data[p + 1] + 0.11 * data[p + 2];
    }
  }
  let text = "";
  for (let i = 0; i < grey.length; i += 8192) text += String.fromCharCode(...grey.subarray(i, i + 8192));
  return btoa(text);
})(%(count)d, %(apart)d, %(limit)d)
"""  # noqa: E501


async def grab(page: Page, count: int = 1, apart: int = 1, limit_s: float = 25.0) -> Frames:
    """Return `count` frames, `apart` frames apart: float32 [count, HEIGHT, WIDTH], 0 to 255."""
    numbers = {"count": count, "apart": apart, "limit": limit_s * 1000}
    script = _GRAB % {"width": WIDTH, "height": HEIGHT, **numbers}
    grey = np.frombuffer(base64.b64decode(await page.evaluate(script)), np.uint8)
    return grey.reshape(count, HEIGHT, WIDTH).astype(np.float32)


def likeness(a: Frames, b: Frames) -> float:
    """Return the correlation of two frames: 1 the same, 0 unrelated."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def movement(before: Frames, after: Frames, reach: int = 24) -> int:
    """Return the columns by which the middle of the frame moved; right is positive."""
    middle = before[:, reach : WIDTH - reach]
    scores = {
        shift: likeness(middle, after[:, reach + shift : WIDTH - reach + shift])
        for shift in range(-reach, reach + 1)
    }
    return max(scores, key=lambda shift: scores[shift])


def movements(frames: Frames) -> list[int]:
    """Between neighbours that differ: a grab may find the same frame as the one before."""
    pairs = zip(frames[:-1], frames[1:], strict=True)
    return [movement(a, b) for a, b in pairs if float(np.abs(a - b).mean()) > 0.5]


# The page's latency table, row by row, is what its download button offers.
_CSV = """
(async () => {
  const make = URL.createObjectURL;
  const text = new Promise((done) => {
    URL.createObjectURL = (blob) => { blob.text().then(done); return make.call(URL, blob); };
  });
  document.getElementById("hud-csv").click();
  const csv = await text;
  URL.createObjectURL = make;
  return csv;
})()
"""


async def read_latency_table(page: Page) -> list[dict[str, float]]:
    """One row per input: the frame that answered it, its legs in ms, and their total."""
    names, *lines = str(await page.evaluate(_CSV)).strip().splitlines()
    keys = names.split(",")
    return [dict(zip(keys, map(float, line.split(",")), strict=True)) for line in lines]
