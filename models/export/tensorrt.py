"""`worldbridge export tensorrt`: a world's tokenizer as engines for the GPU of this machine."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldbridge.models.checkpoint import atomic_directory, check_out, describe_file
from worldbridge.models.errors import ExportError
from worldbridge.models.export.decoder import TensorRTRunner
from worldbridge.models.export.export import (
    OPSET,
    TOLERANCE,
    Options,
    Source,
    check_graphs,
    describe_export,
    export_onnx,
    open_source,
    require_exporter,
    write_graphs,
)
from worldbridge.models.export.graphs import Graph
from worldbridge.models.export.manifest import FILE, package
from worldbridge.models.progress import Progress, silent

__all__ = ["PRECISIONS", "TIMINGS", "TensorRTOptions", "engine_ranges", "export_tensorrt"]

TIMINGS = "timing.cache"
# the types of the weights, and how far from float32 in PyTorch each may be, of the largest value
PRECISIONS = {"float32": TOLERANCE, "float16": 2e-2, "bfloat16": 1e-1}

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, usual, largest shape


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTOptions:
    """What to export, and how."""

    common: Options
    precision: str = "float32"  # one of PRECISIONS
    latents: int = 5  # the longest whole video that the decoder and the encoder take
    keep_onnx: bool = False
    timings: Path | None = None  # a timing cache of an earlier export


def export_tensorrt(
    world: Path, out: Path, options: TensorRTOptions, progress: Progress | None = None
) -> dict[str, Any]:
    """Write the folder `out` with an engine for each graph; return its export.json.

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
        source.tokenizer.to("cuda")
        # otherwise PyTorch would round the factors of float32 convolutions
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            data["check"] = check_graphs(
                folder,
                data,
                source,
                options.common,
                TensorRTRunner,
                tolerance=PRECISIONS[options.precision],
                latents=min(3, options.latents),
                progress=lambda stage, share: report(stage, 0.8 + 0.2 * share),
                against="in float32 on the GPU",
                runtime=f"TensorRT {trt.__version__}",
            )
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
    """Write NAME.engine of each ONNX file in `folder`; return their descriptions by name.

    The ONNX files are removed unless they are to be kept.
    """
    built = {}
    for number, graph in enumerate(graphs):
        report(f"building {graph.name}.engine", 0.2 + 0.6 * number / len(graphs))
        onnx_file = folder / described[graph.name]["file"]
        ranges = engine_ranges(graph, source.tokenizer.config.temporal_compression, options.latents)
        engine, timings = _build_engine(trt, graph.name, onnx_file.read_bytes(), ranges, timings)
        path = folder / f"{graph.name}.engine"
        path.write_bytes(engine)
        built[graph.name] = described[graph.name] | describe_file(path)
        if not options.keep_onnx:
            onnx_file.unlink()
    (folder / TIMINGS).write_bytes(timings)
    return built


def engine_ranges(graph: Graph, frames_per_latent: int, latents: int) -> dict[str, Range]:
    """Return the smallest, usual and largest shape of each input with a free axis."""
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


def _build_engine(
    trt: Any, name: str, onnx: bytes, ranges: Mapping[str, Range], timings: bytes
) -> tuple[bytes, bytes]:
    """Build one engine; return it, serialized, and the timing cache after it.

    The types of the graph are those of the engine (strongly typed), in TensorRT 10 by this flag,
    in 11 always; float32 products do not round their factors. `ranges` are the shapes of inputs
    with a free axis; `timings` is an earlier timing cache of this TensorRT and GPU, or empty.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise _refused(trt, name, "a graph that its parser reads", reasons)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")  # the old one is of another version or GPU
        config.set_timing_cache(cache, False)
    if ranges:
        profile = builder.create_optimization_profile()
        for value, (smallest, usual, largest) in ranges.items():
            profile.set_shape(value, smallest, usual, largest)
        if config.add_optimization_profile(profile) < 0:
            raise _refused(trt, name, "shapes that fit the graph", str(dict(ranges)))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _refused(trt, name, "an engine", "none; its messages are above")
    return bytes(engine), bytes(cache.serialize())


def _refused(trt: Any, name: str, expected: str, got: str) -> ExportError:
    return ExportError(
        f"TensorRT {trt.__version__} cannot build the engine {name}",
        expected=expected,
        got=got[:1000] or "no reason given",
        remedy="try another version of TensorRT, or use the ONNX files (`worldbridge export onnx`)",
    ).with_exit_code(1)


def _tensorrt() -> Any:
    """Return the package if there is a GPU to build for. Raises ExportError."""
    trt = package("tensorrt", "building TensorRT engines", "tensorrt")
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
