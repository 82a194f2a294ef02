"""`export.json`: what a program needs to know to run exported graphs; and the packages for it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from worldbridge.models.checkpoint import check_file, describe_file
from worldbridge.models.errors import ExportError
from worldbridge.models.export.graphs import Graph, Pixels, Slot, Value
from worldbridge.models.tokenizer import TokenizerConfig

__all__ = [
    "FILE",
    "FORMAT",
    "Exported",
    "describe_graph",
    "describe_slots",
    "package",
    "read_export",
    "version_of",
]

FILE = "export.json"
FORMAT = 1
_TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
    "uint8": torch.uint8,
}
_NAMES = {value: name for name, value in _TYPES.items()}


def describe_graph(graph: Graph, path: Path) -> dict[str, Any]:
    """Return the manifest's entry for a graph: its file, checksum, inputs and outputs in order."""
    described = {
        role: [
            {"name": value.name, "type": _NAMES[value.dtype], "shape": list(value.shape)}
            for value in values
        ]
        for role, values in (("inputs", graph.inputs), ("outputs", graph.outputs))
    }
    return describe_file(path) | described


def describe_slots(slots: Sequence[Slot]) -> list[dict[str, Any]]:
    """Return the manifest's entries for the tensors that a stream keeps."""
    return [
        {
            "input": slot.input,
            "output": slot.output,
            "type": _NAMES[slot.dtype],
            "shape": list(slot.shape),
            "layer": slot.layer,
        }
        for slot in slots
    ]


@dataclass(frozen=True, slots=True)
class Exported:
    """A folder of exported graphs, as its export.json describes it."""

    folder: Path
    kind: str  # onnx or tensorrt
    config: TokenizerConfig
    height: int  # of the latent grid
    width: int
    window: int | None
    pixels: Pixels
    slots: tuple[Slot, ...]
    files: Mapping[str, Mapping[str, Any]]  # by the name of the graph
    outputs: Mapping[str, tuple[Value, ...]]

    @classmethod
    def of(cls, folder: Path, data: Mapping[str, Any]) -> Exported:
        """Read a manifest. Raises KeyError, TypeError or ValueError for wrong data."""
        pixels = data["pixels"]
        if pixels not in ("float", "bytes"):
            raise ValueError(f"pixels {pixels!r}")

        def form(item: Mapping[str, Any]) -> tuple[torch.dtype, tuple[Any, ...]]:
            return _TYPES[item["type"]], tuple(item["shape"])

        return cls(
            folder=folder,
            kind=str(data["kind"]),
            config=TokenizerConfig.from_dict(data["tokenizer"]),
            height=int(data["grid"][0]),
            width=int(data["grid"][1]),
            window=None if data["window"] is None else int(data["window"]),
            pixels=pixels,
            slots=tuple(
                Slot(item["input"], item["output"], item["layer"], *form(item))
                for item in data["state"]
            ),
            files=data["graphs"],
            outputs={
                name: tuple(Value(item["name"], *form(item)) for item in graph["outputs"])
                for name, graph in data["graphs"].items()
            },
        )

    def path(self, graph: str) -> Path:
        """Return a graph's file. Raises ExportError if it is not the one that was exported."""
        if graph not in self.files:
            raise ExportError(
                f"{self.folder} has no graph {graph!r}",
                expected=f"one of {', '.join(self.files)}",
                got=repr(graph),
                remedy="export it with --part",
            )
        return check_file(self.folder, self.files[graph], ExportError)


def read_export(folder: Path) -> Exported:
    """Read a folder's manifest. Raises ExportError unless `worldbridge export` wrote it."""
    path = folder / FILE
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}")
        return Exported.of(folder, data)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            f"{folder} is not an exported tokenizer",
            expected=f"a {FILE} of format {FORMAT}",
            got=f"{type(error).__name__}: {error}",
            remedy="make one with `worldbridge export onnx --out DIR`",
        ) from error


def package(name: str, purpose: str, extra: str) -> Any:
    """Import an optional package. Raises ExportError that names our extra which installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"{purpose} needs a package that is not installed",
            expected=f"the package {name}",
            got=str(error),
            remedy=f"pip install 'worldbridge[{extra}]'",
        ) from error


def version_of(name: str) -> str | None:
    """Return an installed package's version; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
