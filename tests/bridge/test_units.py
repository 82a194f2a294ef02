"""Latch, mailbox, seats and the conversation, with times made up by the test."""

from __future__ import annotations

import asyncio

import pytest

from worldbridge.bridge.errors import BridgeError
from worldbridge.bridge.gateway.connection import Conversation, Phase, SessionStore
from worldbridge.bridge.gateway.seats import SeatAllocator
from worldbridge.bridge.gateway.sequence import SequenceRebaser
from worldbridge.bridge.gateway.workers import Liveness
from worldbridge.bridge.media.latest import LatestValue
from worldbridge.bridge.protocol import (
    Bye,
    ControllerState,
    FrameHeader,
    Hello,
    Input,
    Offer,
    Ping,
    Pose,
    Start,
    encode,
)


def held(seq: int, key: str = "KeyW", pointer: tuple[float, float] = (0.0, 0.0)) -> ControllerState:
    return ControllerState(seq, float(seq), keys=(key,), pointer=pointer)


def header(input_seq: int) -> FrameHeader:
    return FrameHeader(0, input_seq, 5.0, 6.0, 7.0, 8.0, 9.0, Pose())


class TestLatch:
    def test_newest_wins_in_any_order(self) -> None:
        latch = SequenceRebaser()
        assert latch.offer([held(2), held(5), held(4)], 0.0) == held(5)
        assert latch.offer([held(5), held(3)], 1.0) is None
        assert latch.read(1.0) == held(5)

    def test_silence_releases_everything_that_is_held(self) -> None:
        latch = SequenceRebaser()
        latch.offer([ControllerState(1, 0.0, (1, 1, 1, 1), 3, ("KeyW",), (7.0, 8.0))], 100.0)
        assert latch.read(350.0) == ControllerState(1, 0.0, (1, 1, 1, 1), 3, ("KeyW",), (7.0, 8.0))
        assert latch.read(350.1) == ControllerState(1, 0.0, pointer=(7.0, 8.0))

    def test_repeating_an_old_snapshot_does_not_hold_it(self) -> None:
        latch = SequenceRebaser()
        latch.offer([held(1)], 0.0)
        latch.offer([held(1)], 200.0)
        released = latch.read(300.0)
        assert released is not None and released.keys == ()

    def test_a_client_that_counts_anew_goes_on_where_the_last_one_ended(self) -> None:
        latch = SequenceRebaser()
        latch.offer([held(41, pointer=(100.0, 50.0))], 0.0)
        latch.attach()
        first = latch.offer([held(0, pointer=(3.0, 0.0))], 1.0)
        second = latch.offer([held(1, pointer=(5.0, 1.0))], 2.0)
        assert first is not None and (first.seq, first.pointer) == (42, (100.0, 50.0))
        assert second is not None and (second.seq, second.pointer) == (43, (102.0, 51.0))
        assert latch.to_client(header(43)).input_seq == 1
        earlier = latch.to_client(header(41))
        assert (earlier.input_seq, earlier.input_time, earlier.t_input) == (-1, 0.0, 0.0)
        assert latch.to_client(header(-1)).input_seq == -1

    def test_taking_over_lets_go_of_keys(self) -> None:
        latch = SequenceRebaser()
        latch.offer([held(1)], 0.0)
        latch.attach()
        left = latch.read(1.0)
        assert left is not None and left.keys == ()


class TestMailbox:
    async def test_takes_the_newest_and_counts_the_rest(self) -> None:
        mailbox: LatestValue[int] = LatestValue()
        assert [mailbox.put(n) for n in (1, 2, 3)] == [None, 1, 2]
        assert await mailbox.get() == 3
        assert mailbox.dropped == 2
        assert mailbox.take() is None

    async def test_get_waits(self) -> None:
        mailbox: LatestValue[str] = LatestValue()
        taker = asyncio.create_task(mailbox.get())
        await asyncio.sleep(0)
        assert not taker.done()
        mailbox.put("late")
        assert await asyncio.wait_for(taker, 1) == "late"


