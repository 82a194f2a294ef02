"""`worldbridge export onnx`: a world's tokenizer as ONNX files, checked against PyTorch."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldbridge.models.checkpoint import atomic_directory, check_out, load_tokenizer
from worldbridge.models.errors import ExportError
from worldbridge.models.export.check import check_export, demand
from worldbridge.models.export.decoder import OnnxRunner, Runner
from worldbridge.models.export.graphs import Graph, Pixels, build_graphs, memory_of
from worldbridge.models.export.manifest import (
    FILE,
    FORMAT,
    Exported,
    describe_graph,
    describe_slots,
    package,
    version_of,
)
from worldbridge.models.progress import Progress, silent
from worldbridge.models.tokenizer import VideoTokenizer

__all__ = [
    "OPSET",
    "PARTS",
    "TOLERANCE",
    "Options",
    "Source",
    "check_graphs",
    "describe_export",
    "export_onnx",
    "open_source",
    "require_exporter",
    "write_graphs",
]

OPSET = 18  # the oldest one that the exporter writes: more programs can read it
PARTS = ("stream", "decoder", "encoder")
TOLERANCE = 1e-4  # of the largest value


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to export; None: as the world is served."""

    parts: frozenset[str] = frozenset(PARTS)
    resolution: tuple[int, int] | None = None  # height and width of the frames
    window: int | None = None  # past latents that the temporal attention sees in a stream
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
        """Return the bytes of all weights in float32."""
        return sum(4 * value.numel() for value in self.tokenizer.parameters())

    def graphs(self, tokenizer: VideoTokenizer, options: Options) -> list[Graph]:
        return build_graphs(tokenizer, self.grid, self.window, options.pixels, options.parts)


def export_onnx(
    world: Path, out: Path, options: Options, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the folder `out` from the world in the folder `world`; return its export.json.

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
        data |= {"opset": OPSET, "check": None}
        if importlib.util.find_spec("onnxruntime") is not None:
            data["check"] = check_graphs(
                folder,
                data,
                source,
                options,
                OnnxRunner,
                tolerance=TOLERANCE,
                progress=lambda stage, share: report(stage, 0.5 + 0.5 * share),
                against="on the CPU",
                runtime=f"onnxruntime {version_of('onnxruntime')}",
            )
        (folder / FILE).write_text(json.dumps(data, indent=1) + "\n")
    report("finished", 1.0)
    return data


def open_source(world: Path, options: Options) -> Source:
    """Load a world's tokenizer. Raises DamagedWorldError, and ExportError for wrong options."""
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
            f"the world in {world} does not say how large its frames are",
            expected="latent_shape [latents, height, width] in its world.json",
            got=f"{type(error).__name__}: {error}",
            remedy="copy the world again, or make it again",
        ).with_exit_code(5) from error
    if options.resolution is not None:
        height, width = _grid_of(options.resolution, tokenizer.config.spatial_compression)
    window = options.window
    if not tokenizer.config.attention:
        window = None  # nothing in it sees further back than its convolutions
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


def describe_export(
    source: Source,
    options: Options,
    kind: str,
    precision: str,
    graphs: dict[str, dict[str, Any]],
    tokenizer: VideoTokenizer,
) -> dict[str, Any]:
    """Return the export.json; `tokenizer` is the one that was written, in its precision."""
    config, weights = tokenizer.config, source.world["files"]["tokenizer"]
    scale = config.spatial_compression
    streams = "stream" in options.parts
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
        "state": describe_slots(
            memory_of(tokenizer, source.grid, source.window) if streams else ()
        ),
        "tokenizer": dataclasses.asdict(config),
    }


def check_graphs(
    folder: Path,
    data: dict[str, Any],
    source: Source,
    options: Options,
    run: Callable[[Exported], Runner],
    *,
    tolerance: float,
    progress: Progress,
    against: str,
    runtime: str,
    latents: int = 3,
) -> dict[str, Any]:
    """Compare the graphs in `folder` with PyTorch; return the findings for export.json.

    Raises ExportError where a difference is too large.
    """
    steps = options.steps
    if steps is None:  # until a stream's caches are full and have moved on
        steps = 4 if source.window is None else source.window + 3
    exported = Exported.of(folder, data)
    findings = check_export(
        exported,
        run(exported),
        source.tokenizer,
        steps=steps,
        tolerance=tolerance,
        progress=progress,
        latents=latents,
    )
    demand(findings)
    return {
        "against": f"torch {torch.__version__} {against}",
        "runtime": runtime,
        "findings": [finding.as_json() for finding in findings],
    }


# -- ONNX files -----------------------------------------------------------------------------------


def require_exporter() -> None:
    """Raise ExportError where a package that PyTorch's exporter needs is missing."""
    for name in ("onnx", "onnxscript"):
        package(name, "writing ONNX files", "export")


def write_graphs(
    graphs: list[Graph], folder: Path, report: Progress, share: float
) -> dict[str, dict[str, Any]]:
    """Write NAME.onnx of each graph, weights included; return their descriptions by name.

    Raises ExportError for a graph that PyTorch cannot export, and OSError for the disk.
    """
    described = {}
    for number, graph in enumerate(graphs):
        report(f"writing {graph.name}.onnx", share * number / len(graphs))
        path = folder / f"{graph.name}.onnx"
        path.write_bytes(_onnx(graph))
        described[graph.name] = describe_graph(graph, path)
    return described


def _onnx(graph: Graph) -> bytes:
    try:
        with _quiet():
            program = torch.onnx.export(
                graph.module,
                graph.arguments,
                input_names=[value.name for value in graph.inputs],
                output_names=[value.name for value in graph.outputs],
                dynamic_shapes=graph.dynamic,
                opset_version=OPSET,
                dynamo=True,  # the older exporter knows no RMS norm
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(
            f"the graph {graph.name} cannot be written as ONNX",
            expected="a tokenizer whose layers PyTorch's exporter knows",
            got=str(error)[:1000],
            remedy="report it with the world.json and the versions of torch and onnxscript",
        ) from error
    assert program is not None  # only the older exporter returns None
    model = program.model_proto
    # The exporter's notes name our source lines and their folders.
    body = model.graph
    parts = (body.node, body.initializer, body.input, body.output, body.value_info)
    for holder in (model, body, *(item for part in parts for item in part)):
        del holder.metadata_props[:]
    data: bytes = model.SerializeToString()
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, whose messages are about packages and internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
