from pathlib import Path

import pytest

from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.errors import FrameRateError, UnknownWorldError
from worldbridge.runtime.worlds.procedural import ProceduralWorld
from worldbridge.runtime.worlds.registry import list_worlds, open_world


def test_the_procedural_world_opens_by_name_and_tells_its_progress() -> None:
    told: list[float] = []
    config = WorkerConfig(world="procedural", fps=15)
    world = open_world(config, progress=lambda stage, share: told.append(share))
    assert isinstance(world, ProceduralWorld)
    assert (world.spec.name, world.spec.fps) == ("procedural", 15)
    assert told == sorted(told) and told[0] == 0.0


def test_worlds_are_listed_without_being_opened() -> None:
    specs = {spec.name: spec for spec in list_worlds()}
    assert specs["procedural"].kind == "procedural"
    assert all(spec.width == 512 and spec.height == 320 for spec in specs.values())


@pytest.mark.parametrize("name", ["atlantis", ".", "../nowhere"])
def test_an_unknown_world_is_named_beside_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownWorldError) as caught:
        open_world(WorkerConfig(world=name))
    assert caught.value.got == repr(name)
    assert "embedded, guided, procedural" in caught.value.expected
    assert caught.value.exit_code == 4


def test_a_directory_without_a_world_is_not_a_world(tmp_path: Path) -> None:
    with pytest.raises(UnknownWorldError, match="world.json"):
        open_world(WorkerConfig(world=str(tmp_path)))


def test_only_the_procedural_world_takes_a_frame_rate() -> None:
    with pytest.raises(FrameRateError, match="frame rate of its own") as caught:
        open_world(WorkerConfig(world="guided", fps=60))
    assert caught.value.exit_code == 2 and "--fps 60" in caught.value.got
