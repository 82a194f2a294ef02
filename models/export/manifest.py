"""`export.json`: what a program needs to know to run the exported graphs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldbridge.models.checkpoint import check_file, describe_file
from worldbridge.models.errors import ExportError
from worldbridge.models.export.graphs import Graph, Pixels, Slot, Value
from worldbridge.models.tokenizer import TokenizerConfig

__all__ = ["FILE", "FORMAT", "Exported", "describe_graph", "describe_slots", "read_export"]

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
    """A graph's file with its checksum, and its inputs and outputs in their order."""
    return {
        **describe_file(path),
        "inputs": [_described(value) for value in graph.inputs],
        "outputs": [_described(value) for value in graph.outputs],
    }


def describe_slots(slots: Sequence[Slot]) -> list[dict[str, Any]]:
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


def _described(value: Value) -> dict[str, Any]:
    return {"name": value.name, "type": _NAMES[value.dtype], "shape": list(value.shape)}


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
        """Raises KeyError, TypeError and ValueError for data of another make."""
        pixels = data["pixels"]
        if pixels not in ("float", "bytes"):
            raise ValueError(f"pixels {pixels!r}")
        return cls(
            folder=folder,
            kind=str(data["kind"]),
            config=TokenizerConfig.from_dict(data["tokenizer"]),
            height=int(data["grid"][0]),
            width=int(data["grid"][1]),
            window=None if data["window"] is None else int(data["window"]),
            pixels=pixels,
            slots=tuple(
                Slot(
                    item["input"],
                    item["output"],
                    item["layer"],
                    _TYPES[item["type"]],
                    tuple(item["shape"]),
                )
                for item in data["state"]
            ),
            files=data["graphs"],
            outputs={
                name: tuple(
                    Value(item["name"], _TYPES[item["type"]], tuple(item["shape"]))
                    for item in graph["outputs"]
                )
                for name, graph in data["graphs"].items()
            },
        )

    def path(self, graph: str) -> Path:
        """The graph's file. Raises ExportError if it was not exported, or is another file now."""
        if graph not in self.files:
            raise ExportError(
                f"{self.folder} has no graph {graph!r}",
                expected=f"one of {', '.join(self.files)}",
                got=repr(graph),
                remedy="export it with --part",
            )
        return check_file(self.folder, self.files[graph], ExportError)


def read_export(folder: Path) -> Exported:
    """Raises ExportError for a folder that `worldbridge export` did not write."""
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
