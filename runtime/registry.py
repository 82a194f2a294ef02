"""Which worlds can be served, and how each is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worldbridge.runtime.errors import DamagedWeightsError, UnknownWorldError
from worldbridge.runtime.world import Progress, WorldModel, WorldSpec

__all__ = ["WORLD_FILE", "list_worlds", "open_world"]

WORLD_FILE = "world.json"


def open_world(
    name: str,
    *,
    device: str = "cpu",
    fps: float | None = None,
    seats: int = 4,
    progress: Progress | None = None,
) -> WorldModel:
    """The world called `name`, or the one in the directory `name` that holds a world.json.

    Args:
        fps: frames per second, for worlds that can choose (None: the world's own).
        seats: how many sessions will be open at most.

    Raises:
        UnknownWorldError: neither a known name nor such a directory; it lists the known ones.
        DamagedWeightsError: weights are missing, truncated or altered.
    """
    report = progress or _silent
    if name == "procedural":
        return _open_procedural(device, fps, report)
    directory = Path(name)
    if name != "embedded" and not (directory / WORLD_FILE).is_file():
        raise UnknownWorldError(name, tuple(_SPECS))
    # imported here: who serves the rendered world should not wait for the neural one's imports
    from worldbridge.runtime import ar_world

    if name == "embedded":
        return ar_world.load_embedded(seats=seats, device=device, progress=report)
    return ar_world.load_directory(directory, seats=seats, device=device, progress=report)


def list_worlds() -> list[WorldSpec]:
    """What `open_world` knows by name. Loads no weights; a world without weights is left out."""
    specs = []
    for read in _SPECS.values():
        try:
            specs.append(read())
        except DamagedWeightsError:
            continue
    return specs


def _open_procedural(device: str, fps: float | None, progress: Progress) -> WorldModel:
    from worldbridge.runtime.procedural_world import DEFAULT_FPS, ProceduralWorld

    world = ProceduralWorld(fps or DEFAULT_FPS, device)
    world.prepare(progress)
    return world


def _procedural_spec() -> WorldSpec:
    from worldbridge.runtime.procedural_world import procedural_spec

    return procedural_spec()


def _embedded_spec() -> WorldSpec:
    from worldbridge.runtime import ar_world

    return ar_world.embedded_spec()


def _silent(stage: str, progress: float) -> None:
    """For callers who do not watch."""


_SPECS: dict[str, Callable[[], WorldSpec]] = {
    "embedded": _embedded_spec,
    "procedural": _procedural_spec,
}
