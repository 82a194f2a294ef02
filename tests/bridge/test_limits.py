"""What one connection may cost, from accept on."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from functools import partial
from typing import Any, Literal

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.bridge.conftest import Rig, RigMaker
from worldbridge.bridge.gateway import http, limits
from worldbridge.bridge.gateway.limits import ConnectionTable, WorkBudget
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


def test_newcomers_of_a_blamed_address_are_heard_one_after_the_other() -> None:
    table, _ = _table(10, 10)
    assert table.wait("a", 0.0, 100.0) == 0.0
    table.blame("a", 0.15, 100.0)
    waits = [table.wait("a", 0.0, 100.0) for _ in range(3)]
    assert waits == pytest.approx([1.5, 2.0, 2.5])
    assert table.wait("b", 0.0, 100.0) == 0.0, "another address"
    assert table.wait("a", 100.5, 101.0) == 0.0, "admitted since then"
    assert table.wait("a", 99.0, 101.0) > 0, "admitted before"
    assert max(table.wait("a", 0.0, 101.0) for _ in range(100)) <= limits.MAX_WAIT_S
    assert table.wait("a", 0.0, 200.0) == 0.0, "forgotten"


def test_a_new_connection_has_less_to_spend() -> None:
    budget = WorkBudget(rate=0.1, burst=0.5, fresh=0.15, now=100.0)
    assert budget.spend(0.14, 100.0) and not budget.exceeded
    assert not budget.spend(0.02, 100.0) and budget.exceeded
    assert WorkBudget(rate=0.1, burst=0.5, fresh=0.15, now=100.0).spend(0.45, 104.0)


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


async def test_empty_fragments_end_their_connection_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a machine that is busy elsewhere gives this process less than a connection may have
    monkeypatch.setattr(http, "WorkBudget", partial(WorkBudget, 0.0))
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
