"""Sequences, seats, uploads and the connection, with times made up by the test."""

from __future__ import annotations

import asyncio

import pytest

from worldbridge.bridge.gateway.connection import MAX_MESSAGES, Connection, Phase, PromptUpload
from worldbridge.bridge.gateway.metrics import Metrics
from worldbridge.bridge.gateway.players import SequenceRebaser, SessionStore
from worldbridge.bridge.gateway.prompts import DepthFile
from worldbridge.bridge.gateway.workers import Credit, Liveness
from worldbridge.bridge.media import LatestValue
from worldbridge.bridge.protocol import (
    BridgeError,
    Bye,
    ClientMessage,
    ControllerState,
    FrameHeader,
    Hello,
    Input,
    Offer,
    Ping,
    Pose,
    PromptDepthPart,
    PromptFramePart,
    Start,
    encode,
)


def held(
    sequence: int, key: str = "KeyW", pointer: tuple[float, float] = (0.0, 0.0)
) -> ControllerState:
    return ControllerState(sequence, float(sequence), keys=(key,), pointer=pointer)


def header(input_sequence: int) -> FrameHeader:
    return FrameHeader(0, input_sequence, 5.0, 6.0, 7.0, 8.0, 9.0, Pose())


class TestSequences:
    def test_newest_wins_in_any_order(self) -> None:
        inputs = SequenceRebaser()
        assert inputs.offer([held(2), held(5), held(4)]) == held(5)
        assert inputs.offer([held(5), held(3)]) is None
        assert inputs.offer([held(6)]) == held(6)

    def test_a_client_that_counts_again_continues_where_the_last_one_ended(self) -> None:
        inputs = SequenceRebaser()
        inputs.offer([held(41, pointer=(100.0, 50.0))])
        inputs.attach()
        first = inputs.offer([held(0, pointer=(3.0, 0.0))])
        second = inputs.offer([held(1, pointer=(5.0, 1.0))])
        assert first is not None and (first.sequence, first.pointer) == (42, (100.0, 50.0))
        assert second is not None and (second.sequence, second.pointer) == (43, (102.0, 51.0))
        assert inputs.to_client(header(43)).input_sequence == 1
        earlier = inputs.to_client(header(41))
        assert (earlier.input_sequence, earlier.input_time, earlier.t_input) == (-1, 0.0, 0.0)
        assert inputs.to_client(header(-1)).input_sequence == -1


class TestLatestValue:
    async def test_takes_the_newest_and_counts_the_rest(self) -> None:
        latest: LatestValue[int] = LatestValue()
        assert [latest.put(n) for n in (1, 2, 3)] == [None, 1, 2]
        assert await latest.get() == 3
        assert latest.dropped == 2

    async def test_get_waits(self) -> None:
        latest: LatestValue[str] = LatestValue()
        taker = asyncio.create_task(latest.get())
        await asyncio.sleep(0)
        assert not taker.done()
        latest.put("late")
        assert await asyncio.wait_for(taker, 1) == "late"


class TestUploads:
    def part(
        self, index: int, part: int, parts: int, data: bytes, count: int = 2
    ) -> PromptFramePart:
        return PromptFramePart(index, count, part, parts, data)

    def refused(self, upload: PromptUpload, count: int) -> str:
        with pytest.raises(BridgeError) as caught:
            upload.take(count)
        assert caught.value.code == "bad_prompt_frame"
        return caught.value.message

    def test_parts_become_files_once(self) -> None:
        upload = PromptUpload()
        for part in (self.part(0, 0, 2, b"ab"), self.part(0, 1, 2, b"c"), self.part(1, 0, 1, b"d")):
            upload.add(part, 9)
        assert upload.take(2) == (b"abc", b"d")
        assert self.refused(upload, 2) == "prompt frames are missing"

    def test_a_part_out_of_order_is_reported_once_with_start(self) -> None:
        upload = PromptUpload()
        upload.add(self.part(0, 0, 2, b"ab"), 9)
        upload.add(self.part(1, 0, 1, b"d"), 9)
        upload.add(self.part(0, 1, 2, b"c"), 9)
        assert "out of order" in self.refused(upload, 2)
        upload.add(self.part(0, 0, 1, b"ab", 1), 9)
        assert upload.take(1) == (b"ab",)

    @pytest.mark.parametrize(("index", "part"), [(1, 0), (0, 1)])
    def test_the_first_part_comes_first(self, index: int, part: int) -> None:
        upload = PromptUpload()
        upload.add(self.part(index, part, 2, b"x"), 9)
        assert "out of order" in self.refused(upload, 2)

    def test_half_a_file_is_missing(self) -> None:
        upload = PromptUpload()
        upload.add(self.part(0, 0, 2, b"ab", 1), 9)
        assert self.refused(upload, 1) == "prompt frames are missing"

    def test_more_than_the_world_takes(self) -> None:
        upload = PromptUpload()
        upload.add(self.part(0, 0, 1, b"ab", 2), 1)
        assert self.refused(upload, 2) == "too many prompt frames"

    def test_depth_follows_the_frames_and_is_taken_with_them(self) -> None:
        upload = PromptUpload()
        upload.add(self.part(0, 0, 1, b"ab", 1), 1)
        upload.add_depth(PromptDepthPart(0, 2, 0.01, b"x"), True)
        upload.add_depth(PromptDepthPart(1, 2, 0.01, b"y"), True)
        assert upload.take(1) == (b"ab",)
        assert upload.depth == DepthFile(b"xy", 0.01)
        upload.add(self.part(0, 0, 1, b"ab", 1), 1)
        assert upload.take(1) == (b"ab",)
        assert upload.depth is None, "that of the start before is not kept"

    @pytest.mark.parametrize(
        ("parts", "depth", "why"),
        [
            ([], True, "out of order"),
            ([b"ab"], False, "takes no depth"),
            ([b"ab"], True, "a part of the depth is missing"),
        ],
    )
    def test_depth_that_does_not_fit_is_reported_with_start(
        self, parts: list[bytes], depth: bool, why: str
    ) -> None:
        upload = PromptUpload()
        for data in parts:
            upload.add(self.part(0, 0, 1, data, 1), 1)
        upload.add_depth(PromptDepthPart(0 if parts else 1, 2, 0.01, b"x"), depth)
        assert why in self.refused(upload, 1)

    def test_the_total_is_limited_and_nothing_more_is_kept(self) -> None:
        upload = PromptUpload()
        for part in range(32):
            upload.add(self.part(0, part, 32, bytes(256 * 1024)), 9)
        upload.add(self.part(1, 0, 1, b"x"), 9)
        assert upload._files == []
        assert self.refused(upload, 2) == "the prompt frames are too large"


