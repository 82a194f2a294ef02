"""`worldbridge keys` and `worldbridge token`: how clients and their server know each other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["keys", "token"]


keys = typer.Typer(
    help="Make and list the keys of ZeroMQ clients on other machines.", no_args_is_help=True
)
Folder = Annotated[Path, typer.Option(help="Folder of the keys, for `serve --zmq-keys`.")]
_DEFAULT = Path("keys")


@keys.command()
def make(
    name: Annotated[str, typer.Argument(help="`server` for the server's own, or a client's name.")],
    folder: Folder = _DEFAULT,
) -> None:
    """Write a new key pair.

    NAME.key_secret is for its owner alone: a client takes it along with server.key. NAME.key stays
    in the folder.
    """
    from worldbridge.bridge.transports.zeromq import make_keys

    pair = make_keys(folder, name)
    print(f"{pair.name} {pair.public.decode()} {folder / name}.key {folder / name}.key_secret")


@keys.command(name="list")
def list_(folder: Folder = _DEFAULT) -> None:
    """List the server's key and those of clients that may connect."""
    from worldbridge.bridge.transports.zeromq import list_keys

    for pair in list_keys(folder):
        secret = "" if pair.secret is None else "  (the secret key is in the folder, too)"
        print(f"{pair.name:20} {pair.public.decode()}{secret}")


def token(
    role: Annotated[
        Literal["player", "spectator", "engine"],
        typer.Option(help="What its bearer may be; a player may also watch, an engine all."),
    ] = "player",
    expires: Annotated[
        str, typer.Option(help="How long it is valid: a number with s, m, h or d.")
    ] = "2h",
    once: Annotated[
        bool, typer.Option("--once", help="Valid for one client; others are refused.")
    ] = False,
    secret: Annotated[
        str, typer.Option(envvar="WORLDBRIDGE_TOKEN", help="The secret of the server.")
    ] = "",
) -> None:
    """Make a token that lets a client play or watch.

    The token is signed, not encrypted; it says nothing of the secret. To end all tokens, give the
    server another secret.
    """
    from worldbridge.bridge.tokens import issue, seconds_of
    from worldbridge.errors import ConfigError

    if not secret.strip():
        raise ConfigError(
            "there is no secret to sign the token with",
            expected="the secret that the server was started with",
            got="none",
            remedy="set WORLDBRIDGE_TOKEN to it",
        )
    print(issue(secret, role, time.time() + seconds_of(expires), once))
