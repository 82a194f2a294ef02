"""`worldbridge keys`: the key pairs with which ZeroMQ clients and their server know each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["keys"]

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
    """Write a new key pair: NAME.key, and NAME.key_secret for its owner alone.

    A client takes NAME.key_secret and server.key with it; its NAME.key stays in the folder.
    """
    from worldbridge.bridge.transports.zeromq import make_keys

    pair = make_keys(folder, name)
    print(f"{pair.name} {pair.public.decode()} {folder / name}.key {folder / name}.key_secret")


@keys.command(name="list")
def list_(folder: Folder = _DEFAULT) -> None:
    """Print name and public key of every pair: of the server, and of clients that may connect."""
    from worldbridge.bridge.transports.zeromq import list_keys

    for pair in list_keys(folder):
        secret = "" if pair.secret is None else "  (the secret key is in the folder, too)"
        print(f"{pair.name:20} {pair.public.decode()}{secret}")
