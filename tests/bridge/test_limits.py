"""What one connection may cost, from accept on."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from typing import Any, Literal

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.bridge.conftest import Rig, RigMaker
from worldbridge.bridge.gateway import limits
from worldbridge.bridge.gateway.limits import ConnectionTable, PacedReading, Turns, WorkBudget
from worldbridge.bridge.protocol import (
    MAX_OBSERVATION,
    ControllerState,
    Error,
    Hello,
    Input,
    Ping,
    Pong,
    Status,
    Welcome,
    encode,
)


class _Transport:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def _table(most: int, per_address: int) -> tuple[ConnectionTable, Any]:
    table = ConnectionTable(most, per_address)

    def add(address: str = "a") -> Any:
        transport: Any = _Transport()
        table.add(transport, address)
        return transport

    return table, add


def test_the_oldest_idle_connection_makes_room() -> None:
    table, add = _table(2, 2)
    session, idle = add("a"), add("b")
    table.use(session)
    newest = add("c")
    assert (session.aborted, idle.aborted, newest.aborted) == (False, True, False)
    assert len(table) == 2


class _Flood(PacedReading):
    """Has more bytes whenever it is read, and each of them costs CPU time."""

    def __init__(self, table: ConnectionTable, address: str, player: bool) -> None:
        self.table = table  # type: ignore[misc]
        self.address = address
        self.loop = asyncio.get_running_loop()
        self.transport: Any = self
        self.read_s, self.longest_s, self.aborted = 0.0, 0.0, False
        self._own = WorkBudget(*limits.AT_ONCE) if player else table.turns.newcomers
        self.keep_reading()

    @property
    def share(self) -> WorkBudget:
        return self._own

    def read(self, data: bytes) -> None:
        until = time.thread_time() + len(data) * 10e-6
        while time.thread_time() < until:
            pass

    def advance(self) -> float:
        before = time.thread_time()
        took = super().advance()
        spent = time.thread_time() - before
        self.read_s, self.longest_s = self.read_s + spent, max(self.longest_s, spent)
        return took

    def keep_reading(self) -> None:
        self.data_received(bytes(200_000))

    def pause_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


async def test_floods_take_a_small_share_in_short_steps() -> None:
    table, _ = _table(10, 10)
    began = time.monotonic()
    floods = [_Flood(table, str(n % 3), player=n % 2 == 0) for n in range(8)]
    await asyncio.sleep(3.0)
    seconds = time.monotonic() - began
    for flood in floods:
        flood.abort()
    read = sum(flood.read_s for flood in floods)
    longest = max(flood.longest_s for flood in floods)
    print(f"8 floods: {read / seconds:.0%} of the time, {longest * 1000:.1f} ms at most at once")
    players, newcomers = limits.AT_ONCE, limits.NEWCOMERS
    free = 4 * players[1] + newcomers[1]
    rate = 4 * players[0] + newcomers[0] + limits.LATER
    assert read < free + rate * seconds + 0.1
    assert all(flood.read_s > 0 for flood in floods), "everybody's turn comes"
    assert longest < 0.02, "one step is 1 ms, and a slice that was dearer than those before"


class _Greedy:
    """Waits for its next turn as soon as it had one."""

    def __init__(self, turns: Turns, address: str, newcomer: bool) -> None:
        self.turns, self.address, self.newcomer, self.count = turns, address, newcomer, 0

    def advance(self) -> float:
        self.count += 1
        self.turns.wait(self)  # type: ignore[arg-type]
        return 0.02


async def test_turns_have_pauses_and_are_taken_one_after_the_other() -> None:
    turns = Turns()
    waiting = [_Greedy(turns, address, address > "b") for address in "aabcd"]
    for one in waiting:
        turns.wait(one)  # type: ignore[arg-type]
    began = time.monotonic()
    async with asyncio.timeout(60):
        while min(one.count for one in waiting) < 1:
            await asyncio.sleep(0.01)
    taken = sum(one.count for one in waiting)
    pause = 0.02 * (1 / limits.LATER - 1)
    assert taken <= (time.monotonic() - began) / pause + 2, "10 % of the time"
    assert max(one.count for one in waiting) <= 4


async def test_what_waits_together_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_HELD_TOGETHER", 500_000)
    table, _ = _table(10, 10)
    floods = [_Flood(table, str(n), player=False) for n in range(5)]
    assert 1 <= sum(flood.aborted for flood in floods) < 5
    assert table.turns.held <= 500_000
    for flood in floods:
        flood.abort()


def test_work_that_never_ends_is_found_on_a_busy_machine() -> None:
    """It has 5 % of a core, and holds the event loop up all of the time."""
    budget = WorkBudget(rate=0.1, burst=0.5)
    assert [budget.spend(0.05, 101.0 + n, held=1.0) for n in range(20)].count(True) <= 11
    patient = WorkBudget(rate=0.1, burst=0.5)
    assert all(patient.spend(0.05, 101.0 + n, held=0.1) for n in range(100))


def test_one_address_does_not_take_the_place_of_others() -> None:
    _, add = _table(10, 3)
    other = add("b")
    mine = [add("a") for _ in range(5)]
    assert [t.aborted for t in mine] == [True, True, False, False, False]
    assert not other.aborted


def test_the_newest_goes_if_all_others_play() -> None:
    table, add = _table(2, 2)
    for transport in (add(), add()):
        table.use(transport)
    newest = add()
    assert newest.aborted and len(table) == 2


def test_a_budget_allows_its_rate_and_a_burst() -> None:
    budget = WorkBudget(rate=0.1, burst=0.5)
    assert all(budget.spend(0.001, n * 0.01) for n in range(10_000)), (
        "0.1 s per second, however long"
    )
    assert budget.spend(0.4, 200.0)
    assert not budget.spend(0.4, 200.1)
    assert budget.spend(0.4, 210.0)


def test_the_limit_of_open_files_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    new: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: new.append(pair))
    assert limits.descriptors() == 4_096 - 256
    assert new == [(4_096, 4_096)]


async def _health(rig: Rig) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{rig.port}/health", timeout=10)).status_code


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_connections_that_say_nothing_end_and_stop_nobody(
    make_rig: RigMaker, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(limits, "REQUEST_S", 2.0)
    rig = await make_rig(max_clients=16)
    streams = []
    for _ in range(100):  # more than four per client
        streams.append(await asyncio.open_connection("127.0.0.1", rig.port))
        streams[-1][1].write(said)
        assert len(streams) % 25 or await _health(rig) == 200
    async with asyncio.timeout(20):
        for reader, writer in streams:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
    assert await _health(rig) == 200


async def test_a_connection_with_request_after_request_is_not_idle(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUEST_S", 3.0)
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        until = time.monotonic() + 5.5
        while time.monotonic() < until:
            assert (await http.get(rig.url + "health")).status_code == 200
            await asyncio.sleep(0.05)


async def test_empty_fragments_end_their_connection_alone(rig: Rig) -> None:
    await rig.worker()
    player = await rig.play()
    await player.until(Status, lambda status: status.state == "playing")
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(
        b"GET /session HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    empty = b"\x00\x80\x00\x00\x00\x00"
    writer.write(b"\x02\x80\x00\x00\x00\x00")
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - began < 30:
            writer.write(empty * 2_000)
            await writer.drain()
            await asyncio.sleep(0.01)
    assert time.monotonic() - began < 30, "it was not ended"
    await player.send(Ping(1.0))
    await player.until(Pong)


async def test_text_that_is_not_utf8_ends_its_connection_and_logs_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    client = await rig.raw()
    client.socket.transport.write(b"\x81\x82" + bytes(4) + b"\xed\xa0")
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await client.next()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1007
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


async def test_input_that_was_held_back_ends_nobody(rig: Rig) -> None:
    await rig.worker()
    player = await rig.play()
    await player.until(Status, lambda status: status.state == "playing")
    for number in range(3_900):  # 1000 Hz, held back for 3.9 s
        await player.socket.send(encode(Input((ControllerState(number, 1.0),))))
    await player.send(Ping(7.0))
    while (await player.until(Pong)).time != 7.0:
        pass


@pytest.mark.parametrize("role", [None, "spectator"])
async def test_a_large_message_that_nobody_awaits_is_never_kept(
    rig: Rig, role: Literal["spectator"] | None
) -> None:
    await rig.worker()
    player = await rig.play()
    client = await rig.raw()
    if role is not None:
        await client.send(Hello(role=role))
        await client.until(Welcome)
    transport = client.socket.transport
    transport.write(b"\x82\xff" + MAX_OBSERVATION.to_bytes(8) + bytes(4) + bytes(60_000))
    with pytest.raises(ConnectionClosed):
        while True:
            await client.next()
    await player.send(bytes(MAX_OBSERVATION))  # the same of a player is read, and answered
    assert (await player.until(Error)).code == "message_too_large"


async def test_a_first_message_that_is_dear_to_read_ends_its_client(rig: Rig) -> None:
    client = await rig.raw()
    with contextlib.suppress(Exception):
        await client.send(b"\x82\xa4type\xa4ping\xa1x" + b"\xdd\x00\x00\xff\xff" + b"\x80" * 65_535)
    error = await client.until(Error)
    assert error.fatal
    other = await rig.greet(Hello("test"))
    await other.until(Status)


async def test_every_hello_counts_for_the_newcomers_whatever_the_transport() -> None:
    turns = limits.Turns()
    now = time.monotonic()
    for number in range(100):
        await limits.Throttle(turns, str(number)).spend(0.0, greeted=True)
    assert not turns.newcomers.spend(0.0, now), "100 sessions were begun"
