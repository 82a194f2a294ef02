"""One server per world, a browser per test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.chromium import Browser, chromium, find_chromium
from tests.support.server import Server, serving

WEIGHTS = Path(__file__).parents[2] / "models" / "weights"


def _worlds() -> list[object]:
    trained = any(WEIGHTS.rglob("*.safetensors"))
    missing = pytest.mark.skipif(not trained, reason="the embedded world has no weights yet")
    return ["procedural", pytest.param("embedded", marks=missing)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Servers share two cores with a browser and measure time: nothing else may run beside them.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.serial)


@pytest.fixture(scope="module", params=_worlds())
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    world = str(request.param)
    log = tmp_path_factory.mktemp(world) / "server.log"
    with serving(log, "--world", world, "--seats", "4") as running:
        yield running


@pytest.fixture(scope="module")
def procedural(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("procedural") / "server.log"
    with serving(log, "--world", "procedural", "--seats", "2") as running:
        yield running


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium or Chrome found; name one with CHROMIUM=/path/to/chrome")
    async with chromium(binary) as running:
        yield running
