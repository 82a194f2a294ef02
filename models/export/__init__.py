"""The tokenizer outside PyTorch: ONNX graphs and TensorRT engines, and how they are run."""

from __future__ import annotations

from worldbridge.models.errors import ExportError
from worldbridge.models.export.decoder import ExportedDecoder, OnnxDecoder, TensorRTDecoder
from worldbridge.models.export.export import Options, export_onnx
from worldbridge.models.export.tensorrt import TensorRTOptions, export_tensorrt

__all__ = [
    "ExportError",
    "ExportedDecoder",
    "OnnxDecoder",
    "Options",
    "TensorRTDecoder",
    "TensorRTOptions",
    "export_onnx",
    "export_tensorrt",
]
