"""`worldbridge eval`: judge a world on scenes it was never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldbridge.cli.console import Json, Quick, print_result, progress_scope, table_of
from worldbridge.errors import ConfigError, StartError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["evaluate"]


def evaluate(
    world: Annotated[str, typer.Option(help="World to judge: a name or a directory.")] = "guided",
    seed: Annotated[int, typer.Option(min=0, help="Selects the scenes and the rollouts.")] = 0,
    threads: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that play scenes, of one thread each.")
    ] = 2,
    seconds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Play in the first scene of each theme; 600 shows drift.  [default: 60]"
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="HTML file to write measures and contact sheets to, in one piece."),
    ] = None,
    quick: Quick = False,
    as_json: Json = False,
) -> None:
    """Judge a world on scenes it was never trained on.

    Plays the world from sharp renders of plain scenes and compares it with the renders under the
    same controls: how crisp it is, what stays of what was seen, whether a place comes back as it
    was, whether it stands still, how far its frames are from real ones, and whether it follows
    the controls. Each measure stands beside that of real frames.
    --quick plays 3 seconds in one scene of two themes, within a minute on two cores.
    """
    from worldbridge.benchmarks.quality.evaluate import evaluate as run_evaluation
    from worldbridge.benchmarks.quality.report import report_html

    if report is not None and not report.parent.is_dir():
        raise ConfigError(
            "the report cannot be written",
            expected="--report in a directory that exists",
            got=str(report),
            remedy=f"create {report.parent} first",
        )
    with progress_scope() as progress:
        result, records = run_evaluation(world, quick, progress, seed, threads, seconds)
    if report is not None:
        try:
            report.write_text(report_html(result, records))
        except OSError as error:
            raise StartError("the report cannot be written", got=str(error)) from error
    print_result(result, _table, as_json=as_json)


def _table(result: Mapping[str, Any]) -> Table:
    from worldbridge.benchmarks.quality.report import measure_rows

    title = f"{result['world']}, {result['scenes']}"
    table = table_of("measure", "value", "of real frames", numbers=2, title=title)
    for row in measure_rows(result):
        table.add_row(*row)
    return table
