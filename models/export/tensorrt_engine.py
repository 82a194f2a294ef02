"""One ONNX graph as a TensorRT engine, for the GPU of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldbridge.models.errors import ExportError

__all__ = ["Range", "build_engine"]

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, usual, largest shape


def build_engine(
    trt: Any, name: str, onnx: bytes, ranges: Mapping[str, Range], *, tf32: bool, timings: bytes
) -> tuple[bytes, bytes]:
    """(the serialised engine, the timing cache after it). Raises ExportError.

    Strongly typed: the types of the graph are those of the engine, in TensorRT 10 by this flag, in
    11 always.

    Args:
        trt: the package.
        ranges: shapes of the inputs that have a free axis.
        tf32: let float32 products round their factors to ten bits.
        timings: an earlier timing cache of this TensorRT and GPU, or nothing.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        told = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise _refused(trt, name, "a graph that its parser reads", told)
    config = builder.create_builder_config()
    if not tf32:
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
        got=got[:1000] or "no reason told",
        remedy="try another version of TensorRT, or use the ONNX files (`worldbridge export onnx`)",
    ).with_exit_code(1)
