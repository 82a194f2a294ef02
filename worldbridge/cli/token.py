"""`worldbridge token`: make a token for a player, a spectator or an engine."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import typer

__all__ = ["token"]


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
    """Print a token of a role for a server with the same secret.

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
