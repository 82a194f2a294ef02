"""Graphs as ONNX files, by PyTorch's exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from worldbridge.models.errors import ExportError
from worldbridge.models.export.graphs import Graph
from worldbridge.models.export.packages import require

__all__ = ["OPSET", "require_exporter", "write_onnx"]

OPSET = 18  # the oldest one that the exporter writes: more programs can read it


def require_exporter() -> None:
    """Raises ExportError where a package that the exporter needs is missing."""
    for name in ("onnx", "onnxscript"):
        require(name, "writing ONNX files", "export")


def write_onnx(graph: Graph, path: Path) -> None:
    """One file that holds its weights. Raises ExportError, and OSError for the disk."""
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
    assert program is not None  # it is for the older exporter alone
    path.write_bytes(_plain(program.model_proto))


def _plain(model: Any) -> bytes:
    """The file without the exporter's notes, which name our source lines and where they lie."""
    body = model.graph
    parts = (body.node, body.initializer, body.input, body.output, body.value_info)
    for holder in (model, body, *(item for part in parts for item in part)):
        del holder.metadata_props[:]
    data: bytes = model.SerializeToString()
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes, which are about packages and internals that do not matter."""
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
