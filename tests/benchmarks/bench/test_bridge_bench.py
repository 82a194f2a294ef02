"""`worldbridge bench bridge`: a real gateway, real viewers and the naive server."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("aiortc")  # the benchmarks of the model side run without

from worldbridge.benchmarks.bridge.bench import bench_bridge  # noqa: E402
from worldbridge.benchmarks.bridge.network import bench_network  # noqa: E402
from worldbridge.benchmarks.bridge.source import forth_and_back  # noqa: E402
from worldbridge.benchmarks.bridge.viewers import TRANSPORTS  # noqa: E402
from worldbridge.cli import app  # noqa: E402
from worldbridge.cli.bench_tables import bridge_table, network_tables  # noqa: E402
from worldbridge.errors import ConfigError  # noqa: E402


@pytest.mark.serial
@pytest.mark.timeout(600)
def test_every_transport_and_the_naive_way_are_measured() -> None:
    arguments = ["bench", "bridge", "--fps", "30", "--viewers", "2", "--seconds", "1", "--quick"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert {*TRANSPORTS} == {run["transport"] for run in result["runs"]}
    for name in TRANSPORTS:
        case = result[name]
        ms = case["handed_to_received_ms"]
        assert 0 < ms["p50"] <= ms["p95"] <= ms["p99"] < 60_000
        assert case["fps"] == 30 and case["viewers"] == 2 and case["frames"] > 0
        assert case["server_cpu_percent"] > 0
        print(name, ms, case["frames_per_second_each"])
    assert result["times_naive_p99"].keys() == TRANSPORTS.keys() - {"naive"}
    assert result["environment"]["processor"]
    assert bridge_table(result) is not None


def test_an_unknown_transport_is_named() -> None:
    with pytest.raises(ConfigError, match="carrier_pigeon") as caught:
        bench_bridge(("carrier_pigeon",))
    assert "webrtc" in caught.value.expected


@pytest.mark.serial
@pytest.mark.timeout(300)
def test_inputs_through_loss_are_measured_both_ways() -> None:
    done = CliRunner().invoke(app, ["bench", "network", "--quick", "--seconds", "3", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["inputs"].keys() == {"unordered", "ordered"} and not result["lines"]
    for way, case in result["inputs"].items():
        assert case["sent"] > 10 and case["delivered_percent"] == 100
        assert case["sent_to_gateway_ms"]["p50"] >= 19  # the delay of the line
        print(way, case)
    assert network_tables(result) is not None


def test_an_unknown_line_is_named() -> None:
    with pytest.raises(ConfigError, match="moon") as caught:
        bench_network(("moon",))
    assert "600_kbit" in caught.value.expected


@pytest.mark.parametrize("there", [True, False])
def test_the_browser_is_found_wherever_the_command_runs(tmp_path: Path, there: bool) -> None:
    """As the `worldbridge` command runs: without the checkout among the folders of modules."""
    module = "worldbridge.benchmarks.bridge.bench"
    code = f"from {module} import browser_or_why; print(browser_or_why(False))"
    named = {"CHROMIUM": sys.executable} if there else {"CHROMIUM": "", "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", **named},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = repr((sys.executable,) * 2) if there else "there is no Chromium; install one"
    assert expected in done.stdout, done.stderr


def test_the_walk_has_no_cut() -> None:
    order = list(itertools.islice(forth_and_back(4), 12))
    assert order == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1]
