"""The worker's logic on a clock that only moves when told."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeVar

import pytest

from tests.support.fakes import CountingState, CountingWorld, FakeClock, held
from worldbridge.bridge.protocol import (
    CloseSession,
    Failed,
    FrameAck,
    GatewayMessage,
    Opened,
    OpenSession,
    RawFrame,
    RestartSession,
    SavedSession,
    SessionInput,
    ShiftPhase,
    Shutdown,
    WorkerMessage,
    WorkerPing,
    WorkerPong,
    WorkerStats,
    decode_worker,
    encode_parts,
)
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.worlds.contract import WorldStart

Kind = TypeVar("Kind", bound=WorkerMessage)


class Rig:
    """An engine, its world and its clock, and a gateway that acks what it gets."""

    def __init__(self, seats: int = 4) -> None:
        self.clock = FakeClock()
        self.world = CountingWorld(self.clock)
        self.engine = Engine(
            self.world, seats=seats, pick_seed=lambda: 99, clock=lambda: self.clock.now_ms
        )

    def tell(self, *messages: GatewayMessage) -> list[WorkerMessage]:
        return [m for sent in messages for m in self.engine.receive(sent, self.clock.now_ms)]

    def open(self, *sessions: str) -> None:
        for number, session in enumerate(sessions):
            self.tell(OpenSession(session, "plain", number))

    def step(self, ack: bool = True) -> list[WorkerMessage]:
        due = self.engine.next_step_ms()
        assert due is not None
        self.clock.now_ms = max(self.clock.now_ms, due)
        out = self.engine.step(self.clock.now_ms)
        if ack:
            out += self.tell(*(FrameAck(f.session, f.header.frame) for f in only(RawFrame, out)))
        return out

    def steps(self, count: int) -> list[WorkerMessage]:
        return [message for _ in range(count) for message in self.step()]


def only(kind: type[Kind], messages: Iterable[WorkerMessage]) -> list[Kind]:
    return [message for message in messages if isinstance(message, kind)]


def frames_of(session: str, messages: Iterable[WorkerMessage]) -> list[RawFrame]:
    return [frame for frame in only(RawFrame, messages) if frame.session == session]


def said(frame: RawFrame) -> str:
    return bytes(frame.payload).rstrip(b".").decode()


# --- opening and closing ----------------------------------------------------------------------


def test_open_answers_with_opened_and_a_first_snapshot() -> None:
    rig = Rig()
    assert rig.engine.next_step_ms() is None  # nobody is there, so there is nothing to do
    opened, saved = rig.tell(OpenSession("a", "striped", 3))
    assert opened == Opened("a")
    assert isinstance(saved, SavedSession)
    assert rig.engine.next_step_ms() is not None


def test_without_theme_and_seed_the_worker_chooses() -> None:
    rig = Rig()
    rig.tell(OpenSession("a"))
    [frame] = frames_of("a", rig.step())
    assert said(frame) == "plain 99 1 0.000"


def test_unknown_theme_is_refused_and_named() -> None:
    rig = Rig()
    [failed] = only(Failed, rig.tell(OpenSession("a", "jungle", 1)))
    assert failed.code == "unknown_theme"
    assert (failed.expected, failed.got) == ("one of plain, striped", "'jungle'")
    assert rig.engine.sessions == ()


def test_no_seat_for_one_more_until_one_leaves() -> None:
    rig = Rig(seats=2)
    rig.open("a", "b")
    [failed] = only(Failed, rig.tell(OpenSession("c")))
    assert (failed.code, failed.expected) == ("no_free_seat", "at most 2 open sessions")
    rig.tell(CloseSession("a"))
    assert Opened("c") in rig.tell(OpenSession("c"))
    assert rig.engine.sessions == ("b", "c")


def test_closing_lets_go_of_the_worlds_state_and_ends_the_work() -> None:
    rig = Rig()
    rig.open("a", "b")
    rig.tell(CloseSession("b"))
    assert rig.world.alive() == [0]
    rig.tell(CloseSession("a"), CloseSession("a"))
    assert rig.world.alive() == []
    assert rig.engine.next_step_ms() is None


def test_messages_for_a_session_that_is_gone_are_ignored() -> None:
    rig = Rig()
    assert rig.tell(SessionInput("x", held(1), 0.0), FrameAck("x", 3)) == []
    assert rig.tell(RestartSession("x"), CloseSession("x")) == []


def test_ping_and_shutdown() -> None:
    rig = Rig()
    assert rig.tell(WorkerPing(12.5)) == [WorkerPong(12.5)]
    assert not rig.engine.stopped
    rig.tell(Shutdown())
    assert rig.engine.stopped


def test_a_session_whose_close_was_lost_is_forgotten_with_the_next_ping() -> None:
    rig = Rig()
    rig.open("a", "b")
    rig.tell(WorkerPing(1.0))
    assert rig.engine.sessions == ("a", "b"), "the ping of another gateway names none"
    rig.tell(WorkerPing(2.0, ("b", "kept by its player")))
    assert rig.engine.sessions == ("b",)
    assert rig.tell(OpenSession("c", None, 1)) != [], "its seat is free"


# --- steps ------------------------------------------------------------------------------------


def test_all_sessions_step_together_each_with_its_own_controls() -> None:
    rig = Rig()
    rig.open("a", "b", "c")
    rig.tell(SessionInput("b", held(5, "KeyW"), 990.0))
    out = rig.step()
    assert rig.world.batches == [3]
    assert [said(f) for f in only(RawFrame, out)] == [
        "plain 0 1 0.000",
        "plain 1 1 1.000",
        "plain 2 1 0.000",
    ]
    assert {f.header.batch for f in only(RawFrame, out)} == {3}


def test_a_frame_names_its_input_its_camera_and_its_times() -> None:
    rig = Rig()
    rig.open("a")
    latch_ms = rig.clock.now_ms
    rig.tell(SessionInput("a", held(5, "KeyW"), 990.0))
    [frame] = only(RawFrame, rig.step())
    header = frame.header
    assert (header.frame, header.input_sequence, header.input_time, header.t_input) == (
        0,
        5,
        80.0,
        990,
    )
    assert (header.t_controls, header.t_tokens, header.t_frame) == (latch_ms, 1005.0, 1010.0)
    assert header.camera.position == (0.0, 1.6, -1.0)


def test_input_that_comes_right_before_the_step_counts_and_silence_is_neutral() -> None:
    rig = Rig()
    rig.open("a")
    rig.step()
    rig.tell(SessionInput("a", held(1, "KeyS"), 0.0))
    due = rig.engine.next_step_ms()
    assert due is not None
    rig.clock.now_ms = due
    rig.tell(SessionInput("a", held(2, "KeyW"), 0.0))
    [frame] = only(RawFrame, rig.step())
    assert (frame.header.input_sequence, said(frame)) == (2, "plain 0 2 1.000")
    later = only(RawFrame, rig.steps(8))
    assert [f.header.input_sequence for f in later[-4:]] == [-1] * 4
    assert said(later[-1]) == said(later[-2]).replace(" 9 ", " 10 ")


def test_frames_come_at_the_worlds_rate() -> None:
    rig = Rig()
    rig.open("a")
    ready = [f.header.t_frame for f in only(RawFrame, rig.steps(151))]
    assert ready[-1] - ready[0] == pytest.approx(10_000, abs=15)


def test_a_lone_players_frames_are_shifted_to_its_display() -> None:
    def spent(*shifts: GatewayMessage, company: bool) -> float:
        rig = Rig()
        rig.open(*(["a", "b"] if company else ["a"]))
        rig.steps(20)
        begun = rig.clock.now_ms
        rig.tell(*shifts)
        rig.steps(60)
        return rig.clock.now_ms - begun

    shift = ShiftPhase("a", 5.0)
    assert spent(shift, company=False) == pytest.approx(spent(company=False) + 5, abs=0.1)
    assert spent(shift, company=True) == pytest.approx(spent(company=True), abs=0.1)


def test_a_gateway_that_does_not_ack_gets_two_frames_then_only_the_newest() -> None:
    rig = Rig()
    rig.open("slow", "quick")
    slow: list[RawFrame] = []
    for _ in range(10):
        out = rig.step(ack=False)
        slow += frames_of("slow", out)
        quick = frames_of("quick", out)
        assert len(quick) == 1  # one who does not keep up costs the others nothing
        rig.tell(FrameAck("quick", quick[0].header.frame))
    assert [f.header.frame for f in slow] == [0, 1]
    [newest] = only(RawFrame, rig.tell(FrameAck("slow", 0)))
    assert (newest.header.frame, newest.header.dropped) == (9, 7)


def test_the_same_seed_and_inputs_make_the_same_frames_alone_and_in_company() -> None:
    def play(*company: str) -> list[bytes]:
        rig = Rig()
        rig.tell(OpenSession("me", "striped", 5))
        rig.open(*company)
        seen: list[bytes] = []
        for number in range(40):
            key = "KeyW" if number % 3 else "KeyS"
            rig.tell(SessionInput("me", held(number, key), rig.clock.now_ms))
            seen += [bytes(f.payload) for f in frames_of("me", rig.step())]
        return seen

    alone = play()
    assert len(set(alone)) == 40
    assert play("b", "c") == alone


# --- snapshots --------------------------------------------------------------------------------


def test_a_snapshot_comes_every_second_and_one_at_the_end() -> None:
    rig = Rig()
    rig.open("a", "b")
    saved = only(SavedSession, rig.steps(15 * 5))
    assert [s.session for s in saved].count("a") in (4, 5)
    assert [s.session for s in saved].count("b") in (4, 5)
    final = only(SavedSession, rig.engine.final_snapshots())
    assert [s.session for s in final] == ["a", "b"]


def test_a_session_goes_on_from_its_snapshot_in_another_worker() -> None:
    first = Rig()
    first.open("a")
    first.tell(SessionInput("a", held(1, "KeyW"), 0.0))
    first.steps(3)
    [saved] = only(SavedSession, first.engine.final_snapshots())
    second = Rig()
    assert Opened("a") in second.tell(OpenSession("a", saved=bytes(saved.payload)))
    [frame] = only(RawFrame, second.step())
    assert (frame.header.frame, said(frame)) == (3, "plain 0 4 3.000")


def test_a_damaged_snapshot_is_a_typed_failure_of_that_session_alone() -> None:
    rig = Rig()
    rig.open("a")
    [failed] = only(Failed, rig.tell(OpenSession("b", saved=b"\x80not a snapshot")))
    assert (failed.session, failed.code, failed.message) == (
        "b",
        "world_failed",
        "the snapshot is damaged",
    )
    assert failed.expected and failed.got and failed.remedy
    assert len(frames_of("a", rig.step())) == 1


# --- starting anew ----------------------------------------------------------------------------


def test_start_keeps_what_it_does_not_name_and_goes_on_counting_frames() -> None:
    rig = Rig()
    rig.tell(OpenSession("a", "striped", 5))
    rig.steps(3)
    for message, expected in [
        (RestartSession("a"), "striped 5 1 0.000"),
        (RestartSession("a", seed=6), "striped 6 1 0.000"),
        (RestartSession("a", theme="plain"), "plain 6 1 0.000"),
    ]:
        assert len(only(SavedSession, rig.tell(message))) == 1
        [frame] = only(RawFrame, rig.step())
        assert said(frame) == expected
    assert frame.header.frame == 5
    assert rig.world.alive() == [6]


def test_frames_are_collected_while_another_session_restarts() -> None:
    rig = Rig()
    rig.open("a", "b")
    polled: list[list[WorkerMessage]] = []
    opened = rig.world.open

    def open_slowly(start: WorldStart) -> CountingState:
        polled.append(rig.engine.poll())  # as a world does between its forward passes
        return opened(start)

    rig.world.open = open_slowly  # type: ignore[method-assign]
    assert not only(Failed, rig.tell(RestartSession("b", theme="striped")))
    assert polled == [[]]
    assert len(only(RawFrame, rig.step())) == 2


def test_a_start_that_fails_ends_the_session() -> None:
    rig = Rig()
    rig.open("a", "b")
    [failed] = only(Failed, rig.tell(RestartSession("b", theme="jungle")))
    assert (failed.session, failed.code) == ("b", "unknown_theme")
    assert rig.engine.sessions == ("a",)
    assert rig.world.alive() == [0]


# --- failures ---------------------------------------------------------------------------------


def test_a_session_that_breaks_the_step_is_taken_out_and_the_others_miss_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    rig.open("a", "bad", "c")
    rig.steps(3)
    rig.world.broken.add(1)
    with caplog.at_level(logging.CRITICAL):
        out = rig.step()
    [failed] = only(Failed, out)
    assert (failed.session, failed.code) == ("bad", "world_failed")
    assert "RuntimeError: seed 1 is broken" in failed.got
    assert [said(f) for f in only(RawFrame, out)] == ["plain 0 4 0.000", "plain 2 4 0.000"]
    rig.world.batches.clear()
    assert len(only(RawFrame, rig.steps(5))) == 10
    assert rig.world.batches == [2] * 5


def test_the_last_session_failing_leaves_an_idle_worker() -> None:
    rig = Rig()
    rig.open("a")
    rig.world.broken.add(0)
    out = rig.step()
    assert len(only(Failed, out)) == 1
    assert rig.engine.next_step_ms() is None
    rig.world.broken.clear()
    rig.open("a")
    assert len(only(RawFrame, rig.step())) == 1


def test_everything_it_says_can_be_read_by_the_gateway() -> None:
    rig = Rig()
    out = rig.tell(OpenSession("a", "plain", 1), OpenSession("b", "jungle"), WorkerPing(1.0))
    rig.tell(SessionInput("a", held(1, "KeyW"), 0.0))
    out += rig.steps(20)
    stats = only(WorkerStats, out)
    assert stats[-1].values["sessions"] == 1
    assert stats[-1].values["spans_ms"]["step"]["p50"] == pytest.approx(10)
    for message in out:
        assert decode_worker(*encode_parts(message)) == message