class TestSeats:
    def test_no_more_than_there_are(self) -> None:
        seats = SeatAllocator(1)
        seats.take("a")
        with pytest.raises(BridgeError) as caught:
            seats.take("b")
        assert caught.value.code == "no_free_seat"
        seats.free("a")
        seats.take("b")
        assert (seats.used, seats.total) == (1, 1)

    def test_a_vanished_players_seat_is_kept_for_the_grace(self) -> None:
        seats = SeatAllocator(1, grace_ms=30_000)
        seats.take("a")
        seats.leave("a", 1_000)
        assert seats.expired(30_999) == []
        assert seats.used == 1
        assert seats.expired(31_000) == ["a"]
        seats.come_back("a")
        assert seats.expired(99_000) == []


class TestConversation:
    def greeted(self, role: str = "player") -> Conversation:
        talk = Conversation(0.0)
        hello = Hello("test", "spectator" if role == "spectator" else "player")
        talk.receive(encode(hello), 0.0)
        return talk

    def refused(self, talk: Conversation, message: Ping | Input | Start | Offer | Hello) -> str:
        with pytest.raises(BridgeError) as caught:
            talk.receive(encode(message), 1.0)
        return caught.value.code

    def test_the_way_from_hello_to_bye(self) -> None:
        talk = self.greeted()
        phases = [talk.phase]
        talk.welcomed()
        message = Input((held(1),))
        assert talk.receive(encode(message), 1.0) == message
        phases.append(talk.phase)
        assert talk.receive(encode(Bye()), 2.0) == Bye()
        phases.append(talk.phase)
        assert phases == [Phase.WAITING, Phase.STREAMING, Phase.CLOSED]

    def test_hello_comes_first_and_once(self) -> None:
        assert self.refused(Conversation(0.0), Ping(1.0)) == "not_greeted"
        assert self.refused(self.greeted(), Hello("again")) == "bad_message"

    def test_nothing_starts_before_welcome(self) -> None:
        assert self.refused(self.greeted(), Start()) == "not_greeted"
        assert self.refused(self.greeted(), Offer("v=0")) == "not_greeted"

    def test_spectators_do_not_steer(self) -> None:
        talk = self.greeted("spectator")
        talk.welcomed()
        assert self.refused(talk, Input((held(1),))) == "invalid_input"
        assert self.refused(talk, Start()) == "invalid_input"

    def test_a_flood_of_messages_is_cut_off(self) -> None:
        talk = self.greeted()
        for n in range(999):
            talk.receive(encode(Ping(1.0)), n * 0.9)
        assert self.refused(talk, Ping(1.0)) == "bad_message"
        talk.receive(encode(Ping(1.0)), 1_000.0)

    def test_hello_is_due_after_five_seconds(self) -> None:
        talk = Conversation(0.0, silence_ms=60_000)
        assert talk.overdue(5_000) is None
        late = talk.overdue(5_001)
        assert late is not None and late.code == "not_greeted"

    def test_silence_ends_it_after_four_seconds(self) -> None:
        talk = self.greeted()
        assert talk.overdue(4_000) is None
        late = talk.overdue(4_001)
        assert late is not None and late.code == "session_expired"
        talk.close()
        assert talk.overdue(9_000) is None


class TestSessions:
    def test_resume_by_token(self) -> None:
        book = SessionStore()
        first, second = book.create("day", 1), book.create(None, None)
        assert book.resume(first.resume) is first
        assert book.newest() is second
        assert first.resume != second.resume and len(first.resume) >= 24
        book.remove(second)
        assert book.newest() is first
        with pytest.raises(BridgeError) as caught:
            book.resume(second.resume)
        assert caught.value.code == "session_expired"


class TestLiveness:
    def test_a_silent_worker_is_lost_once_and_comes_back(self) -> None:
        life = Liveness(1_500)
        assert not life.newly_lost(10_000)  # never was ready
        life.ready(0)
        assert not life.newly_lost(1_500)
        assert life.newly_lost(1_501)
        assert not life.newly_lost(1_700)
        assert life.heard(2_000)
        assert not life.heard(2_001)

    def test_one_that_loads_need_not_answer(self) -> None:
        life = Liveness(1_500)
        life.ready(0)
        life.restarting()
        assert not life.newly_lost(60_000)
        assert not life.gone()
