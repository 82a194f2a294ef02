"""`worldbridge profile`: scenarios over an impaired line, the report and the trace."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.bridge.conftest import Rig, RigMaker
from worldbridge.benchmarks.impairment import LINKS
from worldbridge.bridge.gateway.latency import server_spans
from worldbridge.bridge.protocol import FrameHeader, Pose
from worldbridge.cli.profile import SCENARIOS, TRANSPORTS, _chosen, _over_line
from worldbridge.cli.profile_report import MAX_TRACED, html_report, perfetto_trace
from worldbridge.engine_plugins.python import ProfileResult
from worldbridge.engine_plugins.python.profile import TRANSPORTS as CLIENT_TRANSPORTS
from worldbridge.engine_plugins.python.timing import SPANS, percentiles
from worldbridge.errors import ConfigError

ROOT = Path(__file__).parents[2]


def result_of(totals: list[float]) -> ProfileResult:
    """A profile whose controls were read 16 ms apart and took `totals` ms."""
    samples = [dict.fromkeys(SPANS, total / len(SPANS)) for total in totals]
    return ProfileResult(
        frames_per_second=30.0,
        input_to_photon_ms=percentiles(totals),
        spans_ms={span: percentiles([s[span] for s in samples]) for span in SPANS},
        dropped_frames=3,
        world="<world>",
        seconds=10.0,
        samples=samples,
        sampled_ms=[1000.0 + 16 * number for number in range(len(totals))],
    )


class _Page(HTMLParser):
    """Collects tags, and checks that each that is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_has_every_plot_and_no_outside_resource() -> None:
    results = {"lan": result_of([20.0, 30.0, 500.0]), "mobile": result_of([90.0] * 5000)}
    text = html_report("http://<host>:1/", results)
    page = _Page()
    page.feed(text)
    assert page.tags.count("svg") == 2 * 3 and page.tags.count("table") == 1 + 2
    assert "src=" not in text and "href=" not in text and "url(" not in text
    assert "<world>" not in text and "&lt;world&gt;" in text
    for span in SPANS:
        assert span in text
    # every control is in the histogram; of 5,000 controls a timeline shows 2,000 at most
    counts = [int(count) for count in re.findall(r"and more: (\d+)</title>", text)]
    assert sum(counts) == 3 + 5000
    assert 3 < page.tags.count("circle") <= 3 + 2000


def test_the_trace_nests_the_spans_of_every_control() -> None:
    result = result_of([40.0, 80.0])
    result.samples[1]["uplink"] = -2.0
    trace = json.loads(perfetto_trace({"lan": result}))
    events = trace["traceEvents"]
    assert events[0]["args"] == {"name": "lan"}
    for number in (0, 1):
        mine = [event for event in events if event.get("id") == number]
        stack: list[str] = []
        for event in mine:
            if event["ph"] == "b":
                stack.append(event["name"])
            else:
                assert stack.pop() == event["name"]
        assert not stack
        times = [event["ts"] for event in mine]
        assert times == sorted(times)
        assert {event["name"] for event in mine} == {"input to photon", *SPANS}
    first = [event["ts"] for event in events if event.get("id") == 0]
    assert (first[0], first[-1]) == (0.0, 40_000.0)


def test_the_trace_is_bounded() -> None:
    trace = json.loads(perfetto_trace({"lan": result_of([9.0] * (MAX_TRACED + 50))}))
    assert sum(event["name"] == "input to photon" for event in trace["traceEvents"]) == (
        2 * MAX_TRACED
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("transport", ["websocket_jpeg", "webrtc"])
async def test_a_scenario_adds_its_delay(rig: Rig, transport: str) -> None:
    await rig.worker()
    slow = await _over_line(rig.url, "mobile", 3.0, None, None, transport)
    delay = LINKS["mobile"].delay_ms
    # the clock's offset may share the two ways out differently, but not change their sum
    spans = slow.spans_ms
    print({name: round(spans[name]["p50"], 1) for name in spans}, slow.input_to_photon_ms)
    assert slow.input_to_photon_ms["p50"] > 2 * delay
    assert len(slow.samples) == len(slow.sampled_ms) > 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_transport_is_measured_by_the_same_spans(
    make_rig: RigMaker, transport: str
) -> None:
    rig = await make_rig(zmq_port=0)
    await rig.worker()
    url = rig.zeromq if transport.startswith("zmq") else rig.url
    result = await _over_line(url, "direct", 1.0, None, None, transport)
    assert result.transport == transport and result.samples
    assert list(result.spans_ms) == list(SPANS)
    for sample in result.samples:  # no span is left out of the sum
        assert sum(sample.values()) > 0
    print(transport, result.input_to_photon_ms, result.frames_per_second)


def test_transports_have_the_same_names_in_the_client() -> None:
    assert tuple(TRANSPORTS) == tuple(CLIENT_TRANSPORTS)


async def test_a_scenario_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(ConfigError, match="TLS"):
        await _over_line("https://127.0.0.1:9", "lan", 1.0, None, None)
    with pytest.raises(ConfigError, match="scenario"):
        _chosen("scenario", ["moon"], SCENARIOS)
    assert _chosen("scenario", ["all"], SCENARIOS) == list(SCENARIOS)
    assert set(SCENARIOS) - {"direct"} <= LINKS.keys()


def test_spans_have_the_same_names_everywhere() -> None:
    script = (ROOT / "engine_plugins/js/latency.js").read_text()
    found = re.search(r"export const SPANS = \[(.*?)\]", script, re.S)
    assert found is not None
    assert re.findall(r'"(\w+)"', found[1]) == list(SPANS)
    header = FrameHeader(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, Pose())
    assert server_spans(header).keys() - SPANS.keys() == {"send"}  # a part of downlink
    documented = (ROOT / "docs/protocol.md").read_text().partition("## Measuring latency")[2]
    rows = re.findall(r"^\| (\w+) \| `", documented.partition("\n## ")[0], re.M)
    assert [row for row in rows if row in SPANS] == list(SPANS)
