"""The HTML report of `worldbridge eval`: one file with its measures and contact sheets."""

from __future__ import annotations

import base64
import html
import io
import random
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from worldbridge.benchmarks.quality.evaluate import SceneRecord

__all__ = ["MEASURES", "measure_rows", "report_html"]

# name in the result, what a reader sees, the aim
MEASURES = (
    ("steepness", "steepness of edges (1: hard, 0.13: a ramp)", ">= 0.6"),
    ("edge_windows", "windows with an edge", ">= 0.08"),
    ("texture_frechet", "new areas: Frechet distance of texture to the truth", "<= 0.3"),
    ("edge_disorder", "new areas: share of the gradients that follow no edge", "as real"),
    (
        "texture_octaves",
        "new areas: contrast (grey levels) of details by size in pixels",
        "as real",
    ),
    ("flat_share", "new areas: share of flat windows", "as real"),
    ("kept_psnr_db", "what was seen at the start, PSNR to the truth (dB)", "26 / 24 / 22"),
    (
        "kept_psnr_db_estimated_depth",
        "the same from a start without depth, PSNR to the truth (dB)",
        "-",
    ),
    ("warp_consistency_db", "frame warped by its own depth to the next, PSNR (dB)", ">= 30"),
    ("sampson_error_px", "matches off the geometry of the cameras (pixels)", "as real"),
    ("theme_accuracy", "theme recognised", ">= 0.95"),
    ("revisit_psnr_db", "first frame when it comes back, PSNR (dB)", "40 / 35 / 30"),
    ("still_change", "change per frame while standing still (grey levels)", "0"),
    ("frechet", "Frechet distance to real frames", "<= 0.3"),
    ("frechet_real", "Frechet distance, real to real", "-"),
    ("nearest_neighbour_ratio", "distance to the training frames / that of real ones", "0.8 - 1.2"),
    ("yaw_following", "follows turns (share of trials)", "1"),
    ("move_following", "follows walking (share of trials)", "1"),
    ("walked_m", "straight ahead in 10 s (m)", "as real"),
    ("next_frame_psnr_db", "first moving frame, PSNR to the truth (dB)", "above copying"),
    ("copy_last_psnr_db", "the start copied instead, PSNR (dB)", "-"),
    ("frozen_or_collapsed_rate", "frozen or collapsed at the end", "0"),
)
_BLIND_PAIRS = 40
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1700px; padding: 0 1rem;
  background: #fff; color: #1b1b1b }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
.sheet { display: grid; gap: 4px; overflow-x: auto }
.sheet span { font-size: 13px; color: #555 }
img { width: 100%; display: block }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(540px, 1fr)); gap: 12px }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px }
.pair details { grid-column: 1 / 3; font-size: 13px }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #ddd }
  td, th { border-color: #333 } .sheet span { color: #999 } }
"""


def measure_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (measure, value, of real frames) of a result, one row for each second or route."""
    rows = []
    for name, *_ in MEASURES:
        value, real = result.get(name), result["real"].get(name)
        if not isinstance(value, Mapping):
            shown = None if isinstance(real, Mapping) else real
            rows.append((name, _number(value), _number(shown)))
            continue
        for key, item in value.items():
            beside = real.get(key) if isinstance(real, Mapping) else real
            rows.append((f"{name}.{key}", _number(item), _number(beside)))
    return rows


def report_html(result: Mapping[str, Any], records: Sequence[SceneRecord]) -> str:
    """Return a page that needs no other file."""
    title = html.escape(f"Evaluation of {result['world']}")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width"><style>' + _STYLE + "</style>",
        f"<h1>{title}</h1><p>{html.escape(result['scenes'])}. Start frames and truth are sharp "
        "renders; real values compare real frames with other real frames in the same way.</p>",
        "<h2>Contact sheets</h2><p>Above the world, below the truth under the same controls.</p>",
        *(_sheet(record) for record in records),
        "<h2>Measures</h2>",
        _table(result),
        _pairs(records),
        "</html>\n",
    ]
    return "\n".join(parts)


def _table(result: Mapping[str, Any]) -> str:
    themes: Mapping[str, Any] = result["themes"]
    columns = [dict((n, (v, r)) for n, v, r in measure_rows(part)) for part in themes.values()]
    texts = {name: (text, aim) for name, text, aim in MEASURES}
    heads = ["measure", "value", "real", "aim", *themes]
    rows = ["<tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>"]
    for name, value, real in measure_rows(result):
        measure, _, key = name.partition(".")
        text, aim = texts[measure]
        unit = "" if not key.isdigit() else " px" if measure == "texture_octaves" else " s"
        label = f"{text}, {key}{unit}" if key else text
        cells = [html.escape(label), value, real, html.escape(aim)]
        cells += [column.get(name, ("-", "-"))[0] for column in columns]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "<table>" + "".join(rows) + "</table>"


def _sheet(record: SceneRecord) -> str:
    marks = sorted(record.sheet)
    style = f"grid-template-columns: repeat({len(marks)}, minmax(256px, 1fr))"
    cells = [f"<span>{'start' if s == 0 else f'{s} s'}</span>" for s in marks]
    cells += [_image(record.sheet[s][row]) for row in (0, 1) for s in marks]
    return f'<h3>{record.theme}</h3><div class="sheet" style="{style}">{"".join(cells)}</div>'


def _pairs(records: Sequence[SceneRecord]) -> str:
    """Pairs of the world and the truth in random order, for a person to judge."""
    rng = random.Random(0)
    frames = [pair for r in records for second, pair in sorted(r.sheet.items()) if second]
    rng.shuffle(frames)
    cells = []
    for world, truth in frames[:_BLIND_PAIRS]:
        left = rng.random() < 0.5
        shown = (world, truth) if left else (truth, world)
        answer = "left" if left else "right"
        cells.append(
            f'<div class="pair">{_image(shown[0])}{_image(shown[1])}'
            f"<details><summary>which is the world?</summary>the {answer} one</details></div>"
        )
    return f'<h2>Blind pairs</h2><div class="pairs">{"".join(cells)}</div>'


def _image(frame: Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(frame.numpy()).save(file, "WEBP", quality=88, method=4)  # full size: no blur
    return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
