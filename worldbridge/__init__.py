"""worldbridge: a real-time bridge between neural world models and game engines."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("worldbridge")
except PackageNotFoundError:  # imported from a bare source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
