"""The gateway over real sockets, with a worker that speaks real ZeroMQ."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest
import simplejpeg
import websockets

from tests.bridge.conftest import Rig, RigMaker, eventually
from tests.support.fake_worker import SPEC
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.protocol import (
    Bye,
    CloseSession,
    ControllerState,
    Error,
    Event,
    Failed,
    Frame,
    FrameShown,
    Hello,
    Input,
    OpenSession,
    Ping,
    Pong,
    RestartSession,
    SessionInput,
    ShiftPhase,
    Start,
    Stats,
    StatsRequest,
    Status,
    Welcome,
    encode,
)
from worldbridge.clock import now_ms


def playing(status: Status) -> bool:
    return status.state == "playing"


async def refusal(rig: Rig, message: bytes | str | Hello) -> Error:
    """What a client hears that sends this first; its connection has to end after it."""
    client = await rig.raw()
    await client.send(message)
    error = await client.until(Error)
    assert error.fatal
    with pytest.raises(websockets.ConnectionClosed) as closed:
        while True:
            await asyncio.wait_for(client.socket.recv(), 3)
    assert closed.value.rcvd is not None and closed.value.rcvd.reason == error.code
    return error


class TestPlaying:
    async def test_hello_welcome_frames(self, rig: Rig) -> None:
        worker = await rig.worker()
        client = await rig.play(Start("night", 7))
        welcome = client.welcome
        assert welcome.world == SPEC
        assert (welcome.transport, welcome.codec, welcome.started) == ("websocket", "jpeg", False)
        assert (welcome.role, welcome.seats.used, welcome.seats.total) == ("player", 1, 2)
        await client.until(Status, playing)
        (opened,) = worker.of(OpenSession)
        assert opened == OpenSession(welcome.session, "night", 7, None)
        frame = await client.until(Frame)
        assert frame.image is not None
        assert simplejpeg.decode_jpeg(frame.image).shape == (SPEC.height, SPEC.width, 3)
        h = frame.header
        assert h.t_controls <= h.t_tokens <= h.t_frame <= h.t_gateway <= h.t_encoded <= h.t_sent
        assert h.input_sequence == -1 and h.rtp is None

    async def test_frames_answer_the_newest_input(self, rig: Rig) -> None:
        worker = await rig.worker()
        client = await rig.play()
        await client.until(Status, playing)
        await client.send(
            Input((ControllerState(5, 123.5, keys=("KeyW",)), ControllerState(4, 120.0)))
        )
        await client.send(Input((ControllerState(3, 110.0),)))  # late: must not win
        frame = await client.until(Frame, lambda frame: frame.header.input_sequence >= 0)
        assert (frame.header.input_sequence, frame.header.input_time) == (5, 123.5)
        assert frame.header.t_input <= frame.header.t_controls
        inputs = [m for m in worker.of(SessionInput) if isinstance(m, SessionInput)]
        assert [m.state.sequence for m in inputs] == [5]

    async def test_start_reaches_the_worker_and_a_bad_theme_does_not(self, rig: Rig) -> None:
        worker = await rig.worker()
        client = await rig.play()
        await client.until(Status, playing)
        await client.send(Start("dusk"))
        error = await client.until(Error)
        assert (error.code, error.fatal) == ("unknown_theme", False)
        await client.send(Start("night", 3))
        await eventually(lambda: len(worker.of(RestartSession)) == 1)
        await client.until(Frame)  # and the client is still served

    async def test_a_busy_worker_is_sent_the_newest_alone(self, rig: Rig) -> None:
        worker = await rig.worker()
        client = await rig.play()
        await client.until(Status, playing)
        worker.answers_pings = False  # as one that is busy with something long
        for number in range(300):
            await client.send(Start("night", number))
            await client.send(Input((ControllerState(number, 1.0),)))
        await client.send(Ping(1.0))
        await client.until(Pong)
        assert len(worker.of(RestartSession)) + len(worker.of(SessionInput)) <= 8
        worker.answers_pings = True

        def newest_came() -> bool:
            inputs = [m for m in worker.of(SessionInput) if isinstance(m, SessionInput)]
            starts = [m for m in worker.of(RestartSession) if isinstance(m, RestartSession)]
            return bool(
                inputs and starts and inputs[-1].state.sequence == 299 and starts[-1].seed == 299
            )

        await eventually(newest_came)
        assert len(worker.of(RestartSession)) <= 8

    async def test_ping_stats_and_bye(self, rig: Rig) -> None:
        worker = await rig.worker()
        client = await rig.play()
        await client.until(Status, playing)
        await client.send(Ping(42.0))
        pong = await client.until(Pong, lambda pong: pong.time == 42.0)
        assert pong.server_time > 0
        await client.send(StatsRequest())
        stats = await client.until(Stats)
        assert stats.values["sessions"] == 1
        await client.send(Bye())
        await eventually(lambda: len(worker.of(CloseSession)) == 1)
        with pytest.raises(websockets.ConnectionClosedOK):
            while True:
                await client.next()

    async def test_spectators_watch_the_newest_player_without_a_seat(self, rig: Rig) -> None:
        await rig.worker(seats=1)
        watcher = await rig.greet(Hello("early", "spectator"))
        assert (await watcher.until(Welcome)).session == ""
        await watcher.until(Status, lambda s: s.detail == "waiting for a player")
        player = await rig.play()
        session = player.welcome.session
        await watcher.until(Frame)
        late = await rig.greet(Hello("late", "spectator"))
        welcome = await late.until(Welcome)
        assert (welcome.session, welcome.resume, welcome.seats.used) == (session, "", 1)
        await late.until(Frame)
        await player.send(Bye())
        await late.until(Status, lambda s: s.detail == "waiting for a player")

    async def test_a_spectator_names_the_session_to_watch(self, rig: Rig) -> None:
        await rig.worker()
        first, _ = await rig.play(), await rig.play(hello=Hello("engine", "engine"))
        watcher = await rig.greet(Hello("w", "spectator", session=first.welcome.session))
        welcome = await watcher.until(Welcome)
        assert (welcome.session, welcome.seat.state) == (first.welcome.session, "watching")
        assert welcome.seats.used == 2, "an engine has a seat"
        await watcher.until(Frame)

    async def test_a_prompt_that_no_world_takes_is_refused(self, rig: Rig) -> None:
        await rig.worker()
        client = await rig.play(Start(prompt="a castle"))
        error = await client.until(Error)
        assert (error.code, error.path, error.fatal) == ("unsupported", "start.prompt", False)

    async def test_metrics_hold_every_leg_after_a_report(self, rig: Rig) -> None:
        await rig.worker()
        client = await rig.play()
        await client.until(Status, playing)
        await client.send(Input((ControllerState(0, now_ms()),)))
        frame = await client.until(Frame, lambda frame: frame.header.input_sequence == 0)
        t = frame.header.t_sent
        await client.send(FrameShown(frame.header.frame, t + 1, t + 3, 0.0))
        await client.send(Ping(9.0))
        await client.until(Pong, lambda pong: pong.time == 9.0)
        async with httpx.AsyncClient() as http:
            text = (await http.get(rig.url + "metrics")).text
        for span in (
            "uplink",
            "wait",
            "tokens",
            "detokenize",
            "handover",
            "encode",
            "downlink",
            "show",
        ):
            assert f'worldbridge_span_ms_count{{span="{span}"}} 1.0' in text
        assert 'worldbridge_span_ms_sum{span="show"} 2.0' in text

    async def test_frames_that_wait_for_the_display_are_shifted(self, rig: Rig) -> None:
        worker = await rig.worker()
        client, watcher = await rig.play(), await rig.greet(Hello("looks", "spectator"))
        for peer in (client, watcher):
            await peer.until(Frame)
        for number in range(10):
            await watcher.send(FrameShown(number, 0.0, 3.0, 0.0, 16.0))  # has no say
            await client.send(FrameShown(number, 0.0, 14.0, 0.0))  # tells nothing of its display
        for number in range(10):
            await client.send(FrameShown(number, 0.0, 11.0, 0.0, 16.0))
        await client.send(Ping(9.0))
        await client.until(Pong, lambda pong: pong.time == 9.0)
        await eventually(lambda: len(worker.of(ShiftPhase)) > 0)
        [shift] = worker.of(ShiftPhase)
        assert isinstance(shift, ShiftPhase) and shift.ms == pytest.approx(6.0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("message", "code"),
        [
            (msgspec.msgpack.encode({"type": "hello", "version": 99}), "version_mismatch"),
            (msgspec.msgpack.encode({"type": "dance"}), "unknown_type"),
            (b"\xc1 not msgpack", "bad_message"),
            ("text", "bad_message"),
            (bytes(70_000), "message_too_large"),
            (msgspec.msgpack.encode({"type": "ping", "time": 1.0}), "not_greeted"),
            (Hello("test", world="narnia"), "unknown_world"),
            (Hello("test", transports=("carrier pigeon",)), "unsupported"),
            (Hello("test", max_frame=(64, 64)), "unsupported"),
            (Hello("test", "spectator", session="nobody"), "session_expired"),
            (Hello("test", resume="no such token"), "session_expired"),
        ],
    )
    async def test_first_messages(self, rig: Rig, message: bytes | str | Hello, code: str) -> None:
        await rig.worker()
        await eventually_ready(rig)
        error = await refusal(rig, message)
        assert error.code == code
        assert error.message and error.remedy
        assert await is_served(rig)

    async def test_nan_axes_close_only_that_client(self, rig: Rig) -> None:
        await rig.worker()
        good, bad = await rig.play(), await rig.play()
        await good.until(Status, playing)
        await bad.until(Status, playing)
        axes = [math.nan, 0.0, 0.0, 0.0]
        state = {"sequence": 1, "time": 1.0, "axes": axes}
        await bad.send(msgspec.msgpack.encode({"type": "input", "states": [state]}))
        error = await bad.until(Error)
        assert error.code == "invalid_input" and "axes" in error.message
        await good.until(Frame)

    async def test_enormous_messages_are_cut_off(self, rig: Rig) -> None:
        client = await rig.raw()
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.send(bytes(10_000_000))  # it may end before all is sent
            await client.next()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009

    async def test_no_free_seat(self, rig: Rig) -> None:
        await rig.worker(seats=1)
        first = await rig.play()
        second = await rig.greet()
        error = await second.until(Error)
        assert error.code == "no_free_seat" and "spectator" in error.remedy
        await first.until(Frame)

    async def test_configured_seats_limit_the_workers(self, make_rig: RigMaker) -> None:
        rig = await make_rig(seats=1)
        await rig.worker(seats=4)
        client = await rig.play()
        assert client.welcome.seats.total == 1

    async def test_token(self, make_rig: RigMaker) -> None:
        rig = await make_rig(token="s3cret")
        await rig.worker()
        for wrong in (None, "s3cre", "S3cret", "ünïcode"):
            assert (await refusal(rig, Hello("test", token=wrong))).code == "unauthorized"
        client = await rig.greet(Hello("test", token="s3cret"))
        await client.until(Welcome)

    async def test_no_hello(self, make_rig: RigMaker) -> None:
        rig = await make_rig(hello_s=0.3)
        client = await rig.raw()
        error = await client.next()
        assert isinstance(error, Error) and error.code == "not_greeted"

    async def test_silence_keeps_the_seat_but_not_the_client(self, make_rig: RigMaker) -> None:
        rig = await make_rig(silence_s=0.4)
        worker = await rig.worker()
        client = await rig.play()
        while not isinstance(message := await client.next(), Error):
            pass
        assert message.code == "session_expired"
        assert worker.of(CloseSession) == []

    async def test_a_full_server_says_so(self, make_rig: RigMaker) -> None:
        rig = await make_rig(max_clients=1)
        await rig.worker()
        await rig.play()
        error = await (await rig.raw()).next()
        assert isinstance(error, Error) and error.code == "no_free_seat"


async def test_a_client_that_stops_reading_is_dropped_and_slows_nobody(make_rig: RigMaker) -> None:
    rig = await make_rig(stall_s=1.5)
    # large frames: they fill the socket within a few frames
    await rig.worker(spec=SPEC.replace(width=1280, height=960, fps=15.0))
    lazy = socket.create_connection(("127.0.0.1", rig.port))
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader, writer = await asyncio.open_connection(sock=lazy)
    writer.write(
        b"GET /session HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    writer.write(masked(Hello("lazy")))
    await asyncio.sleep(0.2)  # until it is welcomed
    writer.write(masked(Start()))
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    good = await rig.play()
    await good.until(Status, playing)
    async with httpx.AsyncClient() as http:
        sent = []
        for _ in range(300):
            writer.write(masked(Ping(1.0)))  # it goes on talking: only its reading stopped
            sent.append((await good.until(Frame)).header.t_sent)
            if (
                'errors_total{code="client_too_slow"} 1.0'
                in (await http.get(rig.url + "metrics")).text
            ):
                break
        else:
            raise AssertionError("the lazy client was never dropped")
        # a server that waited for the lazy one would have been silent until it was dropped
        assert max(b - a for a, b in itertools.pairwise(sent)) < 1500
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            while True:
                await reader.readexactly(65536)
        writer.close()
    await good.until(Frame)


def masked(message: Hello | Start | Ping) -> bytes:
    """A WebSocket frame of a client, with the mask 0."""
    data = encode(message)
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2)
    return b"\x82" + length + bytes(4) + data


class TestResume:
    async def test_a_player_comes_back_to_the_same_world(self, rig: Rig) -> None:
        worker = await rig.worker()
        client = await rig.play()
        first = client.welcome
        await client.until(Status, playing)
        await client.send(Input((ControllerState(90, 1.0),)))
        frame = await client.until(Frame, lambda frame: frame.header.input_sequence == 90)
        await client.socket.close()
        again = await rig.greet(Hello("test", resume=first.resume))
        second = await again.until(Welcome)
        assert (second.session, second.resume) == (first.session, first.resume)
        assert second.started
        assert second.seats.used == 1
        assert (await again.until(Frame)).header.frame > frame.header.frame
        # it counts from 0 again, and is still heard
        await again.send(Input((ControllerState(0, 2.0),)))
        answer = await again.until(Frame, lambda frame: frame.header.input_sequence == 0)
        assert answer.header.input_time == 2.0
        assert len(worker.of(OpenSession)) == 1

    async def test_a_second_connection_takes_the_session_over(self, rig: Rig) -> None:
        await rig.worker()
        old = await rig.play()
        resume = old.welcome.resume
        new = await rig.greet(Hello("test", resume=resume))
        await new.until(Frame)
        assert (await old.until(Error)).code == "session_expired"
        await new.until(Frame)

    async def test_the_seat_is_free_after_the_grace(self, make_rig: RigMaker) -> None:
        rig = await make_rig(grace_s=0.3)
        worker = await rig.worker(seats=1)
        client = await rig.play()
        resume = client.welcome.resume
        await client.socket.close()
        await eventually(lambda: len(worker.of(CloseSession)) == 1)
        assert (await refusal(rig, Hello("test", resume=resume))).code == "session_expired"
        await rig.play()


class TestWorker:
    async def test_clients_wait_while_it_loads(self, rig: Rig) -> None:
        client = await rig.greet()
        assert isinstance(await client.next(), Status)
        worker = await rig.worker(ready=False)
        await worker.loading("reading weights", 0.5)
        status = await client.until(Status, lambda s: s.progress == 0.5)
        assert (status.state, status.detail) == ("loading", "reading weights")
        await worker.ready()
        assert not (await client.until(Welcome)).started
        await client.until(Status, lambda s: s.state == "ready")
        await client.send(Start())
        await client.until(Frame)

    async def test_it_dies_and_sessions_continue_from_what_was_saved(self, rig: Rig) -> None:
        worker = await rig.worker()
        client = await rig.play(Start("night", 3))
        session = client.welcome.session
        await client.until(Frame, lambda frame: frame.header.frame > 12)
        await worker.stop()
        assert (await client.until(Event)).name == "world_lost"
        await client.until(Status, lambda s: s.state == "reconnecting")
        second = await rig.worker()
        assert (await client.until(Event)).name == "world_restored"
        await client.until(Status, playing)
        frame = await client.until(Frame)
        assert frame.header.frame >= 10
        (opened,) = second.of(OpenSession)
        assert isinstance(opened, OpenSession) and opened.session == session
        assert opened.saved is not None and int(opened.saved) >= 10

    async def test_without_a_saved_session_the_world_begins_again(self, rig: Rig) -> None:
        worker = await rig.worker(ready=False)
        worker.step_s = 60.0  # never makes a frame
        await worker.ready()
        client = await rig.play(Start("night", 3))
        session = client.welcome.session
        await client.until(Status, playing)
        await worker.stop()
        await client.until(Status, lambda s: s.state == "reconnecting")
        second = await rig.worker()
        await client.until(Frame)
        assert second.of(OpenSession) == [OpenSession(session, "night", 3, None)]

    async def test_a_worker_that_hangs_is_noticed_and_welcomed_back(self, rig: Rig) -> None:
        worker = await rig.worker()
        client = await rig.play()
        await client.until(Status, playing)
        worker.answers_pings = False
        worker.worlds.clear()  # no frames either
        await client.until(Status, lambda s: s.state == "reconnecting")
        worker.answers_pings = True
        await client.until(Status, playing)

    async def test_a_lost_worker_ends_the_wait_at_last(self, make_rig: RigMaker) -> None:
        rig = await make_rig(worker_grace_s=0.3)
        worker = await rig.worker()
        client = await rig.play()
        await client.until(Status, playing)
        await worker.stop()
        assert (await client.until(Error)).code == "worker_lost"

    async def test_a_session_that_fails_tells_its_player(self, rig: Rig) -> None:
        worker = await rig.worker()
        client, other = await rig.play(), await rig.play()
        session = client.welcome.session
        await other.until(Status, playing)
        await worker.send(Failed(session, "world_failed", "the dice fell off", "dice", "none", "x"))
        error = await client.until(Error)
        assert (error.code, error.message, error.fatal) == (
            "world_failed",
            "the dice fell off",
            True,
        )
        await other.until(Frame)

    async def test_garbage_from_a_worker_is_ignored(self, rig: Rig) -> None:
        worker = await rig.worker()
        client = await rig.play()
        await client.until(Status, playing)
        await worker._socket.send_multipart([b"garbage"])
        await worker._socket.send_multipart([b"a", b"b", b"c", b"d"])
        await client.until(Frame)


class TestHttp:
    async def test_page_health_worlds(self, rig: Rig) -> None:
        async with httpx.AsyncClient(base_url=rig.url) as http:
            health = (await http.get("/health")).json()
            assert health["ready"] is False and health["mode"] is None
            assert (await http.get("/worlds")).json() == []
            await rig.worker()
            await eventually_ready(rig)
            assert (await http.get("/worlds")).json()[0]["themes"] == ["day", "night"]
            assert (await http.get("/health")).json()["mode"] == "jacobi"
            page = await http.get("/")
            assert page.status_code == 200
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            assert page.headers["cache-control"] == "no-cache"
            assert "default-src 'self'" in page.headers["content-security-policy"]
            script = await http.get("/js/protocol.js")
            assert script.headers["content-type"] == "text/javascript; charset=utf-8"

    @pytest.mark.parametrize(
        "path",
        [
            "/../__init__.py",
            "/__init__.py",
            "/%2e%2e/%2e%2e/pyproject.toml",
            "//etc/passwd",
            "/..%2f..%2fpyproject.toml",
            "/nothing.js",
            "/js/protocol.js/",
        ],
    )
    async def test_only_the_page_is_served(self, rig: Rig, path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status = await reader.readline()
        assert b" 404 " in status
        writer.close()

    @pytest.mark.parametrize(
        ("headers", "allowed"),
        [
            ({}, True),
            ({"Host": "localhost:1234"}, True),
            ({"Host": "[::1]"}, True),
            ({"Host": "evil.example"}, False),
            ({"Host": "127.0.0.1.evil.example"}, False),
            ({"Host": "evil@127.0.0.1"}, False),
            ({"Host": "play.example:8080"}, True),
            ({"Origin": "http://evil.example"}, False),
            ({"Origin": "null"}, False),
            ({"Origin": "https://friend.example"}, True),
            ({"Origin": "http://friend.example"}, False),
            ({"Origin": "http://localhost:9", "Host": "localhost:9"}, True),
            ({"Origin": "http://localhost:9", "Host": "localhost:8"}, False),
        ],
    )
    async def test_hosts_and_origins(
        self, make_rig: RigMaker, headers: dict[str, str], allowed: bool
    ) -> None:
        rig = await make_rig(
            allow_hosts=("play.example",), allow_origins=("https://friend.example",)
        )
        async with httpx.AsyncClient() as http:
            response = await http.get(rig.url + "health", headers=headers)
            assert response.status_code == (200 if allowed else 403)
        status = await upgrade(rig.port, {"Host": f"127.0.0.1:{rig.port}", **headers})
        if allowed:
            assert b" 101 " in status
        else:
            assert b" 403 " in status
            assert response.json()["code"] == "forbidden_origin"


async def test_the_page_loads_where_its_websocket_is_refused(rig: Rig) -> None:
    async with httpx.AsyncClient() as http:
        foreign = {"Origin": "https://evil.example"}
        for path in ("", "web/main.js", "js/index.js"):
            assert (await http.get(rig.url + path, headers=foreign)).status_code == 200
            assert (await http.post(rig.url + path, headers=foreign)).status_code == 403
            rebound = {"Host": "evil.example"}
            assert (await http.get(rig.url + path, headers=rebound)).status_code == 403
        for path in ("health", "worlds", "metrics", "prompt-frame", "whep/x"):
            assert (await http.get(rig.url + path, headers=foreign)).status_code == 403


async def upgrade(port: int, headers: dict[str, str]) -> bytes:
    """The status line of a WebSocket handshake with these headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    request = "GET /session HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    writer.write(request.encode())
    status = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return status


