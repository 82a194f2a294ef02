"""Logging never blocks and never raises, whatever standard error is."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from worldbridge.children import Child, ChildSpec
from worldbridge.errors import ChildError
from worldbridge.stderr import (
    LossyStream,
    RepeatFilter,
    escape,
    json_log_line,
    parse_log_line,
    start_logging,
)


def _full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def _closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _unread_pipe() -> int:
    return os.pipe()[1]


@pytest.mark.parametrize("make", [_full, _closed_pipe, _unread_pipe])
def test_writing_never_blocks_or_raises(make: object) -> None:
    assert callable(make)
    stream = LossyStream(make())
    began = time.monotonic()
    for _ in range(20_000):
        print("a line of fifty characters, more or less, of a log", file=stream, flush=True)
    stream.drain(0.1)
    assert time.monotonic() - began < 5.0
    assert stream.dropped > 0


def test_dropped_lines_are_counted_in_the_log() -> None:
    reader, writer = os.pipe()
    stream = LossyStream(writer)
    for _ in range(20_000):
        stream.write("a line of fifty characters, more or less, of a log\n")
    text = b""
    while b"were dropped" not in text:
        text = text[-200:] + os.read(reader, 1 << 16)
        stream.write("one more\n")
    assert b"lines of the log were dropped" in text


def test_what_is_written_arrives_whole_and_in_order() -> None:
    reader, writer = os.pipe()
    stream = LossyStream(writer)
    for number in range(100):
        print(number, file=stream)
    stream.drain(5.0)
    assert os.read(reader, 1 << 16).split() == [str(n).encode() for n in range(100)]


def test_terminal_escapes_are_shown_not_obeyed() -> None:
    assert escape("m=\x1b[31mboo\x1b]0;x\x07\x9b") == r"m=\x1b[31mboo\x1b]0;x\x07\x9b"
    assert escape("a\tb – ü") == "a\tb – ü"


def test_repeated_messages_are_counted_instead_of_printed() -> None:
    now = [0.0]
    repeat = RepeatFilter(most=10, seconds=60.0, clock=lambda: now[0])

    def record(address: str) -> logging.LogRecord:
        return logging.LogRecord("n", logging.INFO, "", 0, "from %s", (address,), None)

    assert sum(repeat.filter(record(str(n))) for n in range(500)) == 10
    now[0] = 61.0
    last = record("z")
    assert repeat.filter(last)
    assert "490 like it left out" in last.getMessage()


class _FailsOnce:
    """A disk that is full for one moment."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._failed = False

    def write(self, text: str) -> int:
        if not self._failed:
            self._failed = True
            raise OSError(28, "No space left on device")
        self.lines.append(text)
        return len(text)

    def flush(self) -> None:
        pass


async def test_a_child_is_read_although_one_write_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys\nfor n in range(5000): print('x' * 100, n, file=sys.stderr)\nsys.exit(2)"
    (tmp_path / "a_loud_child.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = _FailsOnce()
    monkeypatch.setattr(sys, "stderr", broken)
    child = Child(ChildSpec("gateway", ["a_loud_child"]), lambda text: None)
    with pytest.raises(ChildError):
        async with asyncio.timeout(30):
            await child.keep_running()
    assert len(broken.lines) > 100


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """Give the handlers of the tests back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("own_handlers")
def test_a_structured_log_has_one_object_per_record(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("gateway", "info", "json")
    log = logging.getLogger("worldbridge.test")
    log.info("two\nlines of %s", "text", extra={"session": "s1", "role": "player"})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("it failed")
    log.debug("unseen")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["message"] == "two\nlines of text" and first["level"] == "info"
    assert (first["session"], first["role"]) == ("s1", "player")
    assert first["process"] == "gateway" and first["logger"] == "worldbridge.test"
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert "session" not in second and "ValueError: no" in second["exception"]


@pytest.mark.usefixtures("own_handlers")
def test_a_structured_log_is_limited(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("gateway", "info", "json")
    log = logging.getLogger("worldbridge.test")
    for _ in range(50):
        log.warning("again %s", "x" * 100_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert all(len(json.loads(line)["message"]) <= 4_010 for line in lines)


def test_only_our_own_lines_are_log_entries() -> None:
    line = json_log_line("worker", "hello", session="s")
    entry = parse_log_line(line)
    assert entry is not None and entry["session"] == "s" and entry["level"] == "info"
    for other in ("hello", '{"message": "an error for the supervisor"}', line[:-5], '{"time": 1}'):
        assert parse_log_line(other) is None
