"""The command line, one module per command.

Nothing heavy is imported before a command runs, so that --help is quick.
"""

from __future__ import annotations

import sys

import typer

from worldbridge.cli.bench import bench
from worldbridge.cli.evaluate import evaluate
from worldbridge.cli.export import export
from worldbridge.cli.keys import keys, token
from worldbridge.cli.profile import profile
from worldbridge.cli.serve import serve
from worldbridge.cli.train import train
from worldbridge.cli.worlds import convert, worlds
from worldbridge.errors import StructuredError

__all__ = ["app", "main"]

app = typer.Typer(
    name="worldbridge",
    help="Real-time bridge between neural world models and game engines: a player's controls go "
    "in, video of a world that reacts to them comes out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command()
def version() -> None:
    """Print the versions of worldbridge, Python and PyTorch."""
    import platform
    from importlib.metadata import version as installed

    from worldbridge import __version__

    torch = installed("torch")
    print(f"worldbridge {__version__} (Python {platform.python_version()}, PyTorch {torch})")


app.command()(serve)
app.command()(token)
app.command()(profile)
app.command(name="eval")(evaluate)
app.command()(convert)
app.command()(worlds)
app.add_typer(bench, name="bench")
app.add_typer(export, name="export")
app.add_typer(keys, name="keys")
app.add_typer(train, name="train")


def main() -> None:
    """Run the command line. An error that says what to do ends it in one line, not a traceback."""
    try:
        app()
    except StructuredError as error:
        print(f"worldbridge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
