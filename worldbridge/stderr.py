"""Standard error that never blocks: a bounded queue, and a thread that writes what it can.

A full disk, a closed pipe or a reader that stopped must not stop a process that only wanted to
log a line. What cannot be written is dropped and counted.
"""

from __future__ import annotations

import atexit
import io
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

__all__ = [
    "JsonLogFormatter",
    "LogFormat",
    "LossyStream",
    "RepeatFilter",
    "escape",
    "json_log_line",
    "parse_log_line",
    "protect_stderr",
    "start_logging",
]

LogFormat = Literal["text", "json"]

_MAX_CHARACTERS: Final = 256 * 1024  # that may wait
_MAX_LINE: Final = 4_000
_FIELDS: Final = ("session", "role", "code")  # that a record may carry as `extra`
_EXIT_SECONDS: Final = 1.0  # that the end of the process waits for the last lines


def escape(text: str) -> str:
    """Return `text` with control characters, which a terminal would obey, as escape sequences."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


class LossyStream(io.TextIOBase):
    """A text stream over a file descriptor. `write` queues the text and returns at once."""

    def __init__(self, descriptor: int, *, plain: bool = False) -> None:
        """`plain`: escape control characters."""
        super().__init__()
        self._descriptor = descriptor
        self._plain = plain
        self.dropped = 0  # lines, in all
        self._reported = 0  # of them
        self._start()
        os.register_at_fork(after_in_child=self._start)  # threads do not survive a fork

    def _start(self) -> None:
        self._queue: deque[str] = deque()
        self._waiting = 0
        self._writing = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="stderr", daemon=True).start()

    def write(self, text: str, /) -> int:
        shown = escape(text) if self._plain else text
        with self._changed:
            if self._waiting + len(shown) > _MAX_CHARACTERS:
                self.dropped += max(1, shown.count("\n"))
            elif shown:
                self._queue.append(shown)
                self._waiting += len(shown)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Do nothing: loggers flush after every line, and must not wait. See `drain`."""

    def drain(self, seconds: float = _EXIT_SECONDS) -> None:
        """Wait until all is written, but no longer than `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue and not self._writing, seconds)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def _run(self) -> None:
        changed = self._changed
        while True:
            with changed:
                self._writing = False
                changed.notify_all()
                changed.wait_for(lambda: bool(self._queue))
                text, dropped = self._queue.popleft(), self.dropped
                self._waiting -= len(text)
                self._writing = True
            lost = dropped - self._reported
            note = f"{lost} lines of the log were dropped\n" if lost else ""
            if self._write_out(note + text):
                self._reported = dropped
            else:
                with changed:
                    self.dropped += max(1, text.count("\n"))

    def _write_out(self, text: str) -> bool:
        rest = text.encode("utf-8", "backslashreplace")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            return False
        return True


def protect_stderr(*, plain: bool = False) -> None:
    """Make `sys.stderr` of this process a LossyStream. May be called more than once."""
    if not isinstance(sys.stderr, LossyStream):
        stream = LossyStream(2, plain=plain)
        sys.stderr = stream
        atexit.register(stream.drain)


class RepeatFilter(logging.Filter):
    """Let each message of a logger pass `most` times per `seconds`, then say how many there were.

    Messages are the same if their templates are, whatever their arguments.
    """

    def __init__(
        self, most: int = 10, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now, key = self._clock(), (record.name, str(record.msg))
        since, count = self._seen.get(key, (now, 0))
        if now - since >= self._seconds:
            held, since, count = count - self._most, now, 0
            if held > 0:
                record.msg, record.args = f"{record.getMessage()} ({held} like it left out)", ()
        if len(self._seen) > 1_000:  # templates are ours, but libraries format their own
            self._seen.clear()
        self._seen[key] = (since, count + 1)
        if len(record.getMessage()) > _MAX_LINE:
            record.msg, record.args = record.getMessage()[:_MAX_LINE] + "...", ()
        return count < self._most


# --- structured logs -----------------------------------------------------------------------------


def json_log_line(
    process: str, message: str, level: str = "info", at: float | None = None, **fields: str
) -> str:
    """Return one line of a structured log. `at`: seconds since the epoch, by default now."""
    moment = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    entry: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "process": process,
        **fields,
        "message": message[:_MAX_LINE],
    }
    return json.dumps(entry)


def parse_log_line(line: str) -> dict[str, Any] | None:
    """Return the entry of a line that `json_log_line` made, None for any other line."""
    if not line.startswith('{"time": '):
        return None
    try:
        entry = json.loads(line)
    except ValueError:  # cut off
        return None
    return entry if isinstance(entry, dict) and "message" in entry else None


class JsonLogFormatter(logging.Formatter):
    """One JSON object per record: time (UTC), level, process, logger, message.

    A record's `extra` adds `session`, `role` and `code`.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: str(getattr(record, name)) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)[-_MAX_LINE:]
        level, message = record.levelname.lower(), record.getMessage()
        return json_log_line(
            self._process, message, level, record.created, logger=record.name, **fields
        )


def start_logging(process: str, level: str, log_format: LogFormat) -> None:
    """Log to standard error as text or as JSON lines, which anyone who connects may cause."""
    text = logging.Formatter(f"{process} %(levelname)s: %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLogFormatter(process) if log_format == "json" else text)
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
