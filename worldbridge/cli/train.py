"""`worldbridge train`: train a small world on recorded play."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from worldbridge.cli.console import Quick, progress_scope

__all__ = ["train"]


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Stage(StrEnum):
    """The parts of the training recipe, in their order."""

    all = "all"
    data = "data"
    tokenizer = "tokenizer"
    world = "world"
    heads = "heads"


def train(
    out: Annotated[Path, typer.Option(help="Directory to write the finished world to.")],
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Training time of all stages together.")
    ] = 100.0,
    frames: Annotated[
        int | None,
        typer.Option(min=64, help="Frames of recorded play.  [default: depends on --minutes]"),
    ] = None,
    stage: Annotated[Stage, typer.Option(help="Part of the recipe to run.")] = Stage.all,
    resume: Annotated[
        Path | None, typer.Option(help="Directory of an earlier run to continue.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    quick: Quick = False,
) -> None:
    """Train a small world of your own on recorded play.

    Renders play in the procedural worlds, trains the video tokenizer, the transformer and its
    Medusa heads, and writes a directory that `serve --world` accepts. --stage heads adds heads to
    the result of an earlier run. Two CPU cores train a usable world in under two hours.
    """
    from worldbridge.models.training.cli import train as run_training

    with progress_scope() as progress:
        run_training(
            out=out,
            minutes=minutes,
            frames=frames,
            stage=stage.value,
            resume=resume,
            device=device.value,
            quick=quick,
            progress=progress,
        )
