"""`worldbridge serve`: its options are the fields of the configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from worldbridge.config import load_config, options
from worldbridge.settings import choices_of

__all__ = ["serve"]


def _serve_parameters() -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _optional(hint),
                typer.Option(
                    help=item.metadata["help"] + _shown(item.default),
                    envvar=item.metadata["env"],
                    metavar="|".join(choices_of(hint)) or None,
                ),
            ],
        )
        for name, item, hint in options()
    ]


def _optional(hint: Any) -> Any:
    """None stands for "not given", so that a configuration file can speak."""
    if choices_of(hint):
        return str | None
    return (list[get_args(hint)[0]] if get_origin(hint) is tuple else hint) | None  # type: ignore[misc]


def _shown(default: Any) -> str:
    return f" [default: {default}]" if default not in (None, ()) else ""


def _options_of_config(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces a command's **options by the settings of gateway and worker."""
    own = [
        p
        for p in inspect.signature(command, eval_str=True).parameters.values()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    parameters = [*_serve_parameters(), *own]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return command


@_options_of_config
def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with these settings by name. Options on the command line override it."
        ),
    ] = None,
    **given: Any,
) -> None:
    """Serve a world: the page, the network and the model.

    Prints one line "ready http://HOST:PORT" on standard output when the first frame can be
    served; everything else goes to standard error. Ctrl-C stops the server.

    Exit codes: 2 a setting is wrong, 3 the port is in use, 4 there is no such world, 5 its
    weights are missing or damaged, 6 a process of the server ended again and again.
    """
    from worldbridge.supervisor import run

    run(load_config(config, given))
