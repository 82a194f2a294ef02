"""What commands share besides their results: common options, progress, and how errors end them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from worldbridge.errors import ConfigError, StartError

__all__ = ["Json", "Quick", "report_errors", "resolution_of", "tell", "watched"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Quick = Annotated[bool, typer.Option("--quick", help="A shorter run with fewer samples.")]


def resolution_of(text: str) -> tuple[int, int]:
    """Height and width of `--resolution`."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise typer.BadParameter(
            f"expected HEIGHTxWIDTH such as 320x512, got {text!r}", param_hint="--resolution"
        )
    return int(height), int(width)


def tell(stage: str, fraction: float) -> None:
    """Progress where standard error is not a terminal."""
    print(f"{stage}: {fraction:4.0%}", file=sys.stderr)


@contextmanager
def report_errors() -> Iterator[None]:
    """What a user can put right ends the command as one line, not as a traceback."""
    # imported here: --help must not wait for them
    from worldbridge.models.errors import InputError
    from worldbridge.runtime.errors import WorldError

    try:
        yield
    except StartError:  # some are ValueErrors, too
        raise
    except WorldError as error:
        raise StartError.of(error, error.exit_code) from error
    except InputError as error:
        raise ConfigError.of(error) from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@contextmanager
def watched() -> Iterator[Callable[[str, float], None]]:
    """As `report_errors`, for long work, which is told its progress to."""
    from worldbridge.cli.progress_bars import progress_bar

    with report_errors(), progress_bar() as progress:
        yield progress or tell
