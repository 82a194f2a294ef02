"""What is on the page's screen, as numbers, and how it moves."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from tests.e2e.chromium import Page

WIDTH, HEIGHT = 128, 80
Pictures = NDArray[np.float32]

# Draws the picture that the page shows (video or canvas) small and grey, each time a new frame is
# on the screen. Counted in frames, not in seconds: a busy machine is slow, not wrong.
_GRAB = """
(async (count, apart, limitMs) => {
  const shown = () => worldbridge.stats().page.frames.shown;
  const until = performance.now() + limitMs;
  const source = document.getElementById(worldbridge.session.video === "jpeg" ? "canvas" : "video");
  const small = new OffscreenCanvas(%(width)d, %(height)d).getContext("2d", {willReadFrequently: true});
  const grey = new Uint8Array(count * %(width)d * %(height)d);
  let at = 0;
  for (let i = 0; i < count; i++) {
    for (const next = shown() + apart; shown() < next;) {
      if (performance.now() > until) throw new Error(`${i} of ${count} pictures in ${limitMs} ms`);
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


async def grab(page: Page, count: int = 1, apart: int = 1, limit_s: float = 25.0) -> Pictures:
    """The next `count` pictures, `apart` frames apart; float32 [count, HEIGHT, WIDTH], 0..255."""
    numbers = {"count": count, "apart": apart, "limit": limit_s * 1000}
    script = _GRAB % {"width": WIDTH, "height": HEIGHT, **numbers}
    grey = np.frombuffer(base64.b64decode(await page.evaluate(script)), np.uint8)
    return grey.reshape(count, HEIGHT, WIDTH).astype(np.float32)


def likeness(a: Pictures, b: Pictures) -> float:
    """Correlation of two pictures: 1 the same, 0 unrelated."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def movement(before: Pictures, after: Pictures, reach: int = 24) -> int:
    """Columns by which the middle of the picture moved; right is positive."""
    middle = before[:, reach : WIDTH - reach]
    scores = {
        shift: likeness(middle, after[:, reach + shift : WIDTH - reach + shift])
        for shift in range(-reach, reach + 1)
    }
    return max(scores, key=lambda shift: scores[shift])


def movements(pictures: Pictures) -> list[int]:
    """Between neighbours that differ: a grab may find the same frame as the one before."""
    pairs = zip(pictures[:-1], pictures[1:], strict=True)
    return [movement(a, b) for a, b in pairs if float(np.abs(a - b).mean()) > 0.5]
