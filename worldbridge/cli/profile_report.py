"""What `worldbridge profile` writes to files: an HTML report and a trace for Perfetto."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from worldbridge.engine_plugins.python.timing import SPANS, percentiles

if TYPE_CHECKING:
    from worldbridge.engine_plugins.python import ProfileResult

__all__ = ["html_report", "perfetto_trace"]

MAX_TRACED: Final = 10_000  # controls per scenario, the last ones
_BINS: Final = 40
_MOST_POINTS: Final = 2_000  # of a timeline
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720.0, 200.0, 46.0, 26.0  # of a plot, in CSS pixels
_PERCENTILES: Final = ("p50", "p95", "p99")
_COLOURS: Final = (
    *("#4e79a7", "#a0cbe8", "#f28e2b", "#ffbe7d", "#59a14f", "#8cd17d", "#b6992d", "#f1ce63"),
)

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8888; --ink: #4e79a7; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; } td.n, th.n { text-align: right; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: currentColor; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
"""


def html_report(url: str, results: Mapping[str, ProfileResult]) -> str:
    """Return one HTML page without outside resources: every scenario with its plots."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>worldbridge profile</title><style>{_STYLE}</style>",
        f"<h1>Input to photon at {html.escape(url)}</h1>",
        _overview(results),
    ]
    parts += [_scenario(name, result) for name, result in results.items()]
    return "\n".join(parts) + "\n"


def _overview(results: Mapping[str, ProfileResult]) -> str:
    head = "case", "frames/s", *(f"{p} ms" for p in _PERCENTILES), "dropped frames"
    rows = [
        (
            name,
            f"{result.frames_per_second:.1f}",
            *(f"{result.input_to_photon_ms[p]:.1f}" for p in _PERCENTILES),
            str(result.dropped_frames),
        )
        for name, result in results.items()
    ]
    return _table(head, rows)


def _scenario(name: str, result: ProfileResult) -> str:
    totals = [sum(sample.values()) for sample in result.samples]
    text = (
        f"{result.world}, {result.transport}, {result.seconds:.0f} s, {len(totals)} controls. "
        "Each control is followed from the moment at which it was read to the first decoded frame "
        "that answers it."
    )
    head = "span", "from -> to", *(f"{p} ms" for p in _PERCENTILES)
    rows = [
        (f"{_swatch(n)}{span}", html.escape(what), *_figures(result.spans_ms[span]))
        for n, (span, what) in enumerate(SPANS.items())
    ]
    rows.append(
        ("total", html.escape("control sampled -> frame"), *_figures(result.input_to_photon_ms))
    )
    return "\n".join(
        (
            f"<section><h2>{html.escape(name)}</h2><p>{html.escape(text)}</p>",
            "<h3>Where the time goes</h3>",
            _bar({span: summary["p50"] for span, summary in result.spans_ms.items()}),
            _table(head, rows),
            "<h3>Histogram</h3>",
            _histogram(totals),
            "<h3>Timeline</h3>",
            _timeline(result.sampled_ms, totals),
            "</section>",
        )
    )


def _figures(summary: Mapping[str, float]) -> Iterator[str]:
    return (f"{summary[p]:.1f}" for p in _PERCENTILES)


def _swatch(number: int) -> str:
    return f"<span class=swatch style='background:{_COLOURS[number]}'></span>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; what looks like a number is aligned to the right."""
    cells = "".join(f"<th{_right(cell, 'ms' in cell)}>{html.escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        cells = "".join(f"<td{_right(cell)}>{cell}</td>" for cell in row)
        lines.append(f"<tr>{cells}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def _right(cell: str, always: bool = False) -> str:
    return " class=n" if always or cell.replace(".", "").lstrip("-").isdigit() else ""


# --- plots ---------------------------------------------------------------------------------------


def _svg(height: float, *shapes: str) -> str:
    return f"<svg viewBox='0 0 {_WIDTH:g} {height:g}' role=img>{''.join(shapes)}</svg>"


def _bar(medians: Mapping[str, float]) -> str:
    """Return the medians of the spans, one behind the other."""
    total = sum(max(0.0, value) for value in medians.values()) or 1.0
    at, shapes = 0.0, []
    for number, (span, value) in enumerate(medians.items()):
        width = max(0.0, value) / total * _WIDTH
        title = f"<title>{span}: {value:.1f} ms</title>"
        shapes.append(
            f"<rect x='{at:.1f}' y='0' width='{width:.1f}' height='28' "
            f"fill='{_COLOURS[number]}'>{title}</rect>"
        )
        at += width
    return _svg(28, *shapes)


def _histogram(values: Sequence[float]) -> str:
    """Return how many controls took how long, with the percentiles as lines.

    The last bin holds everything beyond twice the 99th percentile.
    """
    marks = percentiles(values)
    top = _round_up(min(max(values), 2 * marks["p99"]))
    counts = [0] * _BINS
    for value in values:
        counts[max(0, min(_BINS - 1, int(value / top * _BINS)))] += 1
    most = max(counts)
    step = (_WIDTH - _LEFT) / _BINS
    shapes = [*_axes(top, "ms", most, "controls")]
    for number, count in enumerate(counts):
        height = count / most * (_HEIGHT - _BOTTOM)
        title = f"<title>{number * top / _BINS:.0f} ms and more: {count}</title>"
        shapes.append(
            f"<rect x='{_LEFT + number * step:.1f}' y='{_HEIGHT - _BOTTOM - height:.1f}' "
            f"width='{step - 1:.1f}' height='{height:.1f}' fill='var(--ink)'>{title}</rect>"
        )
    for name, value in marks.items():
        x = _LEFT + min(value / top, 1.0) * (_WIDTH - _LEFT)
        shapes.append(
            f"<line x1='{x:.1f}' x2='{x:.1f}' y1='0' y2='{_HEIGHT - _BOTTOM:g}' stroke='#e15759'/>"
            f"<text x='{x + 3:.1f}' y='11'>{name}</text>"
        )
    return _svg(_HEIGHT, *shapes)


def _timeline(times_ms: Sequence[float], values: Sequence[float]) -> str:
    """Return the latency of each control over the time at which it was read.

    Of many controls in a row, the slowest stands for them.
    """
    size = math.ceil(len(values) / _MOST_POINTS)
    points = [
        max(zip(values[at : at + size], times_ms[at : at + size], strict=True))
        for at in range(0, len(values), size)
    ]
    first = times_ms[0]
    seconds = max((times_ms[-1] - first) / 1000, 0.001)
    top = _round_up(max(values))
    shapes = [*_axes(seconds, "s", top, "ms")]
    for value, time in points:
        x = _LEFT + (time - first) / 1000 / seconds * (_WIDTH - _LEFT)
        y = (1 - value / top) * (_HEIGHT - _BOTTOM)
        shapes.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='1.3' fill='var(--ink)'/>")
    return _svg(_HEIGHT, *shapes)


def _axes(right: float, right_unit: str, top: float, top_unit: str) -> Iterator[str]:
    base = _HEIGHT - _BOTTOM
    yield f"<path d='M{_LEFT} 0V{base}H{_WIDTH}' fill='none' stroke='var(--line)'/>"
    for share in (0.0, 0.5, 1.0):
        anchor = "end" if share == 1.0 else "middle"
        x = _LEFT + share * (_WIDTH - _LEFT)
        label = f"{right * share:.3g} {right_unit}"
        yield f"<text x='{x:.0f}' y='{_HEIGHT - 8:.0f}' text-anchor='{anchor}'>{label}</text>"
    for share in (0.5, 1.0):
        y = (1 - share) * base + (11 if share == 1.0 else 4)
        label = f"{top * share:.3g}"
        yield f"<text x='{_LEFT - 4:.0f}' y='{y:.0f}' text-anchor='end'>{label}</text>"
    yield f"<text x='{_LEFT + 4:.0f}' y='11'>{top_unit}</text>"


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, ... that is not below a value."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= value)


# --- Perfetto ------------------------------------------------------------------------------------


def perfetto_trace(results: Mapping[str, ProfileResult]) -> str:
    """Return JSON in the Trace Event Format: a process per scenario, a track per control.

    Holds the last `MAX_TRACED` controls of each scenario.
    """
    events: list[dict[str, Any]] = []
    for process, (name, result) in enumerate(results.items(), 1):
        meta = {"name": "process_name", "ph": "M", "pid": process, "args": {"name": name}}
        events.append(meta)
        first = result.sampled_ms[0]
        pairs = list(zip(result.sampled_ms, result.samples, strict=True))[-MAX_TRACED:]
        for number, (sampled, sample) in enumerate(pairs):
            events += _control(process, number, sampled - first, sample)
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events}) + "\n"


def _control(
    process: int, number: int, at_ms: float, sample: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """Yield one control and its spans: nested asynchronous events, because controls overlap."""

    def event(phase: str, name: str, ms: float) -> dict[str, Any]:
        return {
            "name": name,
            "cat": "input",
            "ph": phase,
            "id": number,
            "pid": process,
            "tid": process,
            "ts": round(ms * 1000, 1),
        }

    total = sum(sample.values())
    yield event("b", "input to photon", at_ms)
    at = at_ms
    for span, ms in sample.items():
        end = max(at, at + ms)  # by estimated clocks, a span may be below zero
        yield event("b", span, at)
        yield event("e", span, end)
        at = end
    yield event("e", "input to photon", max(at, at_ms + total))
