"""worldbridge: a real-time bridge between neural world models and game engines.

`async with worldbridge.connect("http://127.0.0.1:8080") as client:` plays from Python.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldbridge.engine_plugins.python import connect as connect

try:
    __version__ = version("worldbridge")
except PackageNotFoundError:  # imported from a bare source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> Any:
    """`connect` is imported when it is first asked for: `worldbridge --help` needs no network."""
    if name == "connect":
        from worldbridge.engine_plugins.python import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
