"""Command line."""

from worldbridge.cli.main import main

__all__ = ["main"]
