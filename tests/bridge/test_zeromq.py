"""Clients by ZeroMQ: play, credit, keys, and what a hostile or slow client can do."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import zmq
import zmq.asyncio

from tests.bridge.conftest import PATIENCE_S, Rig, RigMaker, eventually
from tests.support.fake_worker import SPEC, luma_error, moving_luma
from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.protocol import (
    BridgeError,
    Bye,
    ClientMessage,
    Codec,
    Credit,
    Error,
    Frame,
    FrameHeader,
    Hello,
    OpenSession,
    Ping,
    Pong,
    Pose,
    ProtocolError,
    ServerMessage,
    SessionDepth,
    Start,
    Status,
    Welcome,
    encode,
)
from worldbridge.bridge.transports.zeromq import (
    accepted_keys,
    client_options,
    from_parts,
    list_keys,
    load_public_key,
    make_keys,
    to_parts,
)
from worldbridge.cli import app
from worldbridge.engine_plugins.python import Client, ConnectError, connect
from worldbridge.engine_plugins.python.timing import percentiles
from worldbridge.errors import ConfigError

Message = TypeVar("Message")
HELLO = Hello("test", transports=("zeromq",), codecs=("i420",))
HEADER = FrameHeader(1, -1, 0.0, 1.0, 2.0, 3.0, 4.0, Pose(), width=4, height=2)


class Dealer:
    """A DEALER and the protocol, nothing clever."""

    def __init__(self, address: str, **options: Any) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in client_options(None, None).items():
            self._socket.setsockopt(option, value)
        for name, value in options.items():
            self._socket.setsockopt(getattr(zmq, name), value)
        self._socket.connect(address)

    async def send(self, *parts: ClientMessage | bytes) -> None:
        data = [part if isinstance(part, bytes) else encode(part) for part in parts]
        await self._socket.send_multipart(data)

    async def until(
        self, kind: type[Message], wanted: Callable[[Message], bool] = lambda message: True
    ) -> Message:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if not await self._socket.poll(300):
                await self.send(Ping(time.monotonic()))
                continue
            message = from_parts(await self._socket.recv_multipart())
            if isinstance(message, kind) and wanted(message):
                return message
        raise AssertionError(f"no {kind.__name__} came within {PATIENCE_S} s")

    async def rest(self, wait_ms: int) -> list[ServerMessage]:
        """What has come, or comes within a while."""
        found = []
        while await self._socket.poll(wait_ms):
            found.append(from_parts(await self._socket.recv_multipart()))
        return found

    def close(self) -> None:
        self._context.destroy(linger=0)


@asynccontextmanager
async def dealer(rig: Rig, **options: Any) -> AsyncIterator[Dealer]:
    client = Dealer(rig.zeromq, **options)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
async def rig(make_rig: RigMaker) -> Rig:
    return await make_rig(zmq_port=0)


# --- messages in parts ------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "size"), [("rgb", 24), ("bgra", 32), ("i420", 12), ("jpeg", 5)])
@pytest.mark.parametrize("depth", [None, bytes(16)])
def test_a_frame_comes_back_from_its_parts(codec: Codec, size: int, depth: bytes | None) -> None:
    frame = Frame(HEADER, bytes(size), codec, depth, None if depth is None else 0.001)
    parts = to_parts(frame)
    assert len(parts) == (2 if depth is None else 3)
    assert len(parts[0]) < 400, "the image is in a part of its own"
    assert from_parts(parts) == frame
    for wrong in (parts[:1], parts[:-1], [*parts, b""], [parts[0], b"", *parts[2:]]):
        if wrong != parts and (codec != "jpeg" or len(wrong) != len(parts)):
            with pytest.raises(ProtocolError, match="parts of the message do not fit"):
                from_parts(wrong)


def test_any_parts_are_a_message_or_an_error() -> None:
    generator = random.Random(1)
    seeds = [
        to_parts(Frame(HEADER, bytes(24), "rgb", bytes(16), 0.001)),
        to_parts(Frame(HEADER, b"\xff\xd8", "jpeg")),
        to_parts(Status("playing")),
        to_parts(Error("internal", "message")),
    ]
    accepted = 0
    for _ in range(20_000):
        parts = [bytearray(part) for part in generator.choice(seeds)]
        for _ in range(generator.randint(1, 3)):
            part = generator.choice(parts)
            match generator.randrange(5):
                case 0 if part:
                    part[generator.randrange(len(part))] = generator.randrange(256)
                case 1:
                    del part[generator.randrange(len(part) + 1) :]
                case 2:
                    part += generator.randbytes(3)
                case 3 if len(parts) > 1:
                    parts.remove(part)
                case 4:
                    parts.append(part)
        try:
            message = from_parts([bytes(part) for part in parts])
        except ProtocolError as error:
            assert error.expected and error.got
        else:
            accepted += 1
            if isinstance(message, Frame) and message.codec == "rgb" and message.image:
                assert len(message.image) == message.header.width * message.header.height * 3
    assert 0 < accepted < 20_000
    with pytest.raises(ProtocolError, match="first part"):
        from_parts([])


# --- playing ----------------------------------------------------------------------------------


async def test_it_plays(rig: Rig) -> None:
    worker = await rig.worker()
    async with connect(rig.zeromq, theme="night", seed=5) as client:
        frame = await client.frame()
        assert frame.rgb().shape == (SPEC.height, SPEC.width, 3)
        sent = client.steer(keys=["KeyW"])
        while (frame := await client.frame()).header.input_sequence < sent.sequence:
            pass
        assert frame.header.input_time == sent.time
        assert client.welcome is not None
        assert (client.welcome.transport, client.welcome.codec) == ("zeromq", "rgb")
        async with connect(rig.url, watch=True) as watcher:  # by WebSocket, beside it
            jpeg = await watcher.frame()
        assert jpeg.codec == "jpeg"
    (opened,) = worker.of(OpenSession)
    assert isinstance(opened, OpenSession) and (opened.theme, opened.seed) == ("night", 5)
    await eventually(lambda: not worker.worlds)  # leaving the block freed the seat


@pytest.mark.parametrize("codec", ["rgb", "bgra", "i420", "jpeg"])
async def test_every_codec_shows_the_same_frame(rig: Rig, codec: Codec) -> None:
    await rig.worker()
    async with connect(rig.zeromq, codec=codec) as client:
        frame = await client.frame()
    assert frame.codec == codec
    luma = moving_luma(frame.header.frame)
    grey = (luma - 16) * 255 / 219
    red = grey + 1.596 * (150 - 128)
    blue = grey + 2.017 * (100 - 128)
    found = frame.rgb()[SPEC.height // 2].astype(float)
    inner = np.abs(np.diff(luma, prepend=luma[0])) < 3  # not where the ramp begins again
    inner &= (grey > 60) & (grey < 200)
    assert np.abs(found[inner, 0] - red[inner]).mean() < 6
    assert np.abs(found[inner, 2] - blue[inner]).mean() < 6


@pytest.mark.parametrize("transport", ["zeromq", "url"])
async def test_video_comes_whole_and_follows_the_frames(rig: Rig, transport: str) -> None:
    await rig.worker()
    async with connect(getattr(rig, transport), codec="h264") as client:
        numbers, errors = [], []
        while len(numbers) < 10:
            frame = await client.frame()
            numbers.append(frame.header.frame)
            errors.append(luma_error(frame.image, numbers[-1]))
        assert frame.rgb().shape == (SPEC.height, SPEC.width, 3)
        assert client.welcome is not None and client.welcome.codec == "h264"
    assert numbers == sorted(set(numbers))
    assert max(errors) < 6, "each frame shows what its header says"


async def test_the_blocking_player_steps(rig: Rig) -> None:
    await rig.worker()

    def play() -> int:
        with connect(rig.zeromq) as player:
            return player.step(keys=("KeyW",)).header.input_sequence

    assert await asyncio.to_thread(play) >= 0


async def test_a_session_is_resumed_by_another_transport(rig: Rig) -> None:
    await rig.worker()
    async with dealer(rig) as first:
        await first.send(HELLO)
        welcome = await first.until(Welcome)
        await first.send(Start())
        await first.until(Status, lambda status: status.state == "playing")
        second = await rig.greet(Hello("test", resume=welcome.resume))
        again = await second.until(Welcome)
        assert (again.session, again.started) == (welcome.session, True)
        error = await first.until(Error)
        assert error.code == "session_expired" and error.fatal


async def test_a_client_that_is_gone_leaves_its_seat_for_its_return(rig: Rig) -> None:
    await rig.worker()
    async with dealer(rig) as first:
        await first.send(HELLO)
        welcome = await first.until(Welcome)
        await first.send(Start(), Start())  # two parts: this connection ends
        assert (await first.until(Error)).code == "bad_message"
    async with dealer(rig) as second:
        await second.send(HELLO.replace(resume=welcome.resume))
        assert (await second.until(Welcome)).session == welcome.session


# --- credit -----------------------------------------------------------------------------------


async def test_no_more_frames_come_than_were_granted(rig: Rig) -> None:
    await rig.worker()
    async with dealer(rig) as client:
        await client.send(HELLO)
        await client.until(Welcome)
        await client.send(Start())
        await client.until(Status, lambda status: status.state == "playing")
        assert not [m for m in await client.rest(200) if isinstance(m, Frame)]
        await client.send(Credit(3))
        frames = [m for m in await client.rest(500) if isinstance(m, Frame)]
        assert len(frames) == 3
        await asyncio.sleep(0.3)
        asked = time.monotonic() * 1000
        await client.send(Credit(1))
        newest = await client.until(Frame)
        assert newest.header.frame > frames[-1].header.frame + 1, "the newest, not the next"
        # one that waited in the gateway, or the next one: the frame before has been replaced
        period = 1000 / SPEC.fps
        assert newest.header.t_frame > asked - 3 * period


async def test_credit_that_is_never_given_is_asked_for(make_rig: RigMaker) -> None:
    rig = await make_rig(zmq_port=0, silence_s=1.0)
    await rig.worker()
    async with dealer(rig) as client:
        await client.send(HELLO)
        await client.until(Welcome)
        error = await client.until(Error)
        assert (error.code, error.fatal) == ("client_too_slow", False)
        assert "credit" in error.expected and "credit" in error.remedy
        await client.send(Start())
        await client.send(Credit(1))
        await client.until(Frame)  # it is not too late


@pytest.mark.serial
async def test_a_slow_client_gets_no_old_frames_and_slows_no_other(rig: Rig) -> None:
    await rig.worker(spec=SPEC.replace(fps=60.0))
    pause_s, ages, rates = 0.5, [], []

    def sleepy(resume: str) -> None:
        async def play() -> None:
            async with connect(rig.zeromq, watch=True) as client:
                for _ in range(8):
                    frame = await client.frame()
                    ages.append(time.monotonic() * 1000 - frame.header.t_frame)
                    time.sleep(pause_s)  # the whole event loop: nobody reads the socket

        asyncio.run(play())

    async with connect(rig.zeromq) as fast:
        await fast.frame()

        async def rate(seconds: float) -> float:
            count, begun = 0, time.monotonic()
            while time.monotonic() - begun < seconds:
                await fast.frame()
                fast.steer()
                count += 1
            return count / (time.monotonic() - begun)

        rates.append(await rate(2.0))
        slow = asyncio.create_task(asyncio.to_thread(sleepy, ""))
        rates.append(await rate(2.0))
        await slow
    print(f"ages {[round(age) for age in ages]} ms, fast neighbour {rates} frames/s")
    late_ms = 400  # what a loaded machine adds; without credit the second frame is 1 s old
    assert max(ages[1:]) < pause_s * 1000 + 1000 / 60 + late_ms
    assert rates[1] > 0.6 * rates[0]


# --- depth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["zeromq", "url"])
async def test_depth_comes_to_who_asks_for_it_and_only_while_someone_does(
    rig: Rig, transport: str
) -> None:
    worker = await rig.worker(spec=SPEC.replace(depth=True))
    async with connect(rig.zeromq) as player:
        assert (await player.frame()).depth() is None
        async with connect(getattr(rig, transport), watch=True, depth=True) as watcher:
            while (metres := (await watcher.frame()).depth()) is None:
                pass
            assert metres.shape == (SPEC.height, SPEC.width) and metres.dtype == np.float32
            assert np.isinf(metres[:, 0]).all()
            np.testing.assert_allclose(metres[5, 1:], np.arange(1, SPEC.width) / 100, rtol=1e-5)
            assert (await player.frame()).depth() is None
        await eventually(lambda: len(worker.of(SessionDepth)) == 2)
        asked = [m.wanted for m in worker.of(SessionDepth) if isinstance(m, SessionDepth)]
        assert asked == [True, False]
        before = (await player.frame()).header.frame
        while (await player.frame()).header.frame < before + 3:
            pass  # frames go on


async def test_a_world_without_depth_sends_none(rig: Rig) -> None:
    worker = await rig.worker()
    async with connect(rig.zeromq, depth=True) as client:
        assert (await client.frame()).depth() is None
    assert not worker.of(SessionDepth)


# --- what is refused --------------------------------------------------------------------------


async def test_an_identity_of_its_own_is_refused_each_time_it_is_used(rig: Rig) -> None:
    await rig.worker()
    async with dealer(rig, ROUTING_ID=b"cam") as first:
        await first.send(HELLO)
        refusals = [await first.until(Error)]
        async with dealer(rig, ROUTING_ID=b"cam") as second:
            await second.send(HELLO)
            refusals.append(await second.until(Error))
    for error in refusals:
        assert error.code == "bad_message" and error.fatal
        assert "cam" in error.got and "ZMQ_ROUTING_ID" in error.remedy
    async with dealer(rig) as honest:
        await honest.send(HELLO)
        assert (await honest.until(Welcome)).session


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([b"garbage"], "bad_message"),
        ([b""], "bad_message"),
        ([encode(HELLO), encode(HELLO)], "bad_message"),
        ([encode(Ping(1.0))], "not_greeted"),
        ([encode(Hello(transports=("websocket",)))], "unsupported"),
        ([encode(Hello(transports=("zeromq",), codecs=("h265",)))], "unsupported"),
        ([encode(HELLO) + bytes(5000)], "message_too_large"),
    ],
)
async def test_a_wrong_first_message_is_a_typed_error(
    rig: Rig, parts: list[bytes], code: str
) -> None:
    await rig.worker()
    async with dealer(rig) as client:
        await client.send(*parts)
        error = await client.until(Error)
        assert (error.code, error.fatal) == (code, True)
        assert error.expected and error.got and error.remedy
        await client.send(HELLO)  # what comes after the end is not looked at
        assert not [m for m in await client.rest(300) if isinstance(m, Welcome)]


async def test_the_token_counts_here_too(make_rig: RigMaker) -> None:
    rig = await make_rig(zmq_port=0, token="secret")
    await rig.worker()
    async with connect(rig.zeromq, token="wrong") as client:
        with pytest.raises(BridgeError, match="requires a token"):
            await client.frame()
    async with connect(rig.zeromq, token="secret") as client:
        assert (await client.frame()).header.width == SPEC.width


@pytest.mark.serial
async def test_floods_and_mutated_messages_cost_others_little(rig: Rig) -> None:
    await rig.worker()
    generator = random.Random(2)
    seeds = [encode(message) for message in (HELLO, Ping(1.0), Start(), Credit(2), Bye())]
    stop = threading.Event()
    gaps: dict[str, list[float]] = {"quiet": [], "flooded": []}

    async def watch(client: Client, name: str, count: int) -> None:
        for _ in range(count):
            begun = time.monotonic()
            await client.frame()
            client.steer()
            gaps[name].append((time.monotonic() - begun) * 1000)

    def flood() -> None:
        with zmq.Context() as context:
            while not stop.is_set():
                with context.socket(zmq.DEALER) as hostile:
                    hostile.setsockopt(zmq.LINGER, 0)
                    hostile.connect(rig.zeromq)
                    hostile.send(encode(HELLO.replace(role="spectator")))
                    for number in range(100):
                        data = bytearray(generator.choice(seeds))
                        data[generator.randrange(len(data))] = generator.randrange(256)
                        hostile.send_multipart([data] * generator.choice((1, 1, 1, 3)))
                        if number % 20 == 0:
                            time.sleep(0.005)

    async with connect(rig.zeromq) as honest:
        await watch(honest, "quiet", 30)
        flooding = asyncio.create_task(asyncio.to_thread(flood))
        try:
            await watch(honest, "flooded", 30)
            assert not flooding.done(), flooding.result()
        finally:
            stop.set()
            await flooding
        assert honest.reconnects == 0
    for name, found in gaps.items():
        print(f"{name}: time between frames {percentiles(found)} ms")


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
PING = b"\x04\x07\x04PING\0\0"
HUGE = b"\x02" + (1 << 40).to_bytes(8, "big")
ATTACKS: dict[str, Callable[[random.Random], bytes]] = {
    "nothing": lambda generator: b"",
    "half a greeting": lambda generator: GREETING[: generator.randrange(64)],
    "garbage": lambda generator: generator.randbytes(500),
    "HTTP": lambda generator: b"GET / HTTP/1.1\r\nHost: localhost:5555\r\n\r\n" + bytes(64),
    "no handshake": lambda generator: GREETING + generator.randbytes(500),
    "a command cut short": lambda generator: GREETING + b"\x04\x0a\x05READY\x0bSo",
    "a huge frame": lambda generator: GREETING + READY + HUGE + bytes(65_536),
    "a huge command": lambda generator: GREETING + b"\x06" + HUGE[1:] + bytes(65_536),
    "endless parts": lambda generator: GREETING + READY + b"\x01\x01x" * 20_000,
    "empty messages": lambda generator: GREETING + READY + b"\0\0" * 20_000,
    "heartbeats": lambda generator: GREETING + READY + PING * 20_000,
    "garbage in frames": lambda generator: (
        GREETING + READY + b"".join(b"\0\x20" + generator.randbytes(32) for _ in range(1000))
    ),
}


CURVE = GREETING.replace(b"NULL\0", b"CURVE")
CURVE_HELLO = b"\x04\xc8\x05HELLO\x01\x00" + bytes(72)
CURVE_ATTACKS: dict[str, Callable[[random.Random], bytes]] = {
    "half a greeting": lambda generator: CURVE[: generator.randrange(64)],
    "no handshake": lambda generator: CURVE + generator.randbytes(500),
    "another mechanism": lambda generator: GREETING + READY,
    "READY": lambda generator: CURVE + READY,
    "an empty key": lambda generator: CURVE + CURVE_HELLO + bytes(128),
    "a wrong key": lambda generator: CURVE + CURVE_HELLO + generator.randbytes(128),
    "INITIATE": lambda generator: (
        CURVE
        + CURVE_HELLO
        + generator.randbytes(128)
        + b"\x04\xf0\x08INITIATE"
        + generator.randbytes(231)
    ),
    "a huge command": lambda generator: CURVE + b"\x06" + HUGE[1:] + bytes(65_536),
    "heartbeats": lambda generator: CURVE + PING * 20_000,
}


def serving() -> int:
    """How many connections without keys are being served."""
    return sum("ZmtpServer._serve" in repr(task.get_coro()) for task in asyncio.all_tasks())


@pytest.mark.serial
@pytest.mark.parametrize(
    "attacks", [ATTACKS, pytest.param(CURVE_ATTACKS, marks=pytest.mark.long)], ids=["", "keys"]
)
async def test_the_port_outlives_floods_below_the_protocol(
    make_rig: RigMaker, tmp_path: Path, attacks: dict[str, Callable[[random.Random], bytes]]
) -> None:
    keys, options = {}, {}
    if attacks is CURVE_ATTACKS:
        server, folder = make_keys(tmp_path / "keys", "server"), tmp_path / "keys"
        make_keys(folder, "alice")
        keys = {"key": folder / "alice.key_secret", "server_key": server.public.decode()}
        options = {"zmq_keys": str(folder)}
    rig = await make_rig(zmq_port=0, **options)
    await rig.worker()
    host, _, port = rig.zeromq.removeprefix("tcp://").rpartition(":")
    stop = threading.Event()
    counts = dict.fromkeys(attacks, 0)

    def flood(seed: int) -> None:
        generator = random.Random(seed)
        held: list[socket.socket] = []
        while not stop.is_set():
            name = generator.choice(list(attacks))
            attacker = socket.create_connection((host, int(port)), PATIENCE_S)
            with suppress(OSError):  # it was cut already
                attacker.settimeout(1.0)
                attacker.sendall(attacks[name](generator))
            counts[name] += 1
            held.append(attacker)  # half open
            if len(held) > 200:
                held.pop(generator.randrange(200)).close()
        for attacker in held:
            attacker.close()

    async with connect(rig.zeromq, **keys) as honest:  # type: ignore[arg-type]
        await honest.frame()
        floods = [asyncio.create_task(asyncio.to_thread(flood, seed)) for seed in range(2)]
        try:
            begun, frames = time.monotonic(), 0
            while time.monotonic() - begun < 2.5 or min(counts.values()) == 0:
                sent = honest.steer(keys=["KeyW"])
                await honest.frame()
                frames += 1
            while (await honest.frame()).header.input_sequence < sent.sequence:
                pass
        finally:
            stop.set()
            await asyncio.gather(*floods)
        print(f"{sum(counts.values())} connections {counts}, {frames} frames meanwhile")
        assert honest.reconnects == 0
    await eventually(lambda: serving() == 0)  # nothing is left of the attackers
    async with connect(rig.zeromq, **keys) as late:  # type: ignore[arg-type]
        assert (await late.frame()).header.width == SPEC.width


async def test_heartbeats_of_a_client_are_answered(rig: Rig) -> None:
    host, _, port = rig.zeromq.removeprefix("tcp://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(GREETING + READY + b"\x04\x0b\x04PING\0\x0acome")
    async with asyncio.timeout(PATIENCE_S):
        await reader.readuntil(b"\x04\x09\x04PONGcome")  # with the bytes that it wants back
    writer.close()


async def test_what_cannot_be_a_frame_is_a_typed_error(rig: Rig) -> None:
    await rig.worker()
    host, _, port = rig.zeromq.removeprefix("tcp://").rpartition(":")
    for bytes_sent, said in (
        (GREETING + READY + HUGE, b"message_too_large"),
        (GREETING + READY + b"\x01\x01x", b"too many parts"),
        (GREETING + READY + b"\x80\x01x", b"unknown flags"),
        (GREETING + READY + PING * 100, b"too many ZMTP commands"),
        (GREETING + READY.replace(b"DEALER", b"ROUTER"), b"a DEALER"),
        (GREETING + b"\0\x01x", b"out of order"),
        (GREETING.replace(b"NULL\0", b"CURVE"), b"wants keys"),
        (GREETING.replace(b"\x7f\x03", b"\x7f\x01"), b"too old"),
        (bytes(64), b"this is no ZMTP"),
    ):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(bytes_sent)
        answer = b""
        while said not in answer:
            found = await asyncio.wait_for(reader.read(4096), PATIENCE_S)
            assert found, (bytes_sent, answer)
            answer += found
        writer.close()


async def test_a_client_that_grants_credit_and_reads_nothing_is_cut(make_rig: RigMaker) -> None:
    rig = await make_rig(zmq_port=0, stall_s=0.5)
    await rig.worker(spec=SPEC.replace(width=1024, height=512, fps=60.0))

    def clients() -> float:
        with urllib.request.urlopen(rig.url + "health", timeout=PATIENCE_S) as answer:
            return float(json.load(answer)["clients"])

    async with dealer(rig, RCVHWM=1) as greedy:
        await greedy.send(HELLO)
        await greedy.until(Welcome)
        await greedy.send(Start())
        deadline = time.monotonic() + 2 * PATIENCE_S
        while await asyncio.to_thread(clients) > 0:
            assert time.monotonic() < deadline, "it still has its seat"
            with suppress(zmq.Again):
                await greedy.send(Credit(8))
                await greedy.send(Ping(time.monotonic()))
            await asyncio.sleep(0.02)


async def test_a_silent_client_is_forgotten_with_an_error(make_rig: RigMaker) -> None:
    rig = await make_rig(zmq_port=0, silence_s=0.5, hello_s=0.5)
    await rig.worker()
    async with dealer(rig) as client:
        await client.send(HELLO)
        found = await client.rest(1500)
        assert [m.code for m in found if isinstance(m, Error)][-1] == "session_expired"


# --- keys -------------------------------------------------------------------------------------


async def test_only_clients_with_a_key_of_the_folder_play(
    make_rig: RigMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "keys"
    server = make_keys(folder, "server")
    make_keys(folder, "alice")
    make_keys(tmp_path / "others", "mallory")
    rig = await make_rig(zmq_port=0, zmq_keys=str(folder))
    await rig.worker()
    alice, mallory = folder / "alice.key_secret", tmp_path / "others" / "mallory.key_secret"

    async with connect(rig.zeromq, key=alice, server_key=folder / "server.key") as client:
        assert (await client.frame()).rgb().shape == (SPEC.height, SPEC.width, 3)
    async with connect(rig.zeromq, key=mallory, server_key=server.public.decode()) as client:
        with pytest.raises(BridgeError, match="refused the key") as caught:
            await asyncio.wait_for(client.frame(), PATIENCE_S)
        assert caught.value.code == "unauthorized" and "mallory" in caught.value.got
        assert "folder" in caught.value.expected and ".key" in caught.value.remedy
    wrong = tmp_path / "others" / "mallory.key"
    async with connect(rig.zeromq, key=alice, server_key=wrong) as client:
        with pytest.raises(BridgeError, match="another key") as caught:
            await asyncio.wait_for(client.frame(), PATIENCE_S)
        assert caught.value.code == "unauthorized"
    async with connect(rig.zeromq) as client:
        with pytest.raises(ConnectError, match="without keys"):
            await asyncio.wait_for(client.frame(), PATIENCE_S)
    (folder / "alice.key").rename(tmp_path / "alice.key")  # from now on she may not
    async with connect(rig.zeromq, key=alice, server_key=server.public.decode()) as client:
        with pytest.raises(BridgeError, match="refused the key"):
            await asyncio.wait_for(client.frame(), PATIENCE_S)


async def test_keys_for_a_server_without_them_are_an_error(rig: Rig, tmp_path: Path) -> None:
    make_keys(tmp_path, "server")
    make_keys(tmp_path, "alice")
    await rig.worker()
    keys = dict(key=tmp_path / "alice.key_secret", server_key=tmp_path / "server.key")
    async with connect(rig.zeromq, **keys) as client:  # type: ignore[arg-type]
        with pytest.raises(BridgeError, match="another key, or none"):
            await asyncio.wait_for(client.frame(), PATIENCE_S)


def test_keys_are_files_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    pair = make_keys(folder, "alice")
    assert pair.secret is not None and len(pair.public) == len(pair.secret) == 40
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "alice.key_secret").stat().st_mode & 0o077 == 0
    make_keys(folder, "server")
    (folder / "bob.key").write_bytes((folder / "alice.key").read_bytes())
    assert [(p.name, p.secret is None) for p in list_keys(folder)] == [
        ("alice", False),
        ("bob", True),
        ("server", False),
    ]
    assert accepted_keys(folder) == {pair.public: "bob"}
    assert load_public_key(pair.public.decode()) == pair.public
    with pytest.raises(ConfigError, match="these keys exist"):
        make_keys(folder, "alice")
    with pytest.raises(ConfigError, match="cannot name a key"):
        make_keys(folder, "../alice")
    (folder / "bob.key").write_text("nothing")
    with pytest.raises(ConfigError, match="cannot read the key"):
        accepted_keys(folder)


def test_the_command_makes_and_lists_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("server", "alice"):
        app(["keys", "make", name, "--folder", str(tmp_path)], standalone_mode=False)
    made = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    (tmp_path / "server.key_secret").unlink()
    app(["keys", "list", "--folder", str(tmp_path)], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(made) == [line.split()[:2] for line in lines]
    assert ["secret" in line for line in lines] == [True, False]


def test_another_network_needs_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zmq_host"):
        GatewayConfig(zmq_port=0, zmq_host="0.0.0.0")
    with pytest.raises(ConfigError, match="zmq_host"):
        GatewayConfig(zmq_port=0, zmq_host="example.org")
    with pytest.raises(ConfigError, match="worldbridge keys make server"):
        GatewayConfig(zmq_port=0, zmq_host="0.0.0.0", zmq_keys=str(tmp_path))
    make_keys(tmp_path, "server")
    GatewayConfig(zmq_port=0, zmq_host="0.0.0.0", zmq_keys=str(tmp_path))
    GatewayConfig(zmq_port=0, zmq_host="::1")


def test_a_wrong_address_or_codec_is_an_error_of_the_call(tmp_path: Path) -> None:
    for url in ("tcp://127.0.0.1", "ipc:///tmp/x", "127.0.0.1:5555"):
        with pytest.raises(ValueError, match="expected an address"):
            connect(url)
    with pytest.raises(ValueError, match="both `key` and `server_key`"):
        connect("tcp://127.0.0.1:1", key=tmp_path)
    with pytest.raises(ValueError, match="the codec jpeg or h264"):
        connect("http://127.0.0.1:1", codec="rgb")


async def test_a_server_that_returns_is_found_again(rig: Rig) -> None:
    await rig.worker()
    async with connect("tcp://127.0.0.1:1") as client:
        await eventually(lambda: client.reconnects > 0)  # nothing listens: it tries again
    async with dealer(rig) as other:
        await other.send(HELLO)
        await other.until(Welcome)
        await other.send(Ping(7.0))
        assert (await other.until(Pong)).time == 7.0