async def is_served(rig: Rig) -> bool:
    client = await rig.play()
    await client.until(Frame)
    await client.send(Bye())
    return True


async def eventually_ready(rig: Rig) -> None:
    async with httpx.AsyncClient() as http:
        for _ in range(500):
            if (await http.get(rig.url + "health")).json()["ready"]:
                return
            await asyncio.sleep(0.01)
    raise AssertionError("the gateway never was ready")


class TestProcess:
    async def start(self, port: int, tmp_path: Path) -> asyncio.subprocess.Process:
        config = f'{{"endpoint": "ipc://{tmp_path}/link", "port": {port}}}'
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "worldbridge.bridge",
            config,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    async def test_it_ends_in_order_on_sigterm(self, tmp_path: Path) -> None:
        process = await self.start(0, tmp_path)
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stderr.readline(), 60)
        assert b"listening on http://127.0.0.1:" in line
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0

    async def test_a_port_in_use_is_exit_code_3_and_says_what_to_do(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            process = await self.start(port, tmp_path)
            _, text = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 3
        assert f"cannot listen on 127.0.0.1:{port}".encode() in text
        assert b"choose another port" in text and b"Traceback" not in text

    def test_torch_is_never_imported(self) -> None:
        code = (
            "import sys, worldbridge.bridge.gateway.process, worldbridge.bridge.__main__,"
            " worldbridge.engine_plugins.python; sys.exit('torch' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"endpoint": ""},
        {"seats": 0},
        {"log_level": "loud"},
        {"grace_s": 0.0},
        {"token": ""},
        {"jpeg_quality": 0},
    ],
)
def test_configurations_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    settings: dict[str, object] = {"endpoint": "ipc:///tmp/x", **wrong}
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is out of its range"):
        GatewayConfig(**settings)  # type: ignore[arg-type]
