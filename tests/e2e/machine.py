"""Whether a time that is measured now says something about the program."""

from __future__ import annotations

import os


def busy() -> str | None:
    """Why not: more than twice as much to do as there are cores. None on a quiet machine."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f"load {load:.1f} on {cores} cores" if load > 2 * cores else None
