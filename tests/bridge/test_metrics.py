"""`/metrics`, its documentation and the dashboard that shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx

from tests.bridge.conftest import Rig, RigMaker
from worldbridge.bridge.gateway.metrics import Metrics
from worldbridge.bridge.protocol import Frame, Seats

DOCS = Path(__file__).parents[2] / "docs"
_SUFFIXES = ("_bucket", "_sum", "_count")


def _names(metrics: Metrics) -> set[str]:
    """The metrics of ours, as Prometheus names their series."""
    types = re.findall(r"^# TYPE (worldbridge_\S+) (\S+)", metrics.text().decode(), re.M)
    return {name for name, _ in types if not name.endswith("_created")}


async def test_frames_seats_and_the_process_are_counted(rig: Rig) -> None:
    await rig.worker()
    client = await rig.play()
    for _ in range(3):
        await client.until(Frame)
    async with httpx.AsyncClient() as http:
        text = (await http.get(rig.url + "metrics")).text
    sent = re.search(r'worldbridge_frames_sent_total\{transport="websocket"\} (\S+)', text)
    assert sent is not None and float(sent[1]) >= 3
    assert 'worldbridge_seats{state="used"} 1.0' in text
    assert 'worldbridge_seats{state="total"} 2.0' in text
    assert 'worldbridge_clients{role="player"} 1.0' in text
    assert re.search(r"worldbridge_event_loop_delay_ms_count [1-9]", text)
    assert "process_open_fds" in text and "process_resident_memory_bytes" in text
    assert client.welcome.session not in text


async def test_a_server_with_a_token_asks_for_it(make_rig: RigMaker) -> None:
    rig = await make_rig(token="open-sesame")
    async with httpx.AsyncClient() as http:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic open-sesame"},
            {"Authorization": "open-sesame"},
        ):
            answer = await http.get(rig.url + "metrics", headers=headers)
            assert answer.status_code == 401 and "worldbridge_" not in answer.text
            assert answer.headers["www-authenticate"] == "Bearer"
        good = {"Authorization": "Bearer open-sesame"}
        assert (await http.get(rig.url + "metrics", headers=good)).status_code == 200


def test_skipped_frames_are_counted() -> None:
    metrics = Metrics()
    metrics.frame_sent("websocket", 0)
    metrics.frame_sent("websocket", 4)
    metrics.frame_sent("websocket", -9)  # another session: its count begins again
    text = metrics.text().decode()
    assert 'worldbridge_frames_sent_total{transport="websocket"} 3.0' in text
    assert 'worldbridge_frames_skipped_total{transport="websocket"} 4.0' in text


def test_every_metric_is_documented_and_the_dashboard_asks_for_no_other() -> None:
    metrics = Metrics()
    metrics.follow_seats(lambda: Seats(0, 1))
    names = _names(metrics)
    documented = set(re.findall(r"`(worldbridge_\w+)` \|", (DOCS / "observability.md").read_text()))
    assert documented == names
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"worldbridge_\w+", target["expr"]))
    histograms = {name + suffix for name in names for suffix in _SUFFIXES}
    assert asked <= names | histograms, asked - names - histograms
    assert len(asked) > 8
