"""`worldbridge bench`: how fast decoding and many players are on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from worldbridge.cli_errors import Json, Quick, watched
from worldbridge.errors import ConfigError, StartError

__all__ = ["bench"]

bench = typer.Typer(
    help="Measure the speed of this machine: decode modes, players.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

World = Annotated[str, typer.Option(help="World to measure: a name or a directory.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=256, help="CPU threads; without it, all cores.")
]
Out = Annotated[Path | None, typer.Option(help="File that the JSON is written to as well.")]


@bench.command()
def decode(
    world: World = "embedded",
    threads: Threads = None,
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Compare the decode modes of a world.

    Every mode draws the same stream. Reports the time of a forward, forwards and tokens per
    latent, frames per second, what share of the machine's memory bandwidth is used, and whether
    the tokens are those of sequential decoding, which is measured in the same run.
    --quick ends within a minute on two cores.
    """
    from worldbridge.runtime.bench.decode import bench_decode
    from worldbridge.tables import decode_table

    def work(progress: Any) -> dict[str, Any]:
        return bench_decode(world, quick=quick, threads=threads or _cores(), progress=progress)

    _report(work, decode_table, out, as_json)


@bench.command()
def players(
    world: World = "embedded",
    most: Annotated[int, typer.Option(min=1, max=64, help="Measure 1 to this many players.")] = 4,
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    quick: Quick = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find how many players a world carries at its frame rate.

    Steps one, two and more sessions together, pixels included.
    --quick ends within a minute on two cores.
    """
    from worldbridge.runtime.bench.players import bench_players
    from worldbridge.tables import players_table

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"expected cpu or cuda, got {device!r}", param_hint="--device")

    def work(progress: Any) -> dict[str, Any]:
        return bench_players(
            world,
            most=most,
            quick=quick,
            threads=threads or _cores(),
            device=device,
            progress=progress,
        )

    _report(work, players_table, out, as_json)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _report(
    work: Callable[[Any], dict[str, Any]],
    as_table: Callable[[dict[str, Any]], Any],
    out: Path | None,
    as_json: bool,
) -> None:
    from rich.console import Console

    if out is not None and not out.parent.is_dir():
        raise ConfigError(
            "the result cannot be written",
            expected="--out in a directory that exists",
            got=str(out),
            remedy=f"create {out.parent} first",
        )
    with watched() as progress:
        result = work(progress)
    if out is not None:
        try:
            out.write_text(json.dumps(result, indent=1) + "\n")
        except OSError as error:
            raise StartError("the result cannot be written", got=str(error)) from error
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(as_table(result))
