"""`worldbridge export onnx`: a world's tokenizer as ONNX files, checked against PyTorch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldbridge.models.checkpoint import atomic_directory, check_out, load_tokenizer
from worldbridge.models.errors import ExportError
from worldbridge.models.export.check import check_export, demand, steps_for
from worldbridge.models.export.graphs import Graph, Pixels, Slot, build_graphs, memory_of
from worldbridge.models.export.manifest import (
    FILE,
    FORMAT,
    Exported,
    describe_graph,
    describe_slots,
)
from worldbridge.models.export.onnx_files import OPSET, require_exporter, write_onnx
from worldbridge.models.export.packages import optional, version_of
from worldbridge.models.export.runners import OnnxRunner
from worldbridge.models.progress import Progress, silent
from worldbridge.models.tokenizer import VideoTokenizer

__all__ = ["PARTS", "TOLERANCE", "Options", "Progress", "Source", "export_onnx", "open_source"]


PARTS = ("stream", "decoder", "encoder")
TOLERANCE = 1e-4  # of the largest value


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to export; None: as the world is served."""

    parts: frozenset[str] = frozenset(PARTS)
    resolution: tuple[int, int] | None = None  # height and width of the pictures
    window: int | None = None  # earlier latents that the temporal attention sees in a stream
    pixels: Pixels = "float"
    steps: int | None = None  # of the stream that is checked


@dataclass(frozen=True, slots=True)
class Source:
    """A world's tokenizer in float32, and the sizes that it is exported for."""

    world: dict[str, Any]  # the world.json
    tokenizer: VideoTokenizer
    grid: tuple[int, int]
    window: int | None

    def weights(self) -> int:
        """Bytes in float32."""
        return sum(4 * value.numel() for value in self.tokenizer.parameters())

    def slots(self, tokenizer: VideoTokenizer) -> tuple[Slot, ...]:
        return memory_of(tokenizer, self.grid, self.window)

    def graphs(self, tokenizer: VideoTokenizer, options: Options) -> list[Graph]:
        return build_graphs(tokenizer, self.grid, self.window, options.pixels, options.parts)

    def steps(self, options: Options) -> int:
        return steps_for(self.window) if options.steps is None else options.steps


def export_onnx(
    world: Path, out: Path, options: Options, progress: Progress | None = None
) -> dict[str, Any]:
    """Writes the folder `out` from the world in the folder `world`; returns its export.json.

    With onnxruntime every graph is run and compared with PyTorch before the folder appears.

    Raises:
        DamagedWorldError: weights are missing or damaged.
        ExportError: anything else that is not as it should be; nothing is left behind.
    """
    report = progress or silent
    check_out(out, ExportError)
    require_exporter()
    report("reading weights", 0.0)
    source = open_source(world, options)
    graphs = source.graphs(source.tokenizer, options)
    with atomic_directory(out, source.weights() * len(graphs), ExportError) as folder:
        described = write_graphs(graphs, folder, report, 0.5)
        data = describe_export(source, options, "onnx", "float32", described, source.tokenizer)
        data |= {"opset": OPSET, "check": _checked(folder, data, source, options, report)}
        (folder / FILE).write_text(json.dumps(data, indent=1) + "\n")
    report("finished", 1.0)
    return data


def open_source(world: Path, options: Options) -> Source:
    """Raises DamagedWorldError, and ExportError for sizes that do not fit the tokenizer."""
    if not options.parts or options.parts - set(PARTS):
        raise ExportError(
            "there is no such part of a tokenizer",
            expected=f"at least one of {', '.join(PARTS)}",
            got=", ".join(sorted(options.parts)) or "none",
            remedy="leave --part out for all of them",
        )
    manifest, tokenizer = load_tokenizer(world)
    try:
        latents, *grid = (int(x) for x in manifest["transformer"]["latent_shape"])
        height, width = grid
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"the world in {world} does not say how large its pictures are",
            expected="latent_shape [latents, height, width] in its world.json",
            got=f"{type(error).__name__}: {error}",
            remedy="copy the world again, or make it again",
        ).with_exit_code(5) from error
    if options.resolution is not None:
        height, width = _grid_of(options.resolution, tokenizer.config.spatial_compression)
    window = options.window
    if not tokenizer.config.attention:
        window = None  # nothing in it looks further back than its convolutions
    elif window is None:
        window = latents  # the one that serving uses
    return Source(manifest, tokenizer, (height, width), window)


def _grid_of(resolution: tuple[int, int], scale: int) -> tuple[int, int]:
    if any(side < scale or side % scale for side in resolution):
        raise ExportError(
            "the resolution does not fit the tokenizer",
            expected=f"a height and a width that are multiples of {scale}",
            got=f"{resolution[0]}x{resolution[1]}",
            remedy="choose the next multiples, or leave --resolution out for that of the world",
        )
    return resolution[0] // scale, resolution[1] // scale


def write_graphs(
    graphs: list[Graph], folder: Path, report: Progress, share: float
) -> dict[str, dict[str, Any]]:
    """Writes NAME.onnx of each; returns their descriptions by name."""
    described = {}
    for number, graph in enumerate(graphs):
        report(f"writing {graph.name}.onnx", share * number / len(graphs))
        path = folder / f"{graph.name}.onnx"
        write_onnx(graph, path)
        described[graph.name] = describe_graph(graph, path)
    return described


def describe_export(
    source: Source,
    options: Options,
    kind: str,
    precision: str,
    graphs: dict[str, dict[str, Any]],
    tokenizer: VideoTokenizer,
) -> dict[str, Any]:
    """The export.json; `tokenizer` is the one that was written, in its precision."""
    config, weights = tokenizer.config, source.world["files"]["tokenizer"]
    scale = config.spatial_compression
    return {
        "format": FORMAT,
        "kind": kind,
        "world": {key: source.world.get(key) for key in ("name", "title", "frames_per_second")},
        "weights": weights if isinstance(weights, list) else [weights],
        "made_with": {name: version_of(name) for name in ("worldbridge", "torch", "onnx")},
        "precision": precision,
        "pixels": options.pixels,
        "vocabulary": config.vocabulary,
        "grid": list(source.grid),
        "height": source.grid[0] * scale,
        "width": source.grid[1] * scale,
        "frames_per_latent": config.temporal_compression,
        "window": source.window,
        "graphs": graphs,
        "state": describe_slots(source.slots(tokenizer) if "stream" in options.parts else ()),
        "tokenizer": dataclasses.asdict(config),
    }


def _checked(
    folder: Path, data: dict[str, Any], source: Source, options: Options, report: Progress
) -> dict[str, Any] | None:
    """What the check found; None where there is no onnxruntime to run it."""
    if optional("onnxruntime") is None:
        return None
    exported = Exported.of(folder, data)
    findings = check_export(
        exported,
        OnnxRunner(exported),
        source.tokenizer,
        steps=source.steps(options),
        tolerance=TOLERANCE,
        progress=lambda stage, share: report(stage, 0.5 + 0.5 * share),
    )
    demand(findings)
    return {
        "against": f"torch {torch.__version__} on the CPU",
        "runtime": f"onnxruntime {version_of('onnxruntime')}",
        "findings": [finding.as_json() for finding in findings],
    }
