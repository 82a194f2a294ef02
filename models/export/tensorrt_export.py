"""`worldbridge export tensorrt`: a world's tokenizer as engines for the GPU of this machine."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldbridge.models.checkpoint import atomic_directory, check_out, describe_file
from worldbridge.models.errors import ExportError
from worldbridge.models.export.check import check_export, demand
from worldbridge.models.export.export import (
    TOLERANCE,
    Options,
    Progress,
    Source,
    describe_export,
    export_onnx,
    open_source,
    write_graphs,
)
from worldbridge.models.export.graphs import Graph
from worldbridge.models.export.manifest import FILE, Exported
from worldbridge.models.export.onnx_files import OPSET, require_exporter
from worldbridge.models.export.packages import require
from worldbridge.models.export.runners import TensorRTRunner
from worldbridge.models.export.tensorrt_engine import Range, build_engine
from worldbridge.models.progress import silent

__all__ = ["PRECISIONS", "TIMINGS", "TensorRTOptions", "engine_ranges", "export_tensorrt"]

TIMINGS = "timing.cache"
# the types of the weights, and how far from float32 in PyTorch each may be, of the largest value
PRECISIONS = {"float32": TOLERANCE, "float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTOptions:
    common: Options
    precision: str = "float32"  # one of PRECISIONS
    latents: int = 5  # the longest whole video that the decoder and the encoder take
    keep_onnx: bool = False
    timings: Path | None = None  # a timing cache of an earlier export


def export_tensorrt(
    world: Path, out: Path, options: TensorRTOptions, progress: Progress | None = None
) -> dict[str, Any]:
    """Writes the folder `out` with an engine for each graph; returns its export.json.

    Every engine is run on the GPU and compared with PyTorch in float32 before the folder appears.

    Raises:
        DamagedWorldError: weights are missing or damaged.
        ExportError: anything else. Nothing is left behind, except that with `keep_onnx` a machine
            without TensorRT or GPU still gets what `export_onnx` writes.
    """
    report = progress or silent
    check_out(out, ExportError)
    require_exporter()
    timings = _read_timings(options.timings)
    try:
        trt = _tensorrt()
    except ExportError as error:
        if not options.keep_onnx:
            raise
        export_onnx(world, out, options.common, report)
        error.message += f" (the ONNX files are in {out})"
        raise
    report("reading weights", 0.0)
    source = open_source(world, options.common)
    written = copy.deepcopy(source.tokenizer).to(getattr(torch, options.precision))
    graphs = source.graphs(written, options.common)
    with atomic_directory(out, 3 * source.weights() * len(graphs), ExportError) as folder:
        described = write_graphs(graphs, folder, report, 0.2)
        described = _build(trt, graphs, described, folder, source, options, timings, report)
        data = describe_export(
            source, options.common, "tensorrt", options.precision, described, written
        )
        data |= {
            "opset": OPSET,
            "tensorrt": trt.__version__,
            "gpu": torch.cuda.get_device_name(),
            "compute_capability": list(torch.cuda.get_device_capability()),
            "latents": options.latents,
        }
        data["check"] = _checked(folder, data, source, options, report)
        (folder / FILE).write_text(json.dumps(data, indent=1) + "\n")
    report("finished", 1.0)
    return data


def _build(
    trt: Any,
    graphs: list[Graph],
    described: dict[str, dict[str, Any]],
    folder: Path,
    source: Source,
    options: TensorRTOptions,
    timings: bytes,
    report: Progress,
) -> dict[str, dict[str, Any]]:
    """Writes NAME.engine of each ONNX file in `folder`; returns their descriptions by name.

    The ONNX files go unless they are to be kept.
    """
    built = {}
    for number, graph in enumerate(graphs):
        report(f"building {graph.name}.engine", 0.2 + 0.6 * number / len(graphs))
        onnx_file = folder / described[graph.name]["file"]
        engine, timings = build_engine(
            trt,
            graph.name,
            onnx_file.read_bytes(),
            engine_ranges(graph, source.tokenizer.config.temporal_compression, options.latents),
            tf32=False,
            timings=timings,
        )
        path = folder / f"{graph.name}.engine"
        path.write_bytes(engine)
        built[graph.name] = described[graph.name] | describe_file(path)
        if not options.keep_onnx:
            onnx_file.unlink()
    (folder / TIMINGS).write_bytes(timings)
    return built


def engine_ranges(graph: Graph, frames_per_latent: int, latents: int) -> dict[str, Range]:
    """Smallest, usual and largest shape of each input with a free axis."""
    sizes = {"latents": (1, latents), "frames": (1, 1 + frames_per_latent * (latents - 1))}
    ranges = {}
    for value in graph.inputs:
        if any(isinstance(axis, str) for axis in value.shape):
            least, most = (
                tuple(sizes[axis][i] if isinstance(axis, str) else axis for axis in value.shape)
                for i in (0, 1)
            )
            ranges[value.name] = (least, most, most)
    return ranges


def _tensorrt() -> Any:
    """The package, where there is a GPU to build for. Raises ExportError."""
    trt = require("tensorrt", "building TensorRT engines", "tensorrt")
    if int(trt.__version__.split(".")[0]) < 10:
        raise ExportError(
            "this TensorRT is too old",
            expected="version 10 or newer",
            got=trt.__version__,
            remedy="pip install --upgrade tensorrt",
        )
    if not torch.cuda.is_available():
        raise ExportError(
            "this machine has no GPU that PyTorch can use",
            expected="the NVIDIA GPU that the engines are for, its driver, and PyTorch for CUDA",
            got=f"PyTorch {torch.__version__}, no CUDA device",
            remedy="export on the machine that will run it, or take `worldbridge export onnx`",
        )
    return trt


def _read_timings(path: Path | None) -> bytes:
    try:
        return b"" if path is None else path.read_bytes()
    except OSError as error:
        raise ExportError(
            "the timing cache cannot be read",
            expected="a timing.cache of an earlier export",
            got=str(error),
            remedy="leave --timing-cache out to make a new one",
        ) from error


def _checked(
    folder: Path, data: dict[str, Any], source: Source, options: TensorRTOptions, report: Progress
) -> dict[str, Any]:
    exported = Exported.of(folder, data)
    # PyTorch rounds the factors of float32 convolutions on its own account otherwise
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        findings = check_export(
            exported,
            TensorRTRunner(exported),
            source.tokenizer.to("cuda"),
            steps=source.steps(options.common),
            tolerance=PRECISIONS[options.precision],
            latents=min(3, options.latents),
            progress=lambda stage, share: report(stage, 0.8 + 0.2 * share),
        )
    demand(findings)
    return {
        "against": f"torch {torch.__version__} in float32 on the GPU",
        "runtime": f"TensorRT {data['tensorrt']}",
        "findings": [finding.as_json() for finding in findings],
    }
