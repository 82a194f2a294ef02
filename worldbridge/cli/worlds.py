"""`worldbridge worlds` and `worldbridge convert`: the worlds that can be served, and new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldbridge.cli.console import (
    Json,
    print_result,
    progress_scope,
    report_errors,
    resolution_of,
    table_of,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from worldbridge.bridge.protocol import WorldSpec
    from worldbridge.runtime.worlds.load_report import LoadReport

__all__ = ["convert", "worlds"]


class Slide(StrEnum):
    """What happens to the latents that stay when the context of a stream is full."""

    reprefill = "reprefill"
    rotate = "rotate"


class Size(StrEnum):
    """The published Cosmos models."""

    auto = "auto"
    cosmos_4b = "4b"
    cosmos_5b = "5b"
    cosmos_12b = "12b"
    cosmos_13b = "13b"


def worlds(
    directories: Annotated[
        list[Path] | None,
        typer.Argument(help="Directories of worlds.  [default: the worlds known by name]"),
    ] = None,
    load: Annotated[
        bool,
        typer.Option(
            "--load", help="Load each world and report its parameters, memory and load time."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the worlds that can be served.

    Also lists the conditioning that each world takes: actions, camera, text.
    """
    from worldbridge.runtime.worlds.load_report import measure_load
    from worldbridge.runtime.worlds.registry import list_worlds, spec_of

    given = directories or []
    if load and not given:
        raise typer.BadParameter("name the directories to load", param_hint="--load")
    with report_errors():
        found = [spec_of(path) for path in given] if given else list_worlds()
        loaded = [measure_load(path) for path in given] if load else []
    data: dict[str, Any] = {"worlds": [world.as_dict() for world in found]}
    if load:
        data["loaded"] = [asdict(report) for report in loaded]
    print_result(data, lambda _: _tables(found, loaded), as_json=as_json)


def convert(
    path: Annotated[
        Path,
        typer.Argument(help="A model.pt, its folder, or the shards of a tensor-parallel model."),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write the world to. Must not exist.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder with encoder.jit and decoder.jit, or an autoencoder.pt.  [default: "
            "searched for beside PATH]"
        ),
    ] = None,
    size: Annotated[
        Size, typer.Option(help="Which published model this is; auto detects it.")
    ] = Size.auto,
    name: Annotated[
        str | None, typer.Option(help="Name of the world.  [default: the model's name]")
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(help="Height x width of the frames, such as 320x512; published: 640x1024."),
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames per second of the world.")] = 25.0,
    context_latents: Annotated[
        int | None,
        typer.Option(
            help="Context latents that each latent is sampled from.  [default: as many as the "
            "model was trained on]"
        ),
    ] = None,
    slide: Annotated[
        Slide,
        typer.Option(help="When the context is full: prefill the rest again, or rotate its keys."),
    ] = Slide.reprefill,
) -> None:
    """Convert a published Cosmos checkpoint into a world.

    Reads the weights of an autoregressive model and its video tokenizer, verifies every name and
    shape, and writes a directory with a world.json and safetensors files. Code in the checkpoint
    is never run. Needs a few gigabytes of memory, whatever the size of the model.

    Exit code 2: the source is not such a checkpoint, or the directory cannot be written. Nothing
    is left behind then.
    """
    from worldbridge.models.convert import convert as run_conversion

    with progress_scope() as progress:
        run_conversion(
            path,
            out,
            size=None if size is Size.auto else size.value,
            tokenizer=tokenizer,
            name=name,
            resolution=resolution_of(resolution),
            frames_per_second=fps,
            context=context_latents,
            slide=None if slide is Slide.reprefill else slide.value,
            progress=progress,
        )


def _tables(found: Sequence[WorldSpec], loaded: Sequence[LoadReport]) -> RenderableType:
    from rich.console import Group

    return Group(_worlds_table(found), *([_load_table(loaded)] if loaded else []))


def _worlds_table(found: Sequence[WorldSpec]) -> Table:
    table = table_of("world", "title", "frame", "frames/s", "takes", "themes")
    for world in found:
        frame = f"{world.width} x {world.height}"
        takes = ", ".join(world.conditionings) or "-"
        themes = ", ".join(world.themes)
        table.add_row(world.name, world.title, frame, f"{world.fps:g}", takes, themes)
    return table


def _load_table(reports: Sequence[LoadReport]) -> Table:
    heads = "parameters", "weights MB", "seconds", "peak memory MB", "before MB"
    table = table_of("world", *heads, numbers=len(heads))
    for report in reports:
        sizes = (report.weights, report.peak_memory, report.peak_memory_before)
        weights, peak, before = (f"{size / 1e6:,.0f}" for size in sizes)
        parameters, seconds = f"{report.parameters:,}", f"{report.seconds:.1f}"
        table.add_row(report.world, parameters, weights, seconds, peak, before)
    return table
