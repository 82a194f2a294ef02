"""`worldbridge bench memory`: what it reports, as JSON and as a table."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from worldbridge.benchmarks.quality import routes
from worldbridge.cli import app


@pytest.fixture
def short_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, actions in routes.REVISITS.items():
        half = len(actions) // 2
        monkeypatch.setitem(routes.REVISITS, name, actions[half - 2 : half + 2])


@pytest.mark.usefixtures("short_routes")
def test_places_come_back_and_times_are_told() -> None:
    found = CliRunner().invoke(app, ["bench", "memory", "--quick", "--json"])
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert set(result["revisit_psnr_db"]) == {"turn", "circle", "walk"}
    assert len(result["routes"]) == 6
    assert all(row["psnr_db"] > 25 and row["known"] > 0.9 for row in result["routes"])
    assert 0 < result["render_ms"]["p50"] < 1000 and 0 < result["add_ms"]["p50"] < 1000


@pytest.mark.usefixtures("short_routes")
def test_the_table_holds_every_route() -> None:
    found = CliRunner().invoke(app, ["bench", "memory", "--quick"])
    assert found.exit_code == 0, found.output
    assert "museum" in found.stdout and "circle" in found.stdout and "mean" in found.stdout
