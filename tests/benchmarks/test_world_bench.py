"""`worldbridge bench world`: the cost of a frame by the share of it that is new."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from worldbridge.benchmarks.world import SHARES, turn_for
from worldbridge.cli import app
from worldbridge.errors import ConfigError

pytestmark = pytest.mark.timeout(600)


def test_a_turn_shows_the_wanted_share() -> None:
    assert turn_for(0.0, 50.0, 1.6) == pytest.approx(0.0)
    half = math.atan(1.6 * math.tan(math.radians(25.0)))
    assert turn_for(0.5, 50.0, 1.6) == pytest.approx(half)
    assert turn_for(1.0, 50.0, 1.6) == math.pi


def test_shares_costs_and_plot(tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    found = CliRunner().invoke(app, ["bench", "world", "--quick", "--json", "--plot", str(plot)])
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)["rows"]
    assert len(rows) == len(SHARES)
    for row, share in zip(rows, SHARES, strict=True):
        assert row["new_share"] == pytest.approx(share, abs=0.08), row
        assert row["frames_per_second"] > 0 and row["processor_ms"]["p50"] > 0
    assert rows[0]["new_share"] == 0.0 and rows[-1]["new_share"] > 0.9
    drawn = ElementTree.parse(plot).getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}circle")) == len(SHARES)


def test_a_world_without_memory_is_refused() -> None:
    error = CliRunner().invoke(app, ["bench", "world", "--world", "procedural"]).exception
    assert isinstance(error, ConfigError) and "spatial memory" in error.expected
