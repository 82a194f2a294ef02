"""What the commands share: common options, progress, tables, and how errors end them.

rich is imported by the functions that need it: `worldbridge --help` has to be quick.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import typer

from worldbridge.errors import ConfigError, StartError, StructuredError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress
    from rich.table import Table

__all__ = [
    "Device",
    "Json",
    "ProgressReporter",
    "Quick",
    "check_out",
    "format_value",
    "named_values",
    "print_result",
    "progress_scope",
    "report_errors",
    "resolution_of",
    "table_of",
    "write_out",
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Quick = Annotated[bool, typer.Option("--quick", help="A shorter run with fewer samples.")]

_LINE_SECONDS: Final = 10.0


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


def resolution_of(text: str | None) -> tuple[int, int] | None:
    """Return the height and width that `--resolution` names. Raises typer.BadParameter."""
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise typer.BadParameter(
            f"expected HEIGHTxWIDTH such as 320x512, got {text!r}", param_hint="--resolution"
        )
    return int(height), int(width)


# --- progress and errors -------------------------------------------------------------------------


class ProgressReporter:
    """Report progress on standard error: a bar on a terminal, plain lines anywhere else."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._stage = ""
        self._line_due = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(f"worldbridge: {text}", markup=False, soft_wrap=True)

    def show(self, stage: str, fraction: float | None) -> None:
        """Show what is being done and how much of it is done: 0 to 1, None if unknown.

        Without a terminal this prints a line for each new stage, and then one every 10 s.
        """
        if not self._console.is_terminal:
            self._print_line(stage, fraction)
            return
        bar = self._bar = self._bar or self._open_bar()
        bar.update(bar.task_ids[0], description=stage, completed=fraction or 0.0)

    def close(self) -> None:
        """Remove the bar. May be called more than once."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print_line(self, stage: str, fraction: float | None) -> None:
        now = time.monotonic()
        if not stage or (stage == self._stage and now < self._line_due):
            return
        self._stage, self._line_due = stage, now + _LINE_SECONDS
        self.note(stage if fraction is None else f"{stage}: {fraction:.0%}")

    def _open_bar(self) -> Progress:
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        bar = Progress(
            TextColumn("worldbridge: {task.description:<40}"),
            BarColumn(),
            TextColumn("{task.percentage:5.1f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=4,  # the model needs the processor more
        )
        bar.start()
        bar.add_task("starting", total=1.0)
        return bar


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn a plain ValueError into a usage error; `main` prints structured errors itself."""
    try:
        yield
    except StructuredError:  # some are ValueErrors, too
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@contextmanager
def progress_scope() -> Iterator[Callable[[str, float], None]]:
    """Yield a function that shows progress, and report errors as `report_errors` does."""
    with report_errors(), ProgressReporter() as reporter:
        yield reporter.show


# --- results -------------------------------------------------------------------------------------


def print_result(
    data: Any, as_table: Callable[[Any], RenderableType], *, as_json: bool = False
) -> None:
    """Print a result on standard output, as one JSON object or as a table."""
    if as_json:
        print(json.dumps(data))
        return
    from rich.console import Console

    Console().print(as_table(data))


def table_of(*heads: str, numbers: int = 0, **settings: Any) -> Table:
    """Return an empty table. Its last `numbers` columns are aligned to the right."""
    from rich.table import Table

    table = Table(**settings)
    for place, head in enumerate(heads):
        right = place >= len(heads) - numbers
        table.add_column(head, justify="right" if right else "left")
    return table


def named_values(title: str, values: Mapping[str, Any]) -> Table:
    """Return a table of names and values. A value that is a mapping gets one row per entry."""
    table = table_of("measure", "value", numbers=1, title=title)
    for name, value in values.items():
        if isinstance(value, Mapping):
            for inner, item in value.items():
                table.add_row(f"{name}.{inner}", format_value(item))
        else:
            table.add_row(name, format_value(value))
    return table


def format_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return "-" if value is None else str(value)


def check_out(path: Path, option: str = "the file") -> None:
    """Check, before a long measurement, that a file can be written. Raises ConfigError."""
    expected = remedy = ""
    got = str(path)
    if not path.parent.is_dir():
        expected, remedy = f"{option} in a directory that exists", f"create {path.parent} first"
    elif path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        expected, remedy = f"{option} names a file that this user may write", "choose another file"
        got += ", a directory" if path.is_dir() else ", which is read-only"
    if expected:
        raise ConfigError("the result cannot be written", expected=expected, got=got, remedy=remedy)


def write_out(path: Path, text: str) -> None:
    """Write a result. Raises StartError if the file cannot be written after all."""
    try:
        path.write_text(text)
    except OSError as error:
        raise StartError("the result cannot be written", got=str(error)) from error
