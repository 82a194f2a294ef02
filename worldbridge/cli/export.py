"""`worldbridge export`: write a world's tokenizer for programs without PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldbridge.cli.console import print_result, progress_scope, resolution_of, table_of

if TYPE_CHECKING:
    from rich.table import Table

    from worldbridge.models.export import Options

__all__ = ["export"]

export = typer.Typer(
    help="Write a world's tokenizer for programs without PyTorch.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Part(StrEnum):
    stream = "stream"
    decoder = "decoder"
    encoder = "encoder"


class FrameType(StrEnum):
    float = "float"
    bytes = "bytes"


class WeightDtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


World = Annotated[str, typer.Option(help="World to export: a name or a directory.")]
Out = Annotated[Path, typer.Option(help="Directory to write. Must not exist.")]
Parts = Annotated[
    list[Part] | None,
    typer.Option(
        help="Graph to write; repeatable. stream decodes latent by latent.  [default: all three]"
    ),
]
Resolution = Annotated[
    str | None,
    typer.Option(help="Height x width of the frames, such as 320x512.  [default: the world's]"),
]
Window = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Earlier latents that the temporal attention of a stream sees.  [default: as served]",
    ),
]
FrameTypeOption = Annotated[
    FrameType, typer.Option(help="Frames as floats in [-1, 1], or as bytes for display.")
]
Steps = Annotated[
    int | None,
    typer.Option(min=2, help="Steps of the stream to check.  [default: past the window]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the export.json instead of a table.")]


@export.command()
def onnx(
    out: Out,
    world: World = "embedded",
    part: Parts = None,
    resolution: Resolution = None,
    window: Window = None,
    frame_type: FrameTypeOption = FrameType.float,
    steps: Steps = None,
    as_json: Json = False,
) -> None:
    """Write ONNX files: tokens in, frames out.

    decoder_first.onnx and decoder_next.onnx decode a stream, latent by latent, with its memory as
    inputs and outputs; decoder.onnx and encoder.onnx take whole videos. export.json describes all
    of them. Each file is run with onnxruntime and compared with PyTorch.

    Exit codes: 1 a graph disagrees with PyTorch, 2 something is missing or in the way, 4 there is
    no such world, 5 its weights are missing or damaged. Nothing is written then.
    """
    from worldbridge.models.export import export_onnx

    options = _options(part, resolution, window, frame_type, steps)
    data = _run(lambda progress: export_onnx(_folder_of(world), out, options, progress))
    _show(data, out, as_json)


@export.command()
def tensorrt(
    out: Out,
    world: World = "embedded",
    part: Parts = None,
    precision: Annotated[
        WeightDtype, typer.Option(help="Type of the weights and of the arithmetic.")
    ] = WeightDtype.float32,
    latents: Annotated[
        int, typer.Option(min=1, help="Longest whole video of decoder and encoder, in latents.")
    ] = 5,
    keep_onnx: Annotated[
        bool,
        typer.Option(
            "--keep-onnx", help="Also write the ONNX files, even if no engine can be built."
        ),
    ] = False,
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="timing.cache of an earlier export on this GPU; speeds up the build."),
    ] = None,
    resolution: Resolution = None,
    window: Window = None,
    frame_type: FrameTypeOption = FrameType.float,
    steps: Steps = None,
    as_json: Json = False,
) -> None:
    """Build TensorRT engines for the GPU of this machine.

    Builds the graphs of `export onnx` as engines that load on this GPU with this version of
    TensorRT, and writes a timing.cache and an export.json beside them. Each engine is run and
    compared with PyTorch.

    Exit codes: those of `export onnx`; 2 also if TensorRT or a GPU is missing.
    """
    from worldbridge.models.export import TensorRTOptions, export_tensorrt

    options = TensorRTOptions(
        common=_options(part, resolution, window, frame_type, steps),
        precision=precision.value,
        latents=latents,
        keep_onnx=keep_onnx,
        timings=timing_cache,
    )
    data = _run(lambda progress: export_tensorrt(_folder_of(world), out, options, progress))
    _show(data, out, as_json)


def _options(
    part: list[Part] | None,
    resolution: str | None,
    window: int | None,
    frame_type: FrameType,
    steps: int | None,
) -> Options:

    from worldbridge.models.export import Options

    return Options(
        parts=frozenset(item.value for item in part or Part),
        resolution=resolution_of(resolution),
        window=window,
        pixels=frame_type.value,
        steps=steps,
    )


def _folder_of(world: str) -> Path:
    """Return a world's folder. Raises UnknownWorldError, or ExportError without a tokenizer."""
    from worldbridge.models.checkpoint import EMBEDDED_WORLD
    from worldbridge.models.errors import ExportError
    from worldbridge.runtime.worlds.registry import directory_of

    folder = directory_of(world)
    if folder is None and world != "embedded":
        raise ExportError(
            f"the world {world!r} cannot be exported",
            expected="a world with a tokenizer that works alone",
            got="one that is rendered"
            if world == "procedural"
            else "one whose tokenizer draws beside a spatial memory",
            remedy="export embedded, or a directory made by `worldbridge train` or `convert`",
        )
    return folder or EMBEDDED_WORLD


def _run(work: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    with progress_scope() as progress:
        return work(progress)


def _show(data: dict[str, Any], out: Path, as_json: bool) -> None:
    print_result(data, lambda _: _table(data, out), as_json=as_json)
    checked = data["check"]
    if checked is None:
        print(
            "NOT CHECKED: onnxruntime is not installed, so no file was run; "
            "pip install 'worldbridge[export]' and export again",
            file=sys.stderr,
        )
    elif not as_json:
        for one in checked["findings"]:
            limit = f"at most {one['limit']:g}"
            print(f"checked {one['graph']}: {one['measure']} {one['value']:.2g} ({limit})")


def _table(data: dict[str, Any], out: Path) -> Table:
    title = f"{data['world']['name']} in {out}"
    table = table_of("file", "MB", "inputs", "outputs", numbers=3, title=title)
    for graph in data["graphs"].values():
        size = f"{graph['bytes'] / 1e6:,.1f}"
        table.add_row(graph["file"], size, *(_shapes(graph[x]) for x in ("inputs", "outputs")))
    return table


def _shapes(values: list[dict[str, Any]]) -> str:
    """Return the first value, and how many tensors of the stream's memory go with it."""
    first, *memory = values
    shape = "x".join(str(axis) for axis in first["shape"])
    return f"{first['name']} {shape}" + (f" + {len(memory)}" if memory else "")
