"""The Python client: clocks, latency spans, reconnects, and a profile that adds up."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import random
import re
import ssl
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from websockets import Headers, InvalidStatus, Response

from tests.bridge.conftest import Rig, RigMaker, eventually
from tests.support.certificate import certify
from tests.support.fake_worker import SPEC, luma_error
from worldbridge.bridge.protocol import (
    MAX_OBSERVED_PIXELS,
    BridgeError,
    FrameHeader,
    OpenSession,
    Pose,
    RestartSession,
)
from worldbridge.engine_plugins.python import ConnectError, connect, profile
from worldbridge.engine_plugins.python.client import controller_axes
from worldbridge.engine_plugins.python.faults import final_fault
from worldbridge.engine_plugins.python.links import session_url
from worldbridge.engine_plugins.python.observations import observation_of
from worldbridge.engine_plugins.python.profile import scripted_track
from worldbridge.engine_plugins.python.timing import (
    SPANS,
    Arrival,
    ClockOffset,
    InputToPhoton,
    percentiles,
    spans,
)
from worldbridge.engine_plugins.python.webrtc import FrameAssembler


def arrival(input_sequence: int = 4, offset: float = 1000.0) -> Arrival:
    """A frame that answers an input sampled at 1100 (client) = 100 (server)."""
    header = FrameHeader(
        9, input_sequence, 1100.0, 103.0, 110.0, 130.0, 135.0, Pose(), 136.0, 139.0, 140.0
    )
    return Arrival(header, 1145.0, 1147.0, offset)


class TestTiming:
    def test_the_quickest_ping_sets_the_clock(self) -> None:
        clock = ClockOffset()
        assert ClockOffset().offset_ms is None
        clock.add(100.0, 150.0, 1.0)
        clock.add(200.0, 202.0, 100.0)
        clock.add(300.0, 340.0, 250.0)
        assert (clock.offset_ms, clock.round_trip_ms) == (101.0, 2.0)

    def test_every_span_is_what_its_name_says(self) -> None:
        assert spans(1100.0, arrival()) == {
            "uplink": 3.0,
            "wait": 7.0,
            "tokens": 20.0,
            "detokenize": 5.0,
            "handover": 1.0,
            "encode": 3.0,
            "downlink": 6.0,
            "show": 2.0,
        }

    def test_an_older_control_waited_longer(self) -> None:
        older = spans(1090.0, arrival())
        assert older["wait"] == 17.0
        assert sum(older.values()) == 1147.0 - 1090.0

    def test_each_control_is_answered_once_by_the_first_frame(self) -> None:
        meter = InputToPhoton()
        for seq, time in ((3, 1090.0), (4, 1100.0), (5, 1110.0)):
            meter.sent(seq, time)
        meter.shown(arrival(input_sequence=4))
        meter.shown(arrival(input_sequence=4))
        assert [sum(sample.values()) for sample in meter.samples] == [57.0, 47.0]

    def test_percentiles(self) -> None:
        assert percentiles([float(n) for n in range(101)]) == {"p50": 50, "p95": 95, "p99": 99}
        assert percentiles([7.0]) == {"p50": 7, "p95": 7, "p99": 7}
        with pytest.raises(ValueError, match="at least one value"):
            percentiles([])

    def test_the_track_is_the_same_every_time_and_uses_everything(self) -> None:
        first, second = (list(itertools.islice(scripted_track(), 600)) for _ in range(2))
        assert first == second
        assert len({(axes, keys) for axes, _, keys in first}) > 15


def test_addresses() -> None:
    assert session_url("http://a:1") == "ws://a:1/session"
    assert session_url("https://a/") == "wss://a/session"
    assert session_url("ws://a/session") == "ws://a/session"
    with pytest.raises(ValueError, match="expected an address"):
        session_url("a:80")


async def test_it_plays(rig: Rig) -> None:
    worker = await rig.worker()
    async with connect(rig.url, theme="night", seed=5) as client:
        frame = await client.frame()
        assert frame.rgb().shape == (SPEC.height, SPEC.width, 3)
        sent = client.steer(keys=["KeyW"])
        while (frame := await client.frame()).header.input_sequence < sent.sequence:
            pass
        assert frame.header.input_time == sent.time
        client.start(seed=6)
        await eventually(lambda: len(worker.of(RestartSession)) == 1)
        async with connect(rig.url, watch=True) as watcher:
            assert (await watcher.frame()).header.frame >= 0
    (opened,) = worker.of(OpenSession)
    assert isinstance(opened, OpenSession) and (opened.theme, opened.seed) == ("night", 5)
    await eventually(lambda: not worker.worlds)  # leaving the block freed the seat


async def test_a_refusal_is_raised(rig: Rig) -> None:
    await rig.worker()
    async with connect(rig.url, world="narnia") as client:
        with pytest.raises(BridgeError) as caught:
            await asyncio.wait_for(client.frame(), 5)
    assert caught.value.code == "unknown_world"


async def test_it_comes_back_to_its_world(make_rig: RigMaker) -> None:
    rig = await make_rig()
    worker = await rig.worker()
    async with connect(rig.url) as client:
        before = await client.frame()
        assert client._link is not None
        client._link.abort()  # a cable is pulled
        await eventually(lambda: client.reconnects == 1)
        for _ in range(5):
            frame = await asyncio.wait_for(client.frame(), 5)
        assert frame.header.frame > before.header.frame
        (lost,) = client.interruptions
        assert lost.same_world and lost.reason and 0 < lost.seconds < 10
        assert lost.frames_rewound == 0 and lost.inputs_unanswered == 0
    assert len(worker.of(OpenSession)) == 1


async def test_it_waits_for_a_server_that_is_not_there_yet(make_rig: RigMaker) -> None:
    async with connect("http://127.0.0.1:9") as client:
        await eventually(lambda: client.reconnects >= 2)
        assert client.status.state == "reconnecting"


async def test_a_profile_accounts_for_every_millisecond(rig: Rig) -> None:
    worker = await rig.worker()
    worker.step_s = 0.02
    result = await profile(rig.url, 1.5)
    assert len(result.samples) >= 5  # sixty per second, unless the machine is very busy
    assert 0 < result.frames_per_second < 40
    for sample in result.samples:
        assert set(sample) == set(SPANS)
        for span in ("tokens", "detokenize", "handover", "encode", "show"):
            assert sample[span] >= 0  # stamps of one process or of one clock
        assert sample["detokenize"] >= 19
        # stamps of two clocks, matched to half of the quickest round trip
        assert sample["uplink"] > -20 and sample["downlink"] > -20
    shape = json.loads(json.dumps(result.as_json()))
    assert set(shape) == {
        "frames_per_second",
        "input_to_photon_ms",
        "spans_ms",
        "dropped_frames",
        "world",
        "seconds",
        "transport",
    }
    assert list(shape["spans_ms"]) == list(SPANS)
    for numbers in (shape["input_to_photon_ms"], *shape["spans_ms"].values()):
        assert numbers["p50"] <= numbers["p95"] <= numbers["p99"]
    assert shape["world"] == "test-card" and shape["transport"] == "websocket_jpeg"
    total = [sum(sample.values()) for sample in result.samples]
    assert shape["input_to_photon_ms"] == pytest.approx(percentiles(total))


async def test_a_bad_sample_is_refused_here_and_the_session_goes_on(rig: Rig) -> None:
    await rig.worker()
    async with connect(rig.url) as client:
        await client.frame()
        for wrong, path in (
            ({"keys": ["KeyW"] * 17}, "keys"),
            ({"buttons": 1 << 17}, "buttons"),
            ({"pointer": (float("nan"), 0.0)}, "pointer"),
        ):
            with pytest.raises(BridgeError, match="invalid_input") as caught:
                client.steer(**wrong)  # type: ignore[arg-type]
            assert path in caught.value.path
        sent = client.steer(keys="KeyW", axes=np.float32([1, 0, 0, 0]), buttons=np.int64(3))  # type: ignore[arg-type]
        while (await asyncio.wait_for(client.frame(), 10)).header.input_sequence < sent.sequence:
            pass
        assert client.reconnects == 0


class Answering:
    """A TCP server that reads a request and answers each connection with the next of `answers`."""

    def __init__(self, *answers: bytes, tls: ssl.SSLContext | None = None) -> None:
        self.answers, self.connections, self._tls = answers, 0, tls

    async def __aenter__(self) -> Answering:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(self.answers[min(self.connections, len(self.answers) - 1)])
        self.connections += 1
        await writer.drain()
        writer.close()


def page(status: str, body: bytes = b"<html>") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return a server's TLS context with a certificate that nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certify(folder))
    return context


class TestPlayer:
    async def test_it_plays_without_an_event_loop(self, rig: Rig) -> None:
        worker = await rig.worker()

        def play() -> None:
            with connect(rig.url, seed=3) as player:
                assert player.world().name == "test-card"
                frame = player.step(axes=np.float32([0, -1, 0, 0]))
                assert frame.rgb().shape == (SPEC.height, SPEC.width, 3)
                player.restart(seed=4)
                assert player.take_interruptions() == []
                with pytest.raises(BridgeError, match="unknown_theme"):
                    player.restart(theme="narnia")
                with pytest.raises(TimeoutError, match="expected a frame"):
                    for _ in range(200):
                        player.frame(0.0001)
            player.close()
            with pytest.raises(RuntimeError, match="closed"):
                player.frame()

        await asyncio.to_thread(play)
        (restarted,) = worker.of(RestartSession)
        assert isinstance(restarted, RestartSession) and restarted.seed == 4
        await eventually(lambda: not worker.worlds)

    async def test_a_program_that_fails_frees_its_seat(self, rig: Rig) -> None:
        worker = await rig.worker()
        code = (
            "import worldbridge\n"
            f"player = worldbridge.connect({rig.url!r}).__enter__()\n"
            "player.frame()\n"
            "raise SystemExit(7)"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        assert await asyncio.wait_for(process.wait(), 60) == 7
        await eventually(lambda: bool(worker.of(OpenSession)) and not worker.worlds)

    async def test_what_is_held_stays_held(self, rig: Rig) -> None:
        worker = await rig.worker()

        def play() -> None:
            with connect(rig.url) as player:
                first = player.step(keys="KeyW")
                # Four repeats take longer than a silent controller is kept.
                while player.frame().header.input_sequence < first.header.input_sequence + 4:
                    pass
                (world,) = worker.worlds.values()
                assert world.newest is not None and world.newest.keys == ("KeyW",)

        await asyncio.to_thread(play)


class TestFaults:
    async def test_a_bad_gateway_and_a_cut_answer_are_waited_out(self) -> None:
        answers = page("502 Bad Gateway"), page("503 Service Unavailable"), b"HTTP/1.1 1", b""
        async with Answering(*answers) as server:
            async with connect(f"http://127.0.0.1:{server.port}") as client:
                await eventually(lambda: server.connections >= 4)
                assert client.error is None and client.status.state == "reconnecting"

    @pytest.mark.parametrize(
        ("scheme", "answer", "got"),
        [
            ("http", page("404 Not Found"), "HTTP 404"),
            ("http", page("200 OK"), "HTTP 200"),
            ("http", b"SSH-2.0-OpenSSH\r\n", "HTTP"),
            ("https", page("400 Bad Request"), "WRONG_VERSION|RECORD|HTTP"),
        ],
    )
    async def test_what_is_no_server_is_said_at_once(
        self, scheme: str, answer: bytes, got: str
    ) -> None:
        async with Answering(answer) as server:
            async with connect(f"{scheme}://127.0.0.1:{server.port}") as client:
                with pytest.raises(ConnectError) as caught:
                    await asyncio.wait_for(client.frame(), 10)
        assert re.search(got, caught.value.got) and caught.value.remedy

    async def test_a_certificate_that_nobody_trusts(self, tmp_path: Path) -> None:
        async with Answering(page("200 OK"), tls=self_signed(tmp_path)) as server:
            async with connect(f"https://127.0.0.1:{server.port}") as client:
                with pytest.raises(ConnectError, match="certificate is not valid here"):
                    await asyncio.wait_for(client.frame(), 10)

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
    def test_what_a_restarting_proxy_answers_passes(self, status: int) -> None:
        answer = Response(status, "", Headers(), b"")
        assert final_fault("ws://a", InvalidStatus(answer)) is None

    async def test_a_redirect_to_another_host_is_not_followed(self) -> None:
        async with Answering(b"") as elsewhere:
            target = f"http://localhost:{elsewhere.port}/session"
            async with Answering(page(f"307 Temporary Redirect\r\nLocation: {target}")) as server:
                async with connect(f"http://127.0.0.1:{server.port}", token="a secret") as client:
                    with pytest.raises(ConnectError, match="HTTP 307"):
                        await client.frame()
            assert elsewhere.connections == 0

    async def test_an_image_of_another_size_than_announced_is_not_decoded(self, rig: Rig) -> None:
        await rig.worker()
        async with connect(rig.url) as client:
            frame = await client.frame()
        header = frame.header.replace(width=frame.header.width * 2)
        with pytest.raises(ValueError, match="expected an image of"):
            dataclasses.replace(frame, header=header).rgb()

    async def test_a_world_that_went_back_is_reported(self, make_rig: RigMaker) -> None:
        rig = await make_rig()
        worker = await rig.worker()
        async with connect(rig.url) as client:
            # The world is saved at every tenth frame: stop it well before the next.
            while (last := (await client.frame()).header.frame) < 10 or last % 10 > 3:
                pass
            await worker.stop()
            await rig.worker()
            while not client.interruptions:
                await asyncio.wait_for(client.frame(), 20)
        (lost,) = client.interruptions
        assert lost.same_world and lost.frames_missed == 0 and "worker" in lost.reason
        assert 0 < lost.frames_rewound <= 10 and client.reconnects == 0

    async def test_a_refusal_by_http_keeps_its_code_and_remedy(self) -> None:
        body = json.dumps({"code": "forbidden_origin", "message": "m", "remedy": "r"}).encode()
        async with Answering(page("403 Forbidden", body)) as server:
            async with connect(f"http://127.0.0.1:{server.port}") as client:
                with pytest.raises(BridgeError) as caught:
                    await asyncio.wait_for(client.frame(), 10)
        assert (caught.value.code, caught.value.remedy) == ("forbidden_origin", "r")

    async def test_a_world_that_began_again_is_reported(self, make_rig: RigMaker) -> None:
        rig = await make_rig()
        await rig.worker()
        async with connect(rig.url) as client:
            await client.frame()
            client._hello = client._hello.replace(resume=None)  # as after an expired seat
            assert client._link is not None
            client._link.abort()
            await eventually(lambda: len(client.interruptions) == 1)
            assert not client.interruptions[0].same_world


def test_axes_may_be_numpy_and_a_little_too_long() -> None:
    assert controller_axes(np.float32([1.0000001, -2, 0.5, 0])) == (1.0, -1.0, 0.5, 0.0)
    for wrong in ((0.0, 0.0), (float("nan"), 0.0, 0.0, 0.0)):
        with pytest.raises(ValueError, match="expected axes of four numbers"):
            controller_axes(wrong)


def test_a_rendered_frame_as_it_is_sent() -> None:
    rgb = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    depth = [[1.0, 2.0, 4.0], [0.0, np.inf, np.nan]]
    sent = observation_of(rgb, depth, Pose(), fresh=True)
    assert (sent.width, sent.height, sent.rgb, sent.fresh) == (3, 2, rgb.tobytes(), True)
    metres = np.frombuffer(sent.depth, "<u2").reshape(2, 3) * sent.depth_scale
    assert np.allclose(metres, [[1.0, 2.0, 4.0], [0, 0, 0]], atol=1e-4)
    large = observation_of(
        np.zeros((1080, 1920, 3), np.uint8), np.ones((1080, 1920)), Pose(), False
    )
    assert large.width * large.height <= MAX_OBSERVED_PIXELS and large.width == 640
    with pytest.raises(ValueError, match="depth of the size of rgb"):
        observation_of(rgb, np.ones((3, 2)), Pose(), False)
    with pytest.raises(ValueError, match="uint8"):
        observation_of(np.zeros((2, 3, 4), np.uint8), np.ones((2, 3)), Pose(), False)


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_frames_are_put_together_as_soon_as_they_are_there(loss: float) -> None:
    generator = random.Random(3)
    packets = []
    for frame in range(400):
        key = frame % 20 == 0
        for part in range(parts := generator.randint(1, 5)):
            head = b"\x00\x00\x00\x01" + (b"\x67" if key else b"\x41") if part == 0 else b""
            packets.append(
                SimpleNamespace(
                    sequence_number=(65_000 + len(packets)) % 65536,
                    timestamp=frame,
                    marker=part == parts - 1,
                    _data=head + bytes([part]),
                )
            )
    sent = [packet for packet in packets if generator.random() >= loss or packet.timestamp == 0]
    late = [index + generator.randint(0, 8) for index in range(len(sent))]  # reordered
    late[0] = 0
    assembler, found, asked = FrameAssembler(), [], 0
    for _, index in sorted((place, index) for index, place in enumerate(late)):
        frames, lost = assembler.add(sent[index])
        found += frames
        asked += lost
    numbers = [frame.timestamp for frame in found]
    assert numbers == sorted(set(numbers))
    if loss == 0:
        assert numbers == list(range(400)) and asked == 0
    else:
        assert asked > 0 and len(numbers) > 10
        for before, after in itertools.pairwise(numbers):
            assert after == before + 1 or after % 20 == 0, "after a gap comes a key frame"
    for frame in found:  # whole, and in order
        assert frame.data[5:] == bytes(range(len(frame.data) - 5))


async def test_it_plays_by_webrtc(rig: Rig) -> None:
    await rig.worker()
    async with connect(rig.url, transport="webrtc") as client:
        numbers, errors = [], []
        while len(numbers) < 10:
            client.steer()
            frame = await client.frame()
            numbers.append(frame.header.frame)
            errors.append(luma_error(frame.image, numbers[-1]))
        sent = client.steer(keys=["KeyW"])  # by the unordered channel
        while (frame := await client.frame()).header.input_sequence < sent.sequence:
            pass
        assert frame.rgb().shape == (SPEC.height, SPEC.width, 3)
        assert client.welcome is not None and client.welcome.transport == "webrtc"
        async with connect(rig.url, transport="webrtc", watch=True) as watcher:
            assert (await watcher.frame()).header.width == SPEC.width
    assert numbers == sorted(set(numbers))
    assert max(errors) < 6, "each frame shows what its header says"
    with pytest.raises(ValueError, match="neither `codec`"):
        connect(rig.url, transport="webrtc", codec="jpeg")
    with pytest.raises(ValueError, match="http:// address"):
        connect("tcp://127.0.0.1:1", transport="webrtc")
