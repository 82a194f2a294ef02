"""The worker as a process, over real ZeroMQ, with a gateway that is ten lines long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from tests.support.fakes import held
from worldbridge.bridge.protocol import (
    CloseSession,
    ControllerState,
    FrameAck,
    GatewayMessage,
    Loading,
    Opened,
    OpenSession,
    RawFrame,
    Ready,
    RestartSession,
    SavedSession,
    SessionDepth,
    SessionInput,
    Shutdown,
    WorkerMessage,
    WorkerPing,
    WorkerPong,
    decode_worker,
    encode,
)
from worldbridge.runtime.worker import Backlog

Kind = TypeVar("Kind", bound=WorkerMessage)
PATIENCE_S = 90.0


class TestBacklog:
    def test_what_takes_long_waits_and_what_follows_it_in_its_session(self) -> None:
        backlog = Backlog()
        assert not backlog and backlog.take() == []
        assert not backlog.add(SessionDepth("a", True)), "nothing is before it"
        restart, depth = RestartSession("a", None, 1, None), SessionDepth("a", False)
        opened = OpenSession("b", None, 2)
        assert backlog.add(restart) and backlog.add(opened) and backlog.add(depth)
        assert not backlog.add(SessionDepth("c", True)) and not backlog.add(FrameAck("a", 1))
        assert not backlog.add(WorkerPing(1.0)) and not backlog.add(Shutdown())
        assert [backlog.take(), backlog.take()] == [[restart, depth], [opened]]
        assert not backlog

    def test_only_the_newest_restart_counts(self) -> None:
        backlog = Backlog()
        opened = OpenSession("a", None, 0)
        backlog.add(opened)
        for seed in range(1000):
            backlog.add(RestartSession("a", None, seed, None))
            backlog.add(SessionInput("a", ControllerState(seed, 1.0), 1.0))
        first, second = backlog.take(), backlog.take()
        assert first == [opened]
        assert isinstance(second[0], RestartSession) and second[0].seed == 999
        assert len(second) == 2 and not backlog

    def test_sessions_take_turns(self) -> None:
        backlog = Backlog()
        for name in "aab":
            backlog.add(OpenSession(name, None, 0))
            backlog.add(RestartSession(name, None, 0, None))
        taken = [backlog.take()[0] for _ in range(4)]
        assert [getattr(message, "session", None) for message in taken] == ["a", "b", "a", "b"]

    def test_a_closed_session_is_not_opened_any_more(self) -> None:
        backlog = Backlog()
        backlog.add(OpenSession("a", None, 0))
        assert not backlog.add(CloseSession("a"))
        assert not backlog


class Gateway:
    """Binds, hears a worker out, and remembers what it said."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(endpoint)
        self._worker = b""

    def say(self, *messages: GatewayMessage) -> None:
        for message in messages:
            self._socket.send_multipart([self._worker, encode(message)])

    def hear(self, patience_s: float = PATIENCE_S) -> WorkerMessage | None:
        if not self._socket.poll(round(patience_s * 1000)):
            return None
        self._worker, *parts = self._socket.recv_multipart()
        return decode_worker(*parts)

    def until(self, kind: type[Kind], wanted: Callable[[Kind], bool] = lambda m: True) -> Kind:
        """The next message of that kind that is wanted; frames before it are acknowledged."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            message = self.hear(1.0)
            if isinstance(message, kind) and wanted(message):
                return message
            if isinstance(message, RawFrame):
                self.say(FrameAck(message.session, message.header.frame))
        raise AssertionError(f"no {kind.__name__} within {PATIENCE_S} s")

    def during(self, seconds: float) -> list[WorkerMessage]:
        end, heard = time.monotonic() + seconds, []
        while (left := end - time.monotonic()) > 0:
            message = self.hear(left)
            if message is not None:
                heard.append(message)
        return heard

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()


def start_worker(endpoint: str, **settings: object) -> subprocess.Popen[str]:
    values = {"endpoint": endpoint, "threads": 1, "mode": None, **settings}
    command = [sys.executable, "-m", "worldbridge.runtime", json.dumps(values)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return process.returncode, errors


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"ipc://{tmp_path_factory.mktemp('w')}/s"


@pytest.fixture(scope="module")
def gateway(endpoint: str) -> Iterator[Gateway]:
    gateway = Gateway(endpoint)
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def worker(gateway: Gateway, endpoint: str) -> Iterator[subprocess.Popen[str]]:
    """One for the whole file: loading is most of the time. Told it is ready, never silent."""
    settings = {"world": "procedural", "seats": 2, "fps": 10, "name": "w1", "silence_s": 15}
    process = start_worker(endpoint, **settings)
    try:
        loading = gateway.until(Loading)
        assert loading.progress == 0.0
        ready = gateway.until(Ready)
        assert (ready.world.name, ready.world.fps, ready.seats) == ("procedural", 10, 2)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def session(worker: subprocess.Popen[str], gateway: Gateway) -> Iterator[str]:
    """A session that is open, in the first scene of the museum."""
    gateway.say(OpenSession("a", "museum", 1))
    gateway.until(Opened)
    yield "a"
    gateway.say(CloseSession("a"), WorkerPing(-1.0))
    gateway.until(WorkerPong, lambda pong: pong.time == -1.0)


def test_frames_arrive_and_input_changes_the_picture(session: str, gateway: Gateway) -> None:
    still = [gateway.until(RawFrame) for _ in range(2)]
    gateway.say(*(FrameAck(session, f.header.frame) for f in still))
    assert still[0].payload == still[1].payload
    assert [f.header.input_sequence for f in still] == [-1, -1]
    gateway.say(SessionInput(session, held(3, "ArrowLeft"), time.monotonic() * 1000))
    turned = gateway.until(RawFrame, lambda f: f.header.input_sequence == 3)
    assert turned.payload != still[0].payload
    assert turned.header.camera != still[0].header.camera
    header = turned.header
    assert header.t_input <= header.t_controls <= header.t_tokens <= header.t_frame
    gateway.say(FrameAck(session, header.frame))


def test_two_frames_in_flight_then_the_newest(session: str, gateway: Gateway) -> None:
    frames = [m for m in gateway.during(1.2) if isinstance(m, RawFrame)]
    assert len(frames) == 2
    gateway.say(FrameAck(session, frames[-1].header.frame))
    newest = gateway.until(RawFrame)
    missed = newest.header.frame - frames[-1].header.frame - 1
    assert missed > 0
    assert newest.header.dropped == missed


def test_a_snapshot_comes_each_second_and_play_goes_on_from_it(
    session: str, gateway: Gateway
) -> None:
    gateway.until(SavedSession)
    gateway.say(SessionInput(session, held(1, "KeyQ"), 0.0))
    saved = gateway.until(SavedSession)
    gateway.say(CloseSession(session), OpenSession("b", saved=bytes(saved.payload)))
    frame = gateway.until(RawFrame, lambda f: f.session == "b")
    gateway.say(CloseSession("b"))
    assert frame.header.frame > 0


def test_an_idle_worker_hardly_uses_the_processor(
    worker: subprocess.Popen[str], gateway: Gateway
) -> None:
    before = processor_seconds(worker.pid)
    gateway.during(1.0)
    assert processor_seconds(worker.pid) - before < 0.1


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_sigterm_ends_it_cleanly_with_a_last_snapshot(
    worker: subprocess.Popen[str], gateway: Gateway
) -> None:
    gateway.say(OpenSession("last", "museum", 1))
    gateway.until(RawFrame, lambda f: f.session == "last")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_S) == 0
    last = [m for m in gateway.during(0.3) if isinstance(m, SavedSession)]
    assert [m.session for m in last][-1:] == ["last"]


def test_an_unknown_world_has_its_own_exit_code_and_says_what_is_known(tmp_path: Path) -> None:
    code, said = refusal(tmp_path, "atlantis")
    assert (code, said["code"], said["got"]) == (4, "unknown_world", "'atlantis'")
    assert "procedural" in said["expected"]


def test_damaged_weights_have_their_own_exit_code(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text("{")
    code, said = refusal(tmp_path, str(tmp_path))
    assert (code, said["code"]) == (5, "world_failed")
    assert said["expected"] and said["got"] and said["remedy"]


def refusal(tmp_path: Path, world: str) -> tuple[int, dict[str, str]]:
    """Exit code and last words of a worker that cannot serve `world`."""
    code, errors = ended(start_worker(f"ipc://{tmp_path}/s", world=world))
    said: dict[str, str] = json.loads(errors.splitlines()[-1])
    assert set(said) == {"code", "message", "expected", "got", "remedy"}
    return code, said
