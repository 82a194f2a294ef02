"""`worldbridge worlds`: what a world takes, and what loading it costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.models.test_convert_conditioning import FIELDS, source
from worldbridge.cli import app
from worldbridge.errors import StructuredError
from worldbridge.models.convert import convert


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    return convert(source(folder / "source", condition_dim=8), folder / "mine", name="mine")


def _json(*arguments: str) -> dict[str, list[dict[str, object]]]:
    result = CliRunner().invoke(app, ["worlds", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    said: dict[str, list[dict[str, object]]] = json.loads(result.stdout)
    return said


def test_those_known_by_name() -> None:
    takes = {world["name"]: world["conditionings"] for world in _json()["worlds"]}
    assert takes["procedural"] == ["actions"]


def test_a_directory_says_what_it_takes(world: Path) -> None:
    (said,) = _json(str(world))["worlds"]
    assert (said["name"], said["conditionings"]) == ("mine", ["actions", "camera"])
    assert [c["name"] for c in said["action_schema"]] == ["strafe", "forward", "yaw", "pitch"]
    shown = CliRunner().invoke(app, ["worlds", str(world)], env={"COLUMNS": "200"}).output
    assert "actions, camera" in shown and "mine" in shown


def test_loading_is_measured(world: Path) -> None:
    (report,) = _json(str(world), "--load")["loaded"]
    files = sum(path.stat().st_size for path in world.glob("*.safetensors"))
    assert report["world"] == "mine" and report["weights"] == files
    assert isinstance(report["parameters"], int) and report["parameters"] > FIELDS["dim"] * 704
    assert isinstance(report["seconds"], float) and report["seconds"] > 0
    assert isinstance(report["peak_memory"], int) and report["peak_memory"] > 50e6
    shown = CliRunner().invoke(app, ["worlds", str(world), "--load"], env={"COLUMNS": "200"})
    assert "peak memory MB" in shown.output


def test_what_is_no_world_is_reported(world: Path, tmp_path: Path) -> None:
    def refused(*arguments: str) -> StructuredError:
        error = CliRunner().invoke(app, ["worlds", *arguments]).exception
        assert isinstance(error, StructuredError)
        return error

    assert refused(str(tmp_path)).exit_code == 4
    (tmp_path / "world.json").write_text('{"format": 1, "kind": "cosmos"}')
    assert refused(str(tmp_path)).exit_code == 5
    manifest = json.loads((world / "world.json").read_text())
    manifest["actions"] = ["jump"] * 8
    (tmp_path / "world.json").write_text(json.dumps(manifest))
    assert "got 'jump'" in str(refused(str(tmp_path), "--load"))
    assert CliRunner().invoke(app, ["worlds", "--load"]).exit_code == 2
