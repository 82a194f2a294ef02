"""The page's own latency table, as its download button offers it."""

from __future__ import annotations

from tests.e2e.chromium import Page

__all__ = ["read_latency_table"]

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