class TestConnection:
    def greeted(self, role: str = "player") -> Connection:
        talk = Connection(0.0)
        hello = Hello("test", "spectator" if role == "spectator" else "player")
        talk.receive(encode(hello), 0.0)
        return talk

    def refused(self, talk: Connection, message: ClientMessage) -> str:
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
        assert self.refused(Connection(0.0), Ping(1.0)) == "not_greeted"
        assert self.refused(self.greeted(), Hello("again")) == "bad_message"

    def test_nothing_starts_before_welcome(self) -> None:
        assert self.refused(self.greeted(), Start()) == "not_greeted"
        assert self.refused(self.greeted(), Offer("v=0")) == "not_greeted"
        assert self.refused(self.greeted(), PromptFramePart(0, 1, 0, 1, b"")) == "not_greeted"

    def test_the_first_message_is_small(self) -> None:
        part = PromptFramePart(0, 1, 0, 1, bytes(5_000))
        assert self.refused(Connection(0.0), part) == "message_too_large"

    def test_spectators_do_not_steer(self) -> None:
        talk = self.greeted("spectator")
        talk.welcomed()
        assert self.refused(talk, Input((held(1),))) == "invalid_input"
        assert self.refused(talk, Start()) == "invalid_input"
        assert self.refused(talk, PromptFramePart(0, 1, 0, 1, b"")) == "invalid_input"

    def test_a_flood_of_messages_is_cut_off(self) -> None:
        talk = self.greeted()
        for n in range(MAX_MESSAGES - 1):
            talk.receive(encode(Ping(1.0)), n * 900 / MAX_MESSAGES)
        assert self.refused(talk, Ping(1.0)) == "bad_message"
        talk.receive(encode(Ping(1.0)), 1_000.0)

    def test_hello_is_due_after_five_seconds(self) -> None:
        talk = Connection(0.0, silence_ms=60_000)
        assert talk.overdue(5_000) is None
        late = talk.overdue(5_001)
        assert late is not None and late.code == "not_greeted"
        assert talk.overdue(5_001, bytes_ms=5_000) is not None, "a byte now and then is no hello"

    def test_a_message_on_its_way_is_no_silence(self) -> None:
        talk = self.greeted()
        assert talk.overdue(30_000, bytes_ms=29_900) is None
        assert talk.overdue(61_000, bytes_ms=60_900) is not None

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
        assert book.newest() is None
        first.started = second.started = True
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

    def test_a_broken_connection_is_not_a_silent_process(self) -> None:
        life = Liveness(1_500)
        life.ready(0)
        assert life.newly_lost(1_501) and life.silent
        assert not life.gone() and not life.silent
        life.ready(3_000)
        assert not life.silent

    def test_it_is_excused_when_we_did_not_run(self) -> None:
        life = Liveness(1_500)
        life.ready(0)
        life.excuse(60_000)
        assert not life.newly_lost(61_000)
        assert life.newly_lost(61_501)


class TestCredit:
    def test_messages_are_untaken_until_the_ping_after_them_is_answered(self) -> None:
        credit = Credit()
        credit.sent("a")
        credit.sent("a")
        assert credit.untaken("a") == 2
        assert credit.ask(10.0) is not None
        credit.sent("a")
        credit.sent("b")
        assert credit.ask(11.0) is None, "one at a time"
        assert not credit.answered(9.0), "an older ping"
        assert credit.answered(10.0)
        assert (credit.untaken("a"), credit.untaken("b")) == (1, 1)
        assert credit.ask(12.0) is not None and credit.answered(12.5)
        assert (credit.untaken("a"), credit.untaken("b")) == (0, 0)

    def test_nothing_is_kept_of_a_worker_that_is_gone(self) -> None:
        credit = Credit()
        credit.sent("a")
        credit.ask(1.0)
        credit.sent("a")
        credit.clear()
        assert credit.untaken("a") == 0 and credit.ask(2.0) is not None


def test_a_report_of_nonsense_spoils_no_sum() -> None:
    metrics = Metrics()
    metrics.observe({"total": 1e15, "show": 3.0, "uplink": float("nan")})
    text = metrics.text().decode()
    assert 'worldbridge_span_ms_sum{span="show"} 3.0' in text
    assert 'span="total"' not in text and 'span="uplink"' not in text
    assert "worldbridge_spans_out_of_range_total 2.0" in text
