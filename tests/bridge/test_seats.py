"""Seats, the queue for them, hand-over of the controls, and what clients hear of it."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import websockets

from tests.bridge.conftest import Rig, RigMaker, eventually
from worldbridge.bridge.gateway.seats import SeatAllocator
from worldbridge.bridge.protocol import (
    BridgeError,
    Bye,
    CloseSession,
    ControllerState,
    Error,
    Event,
    Frame,
    HandOver,
    Hello,
    Input,
    OpenSession,
    RequestControl,
    Seat,
    Seats,
    SessionInput,
    Start,
    Status,
    Welcome,
)
from worldbridge.engine_plugins.python import connect


class TestAllocator:
    def test_no_more_than_there_are(self) -> None:
        seats = SeatAllocator(1)
        assert seats.take("a", 0.0)
        with pytest.raises(BridgeError) as caught:
            seats.take("b", 0.0)
        assert caught.value.code == "no_free_seat"
        seats.free("a", 1.0)
        assert seats.take("b", 1.0)
        assert seats.count() == Seats(1, 1)

    def test_a_vanished_players_seat_is_kept_for_the_grace(self) -> None:
        seats = SeatAllocator(1, grace_ms=30_000)
        seats.take("a", 0.0)
        seats.leave("a", 1_000)
        assert seats.expired(30_999) == []
        assert seats.count().used == 1
        assert seats.describe(11_000)["kept_s"] == 20.0
        with pytest.raises(BridgeError) as caught:
            seats.take("b", 11_000)
        assert "20 s more" in caught.value.got
        assert seats.expired(31_000) == ["a"]
        seats.come_back("a")
        assert seats.expired(99_000) == []

    def test_first_come_first_served(self) -> None:
        seats = SeatAllocator(1)
        seats.take("a", 0.0)
        assert not seats.take("b", 0.0, wait=True) and not seats.take("c", 0.0, wait=True)
        assert [seats.seat(name, 0.0).position for name in "bc"] == [0, 1]
        assert seats.promote(0.0) is None
        seats.free("a", 10.0)
        with pytest.raises(BridgeError):  # who comes now does not pass those who wait
            seats.take("d", 10.0)
        assert seats.promote(10.0) == "b" and seats.promote(10.0) is None
        assert seats.seat("b", 10.0) == Seat("seated") and seats.seat("c", 10.0).position == 0

    def test_who_is_away_keeps_the_place_but_gets_no_seat(self) -> None:
        seats = SeatAllocator(1, grace_ms=100)
        seats.take("a", 0.0)
        seats.take("b", 0.0, wait=True)
        seats.take("c", 0.0, wait=True)
        seats.leave("b", 0.0)
        seats.free("a", 10.0)
        assert seats.promote(10.0) == "c"
        seats.come_back("b")
        assert seats.seat("b", 20.0).position == 0 and seats.expired(1_000.0) == []

    def test_the_queue_is_bounded(self) -> None:
        seats = SeatAllocator(1, most_waiting=1)
        seats.take("a", 0.0)
        seats.take("b", 0.0, wait=True)
        with pytest.raises(BridgeError) as caught:
            seats.take("c", 0.0, wait=True)
        assert "queue is full" in caught.value.message

    def test_a_spare_seat_counts_for_nobody(self) -> None:
        seats = SeatAllocator(1)
        seats.take("a", 0.0)
        assert seats.spare() is None
        seats.leave("a", 0.0, spare=True)
        assert seats.count().used == 0 and seats.spare() == "a"
        seats.come_back("a")
        assert seats.count().used == 1 and seats.spare() is None

    def test_who_is_away_needs_no_seat(self) -> None:
        seats = SeatAllocator(1)
        seats.take("a", 0.0)
        seats.take("b", 0.0, wait=True)
        assert seats.someone_waits()
        seats.leave("b", 0.0)
        assert not seats.someone_waits() and seats.waiting() == ["b"]

    def test_the_wait_follows_from_how_long_seats_were_held(self) -> None:
        seats = SeatAllocator(2, grace_ms=30_000)
        for name in ("a", "b"):
            seats.take(name, 0.0)
        seats.take("c", 0.0, wait=True)
        seats.take("d", 0.0, wait=True)
        assert seats.seat("c", 0.0).expected_wait_s is None, "nobody left so far"
        seats.free("a", 60_000.0)
        seats.take("x", 60_000.0) if seats.promote(60_000.0) is None else None
        # two seats were held for 60 s each, and one of them ended: a rate of 1 in 120 s per seat
        assert seats.seat("d", 60_000.0).expected_wait_s == 60.0
        seats.leave("b", 60_000.0)
        assert seats.seat("d", 70_000.0).expected_wait_s == 20.0, "a kept seat is free by then"


def playing(status: Status) -> bool:
    return status.state == "playing"


def queued(status: Status) -> bool:
    return status.state == "queued"


async def test_a_player_waits_for_a_seat_and_begins(rig: Rig) -> None:
    worker = await rig.worker(seats=1)
    first = await rig.play()
    await first.until(Status, playing)
    second = await rig.play(Start("night", 5), Hello("second", wait=True))
    third = await rig.play(hello=Hello("third", wait=True))
    assert second.welcome.seat.state == "queued" and second.welcome.seat.position == 0
    assert second.welcome.resume and third.welcome.seat.position == 1
    await third.until(Status, lambda s: queued(s) and s.position == 1)
    assert len(worker.of(OpenSession)) == 1, "nothing is opened before there is a seat"
    await first.send(Bye())
    await second.until(Status, playing)
    opened = worker.of(OpenSession)[-1]
    assert opened == OpenSession(second.welcome.session, "night", 5, None)
    await second.until(Frame)
    await third.until(Status, lambda s: queued(s) and s.position == 0)
    async with httpx.AsyncClient() as http:
        seats = (await http.get(rig.url + "health")).json()["seats"]
    assert (seats["used"], seats["total"], seats["waiting"]) == (1, 1, 1)


async def test_a_place_in_the_queue_survives_a_lost_connection(rig: Rig) -> None:
    await rig.worker(seats=1)
    first = await rig.play()
    await first.until(Status, playing)
    waits = await rig.play(hello=Hello("waits", wait=True))
    await waits.until(Status, queued)
    await waits.socket.close()
    again = await rig.greet(Hello("waits", resume=waits.welcome.resume))
    welcome = await again.until(Welcome)
    assert (welcome.session, welcome.seat.state) == (waits.welcome.session, "queued")
    await again.send(Start())
    await first.send(Bye())
    await again.until(Status, playing)


async def test_without_a_queue_a_full_server_refuses(make_rig: RigMaker) -> None:
    rig = await make_rig(queue=0)
    await rig.worker(seats=1)
    await (await rig.play()).until(Status, playing)
    error = await (await rig.greet(Hello("late", wait=True))).until(Error)
    assert error.code == "no_free_seat" and error.fatal


async def test_a_closed_page_may_come_back_until_the_seat_is_needed(rig: Rig) -> None:
    worker = await rig.worker(seats=1)
    page = await rig.play()
    await page.until(Frame)
    await page.send(Bye(keep=True))
    again = await rig.greet(Hello("reloaded", resume=page.welcome.resume))
    welcome = await again.until(Welcome)
    assert (welcome.session, welcome.started) == (page.welcome.session, True)
    assert (await again.until(Event)).name == "session_resumed"
    await again.send(Bye(keep=True))
    with pytest.raises(websockets.ConnectionClosed):
        while True:
            await again.next()
    other = await rig.play()  # at once: nobody waits for the grace of a closed page
    assert other.welcome.seat.state == "seated"
    await eventually(lambda: worker.of(CloseSession) == [CloseSession(page.welcome.session)])
    await other.until(Frame)
    late = await rig.greet(Hello("late", resume=page.welcome.resume))
    assert (await late.until(Error)).code == "session_expired"


async def test_a_client_that_stalls_hears_what_it_missed(make_rig: RigMaker) -> None:
    rig = await make_rig(silence_s=0.5)
    await rig.worker()
    stalls = await rig.play()
    seen = await stalls.until(Frame)
    while not isinstance(message := await stalls.next(), Error):
        pass  # it sends nothing, as a program that loads a level
    assert message.code == "session_expired"
    await asyncio.sleep(0.5)
    again = await rig.greet(Hello("again", resume=stalls.welcome.resume))
    event = await again.until(Event)
    assert event.name == "session_resumed" and event.seconds is not None and event.frames
    assert event.seconds > 0.4 and event.frames > 5
    frame = await again.until(Frame)
    assert frame.header.frame > seen.header.frame


async def test_a_player_who_stalls_is_away_for_others_and_goes_on(make_rig: RigMaker) -> None:
    """Known to be away long before the connection is given up, which it never is here."""
    rig = await make_rig(away_s=0.5, silence_s=60.0, queue=2)
    worker = await rig.worker(seats=1)
    stalls = await rig.play()
    await stalls.until(Frame)
    watcher = await rig.greet(Hello("watcher", "spectator"))
    await watcher.until(Status, lambda status: status.detail == "the player is away")
    async with httpx.AsyncClient() as http:
        seats = (await http.get(f"{rig.url}health")).json()["seats"]
    assert (seats["kept"], seats["used"]) == (1, 1) and seats["kept_s"] <= 30
    event = await stalls.until(Event)  # it pings again
    assert event.name == "session_resumed" and event.seconds is not None
    assert event.seconds > 0.4
    await watcher.until(Status, lambda status: (status.state, status.detail) == ("playing", ""))
    await stalls.until(Frame)
    assert worker.of(CloseSession) == []


async def test_an_idle_player_is_warned_and_loses_the_seat(make_rig: RigMaker) -> None:
    rig = await make_rig(idle_limit=2.0)
    await rig.worker(seats=2)
    idle = await rig.play()
    engine = await rig.play(hello=Hello("engine", "engine"))
    warning = await idle.until(Event)
    assert warning.name == "seat_warning" and warning.seconds is not None
    await idle.send(Input((ControllerState(1, 1.0, keys=("KeyW",)),)))
    number = 1
    again = None
    while not isinstance(again := await idle.next(), Event | Error):
        number += 1  # holding a key is as idle as holding none
        await idle.send(Input((ControllerState(number, 1.0, keys=("KeyW",)),)))
    assert isinstance(again, Event) and again.name == "seat_warning", "steering counted"
    error = await idle.until(Error)
    assert (error.code, error.fatal) == ("seat_lost", True)
    await engine.until(Frame)  # a program may be idle


async def test_spectators_are_limited_and_can_be_switched_off(make_rig: RigMaker) -> None:
    rig = await make_rig(spectators=1)
    await rig.worker()
    player = await rig.play()
    await player.until(Frame)
    watcher = await rig.greet(Hello("one", "spectator"))
    await watcher.until(Frame)
    error = await (await rig.greet(Hello("two", "spectator"))).until(Error)
    assert error.code == "no_free_seat" and "spectators" in error.message
    await watcher.send(Bye())
    with pytest.raises(websockets.ConnectionClosed):
        while True:
            await watcher.next()
    third = await rig.greet(Hello("three", "spectator"))
    await third.until(Frame)
    await player.until(Frame)


async def test_seats_of_one_address_are_limited(make_rig: RigMaker) -> None:
    rig = await make_rig(seats_per_address=1, trusted_proxies=("127.0.0.1",), queue=2)
    await rig.worker(seats=2)
    first = await rig.greet(Hello("first"))
    await first.until(Welcome)
    error = await (await rig.greet(Hello("second", wait=True))).until(Error)
    assert error.code == "no_free_seat" and "--seats-per-address" in error.remedy
    for address in ("192.0.2.7", "2001:db8::1"):
        other = await rig.raw(additional_headers={"X-Forwarded-For": address})
        await other.send(Hello("other", wait=True))
        await other.until(Welcome)
    neighbour = await rig.raw(additional_headers={"X-Forwarded-For": "2001:db8::2"})
    await neighbour.send(Hello("neighbour", wait=True))
    assert (await neighbour.until(Error)).code == "no_free_seat"
    await first.send(Bye(keep=True))  # the page was closed, or is loaded again
    await (await rig.greet(Hello("again", wait=True))).until(Welcome)


async def test_nobody_watches_where_it_is_off(make_rig: RigMaker) -> None:
    rig = await make_rig(spectators=0)
    await rig.worker()
    await (await rig.play()).until(Frame)
    error = await (await rig.greet(Hello("one", "spectator"))).until(Error)
    assert error.code == "no_free_seat" and "--spectators" in error.remedy


async def test_the_controls_are_handed_over(rig: Rig) -> None:
    worker = await rig.worker(seats=1)
    player = await rig.play()
    await player.until(Frame)
    await player.send(HandOver())
    refused = await player.until(Error)
    assert (refused.code, refused.fatal) == ("bad_message", False)
    watcher = await rig.greet(Hello("Ada", "spectator"))
    await watcher.until(Frame)
    await watcher.send(RequestControl())
    event = await player.until(Event)
    assert event.name == "control_requested" and "Ada" in event.detail
    await player.send(Input((ControllerState(50, 1.0),)))
    await player.send(HandOver())
    await player.send(Input((ControllerState(51, 1.0),)))  # was on its way: no fault
    mine = await watcher.until(Welcome)
    theirs = await player.until(Welcome)
    assert (mine.role, theirs.role) == ("player", "spectator")
    assert mine.session == theirs.session == player.welcome.session and mine.started
    assert mine.resume not in ("", player.welcome.resume) and theirs.resume == ""
    await watcher.send(Input((ControllerState(0, 5.0, keys=("KeyD",)),)))
    frame = await watcher.until(Frame, lambda f: f.header.input_time == 5.0)
    assert frame.header.input_sequence == 0
    newest = worker.of(SessionInput)[-1]
    assert isinstance(newest, SessionInput) and newest.state.keys == ("KeyD",)
    await player.until(Frame)  # and still watches
    old = await rig.greet(Hello("old", resume=player.welcome.resume))
    assert (await old.until(Error)).code == "session_expired"


class TestPythonClient:
    async def test_it_waits_in_the_queue(self, rig: Rig) -> None:
        await rig.worker(seats=1)
        first = await rig.play()
        await first.until(Frame)
        async with connect(rig.url) as hasty:
            with pytest.raises(BridgeError) as refused:
                await hasty.frame()
            assert refused.value.code == "no_free_seat"
        async with connect(rig.url, wait=True, theme="night") as waits:
            await eventually(lambda: waits.status.state == "queued")
            assert waits.status.position == 0
            await first.send(Bye())
            frame = await waits.frame()
            assert frame.header.frame >= 0 and waits.welcome is not None

    async def test_the_controls_change_hands(self, rig: Rig) -> None:
        await rig.worker(seats=1)
        async with connect(rig.url) as player, connect(rig.url, watch=True, name="Ada") as watcher:
            await player.frame()
            await watcher.frame()
            assert player.plays and not watcher.plays
            watcher.request_control()
            await eventually(lambda: bool(player.events))
            assert "Ada" in player.events[-1].detail
            player.hand_over()
            await eventually(lambda: watcher.plays and not player.plays)
            state = watcher.steer(keys=("KeyW",))
            while (await watcher.frame()).header.input_sequence < state.sequence:
                state = watcher.steer(keys=("KeyW",))
            await player.frame()

    async def test_a_player_who_idles_too_long_does_not_come_back(self, make_rig: RigMaker) -> None:
        rig = await make_rig(idle_limit=1.0)
        await rig.worker()
        async with connect(rig.url) as idle:
            with pytest.raises(BridgeError) as lost:
                while True:
                    await asyncio.wait_for(idle.frame(), 20)
            assert lost.value.code == "seat_lost"
            assert [event.name for event in idle.events] == ["seat_warning"]
