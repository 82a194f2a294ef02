"""Sessions on disk: a gateway that is started again finds the players' sessions there."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec

from worldbridge.bridge.gateway.players import PlayerSession
from worldbridge.bridge.protocol import ControllerState, PromptFrames

__all__ = ["SessionFiles", "private_folder"]

log = logging.getLogger(__name__)

MAX_AGE_S: Final = 3600.0  # nobody comes back to a session that was left before
_NAME: Final = re.compile(r"[0-9a-f]{16}")
_SESSION, _FRAMES, _TOKENS = ".session", ".frames", "used.tokens"
_CRC: Final = 4  # bytes of a CRC-32 in front of each file's content
_PAUSE: Final = 4.0  # after a write, as a multiple of the time it took


class _Stored(msgspec.Struct, frozen=True):
    """What is kept of a session besides its prompt frames, which never change."""

    resume: str
    theme: str | None
    seed: int | None
    started: bool
    patient: bool
    saved: bytes | None
    newest: ControllerState | None
    frame: int


_Used = dict[str, tuple[float, str]]  # by id: when it expires, and its session
_Content = _Stored | PromptFrames | _Used | None


class SessionFiles:
    """One file per session in `folder`, replaced as a whole; without a folder nothing is kept.

    A thread writes, so that a slow disk delays no frame: of each file the newest content, and in at
    most a fifth of the time, whatever clients do. A disk that is full, or a folder that somebody
    removes, costs what would have been restored from it.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._pending: dict[str, _Content] = {}  # by file name; None: remove
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sessions")
        self._due = threading.Event()  # a flush is about to begin
        self._closing = threading.Event()

    def load(self) -> Iterator[PlayerSession]:
        """Yield the sessions that were stored, and remove what is too old or damaged."""
        if self._folder is None:
            return
        for path in sorted(self._folder.glob("*" + _SESSION)):
            session = self._read(path)
            if session is not None:
                yield session
            else:
                self._pending[path.stem + _SESSION] = self._pending[path.stem + _FRAMES] = None
        self._flush_soon()

    def store(self, session: PlayerSession) -> None:
        """Keep a session as it is now."""
        newest = session.inputs.newest
        stored = _Stored(
            session.resume,
            session.theme,
            session.seed,
            session.started,
            session.patient,
            session.saved,
            newest,
            session.frame,
        )
        self._put(session.id + _SESSION, stored)

    def store_frames(self, session: PlayerSession) -> None:
        """Keep the prompt frames that a session was started from."""
        self._put(session.id + _FRAMES, session.prompt_frames)

    def remove(self, session: PlayerSession) -> None:
        """Forget a session."""
        self._put(session.id + _SESSION, None)
        self._put(session.id + _FRAMES, None)

    def store_used(self, used: _Used) -> None:
        """Keep which one-time tokens were used."""
        self._put(_TOKENS, dict(used))

    def load_used(self) -> _Used:
        """Return the one-time tokens that were used. Raises OSError if that cannot be read."""
        if self._folder is None or not (self._folder / _TOKENS).exists():
            return {}
        return msgspec.msgpack.decode(_checked((self._folder / _TOKENS).read_bytes()), type=_Used)

    def close(self) -> None:
        """Write what is left."""
        self._closing.set()
        self._pool.shutdown()

    def _put(self, name: str, content: _Content) -> None:
        if self._folder is not None:
            self._pending[name] = content
            self._flush_soon()

    # --- files --------------------------------------------------------------------------------

    def _read(self, path: Path) -> PlayerSession | None:
        try:
            if not _NAME.fullmatch(path.stem) or time.time() - path.stat().st_mtime > MAX_AGE_S:
                return None
            stored = msgspec.msgpack.decode(_checked(path.read_bytes()), type=_Stored)
            frames_path = path.with_suffix(_FRAMES)
            frames = None
            if frames_path.exists():
                frames = msgspec.msgpack.decode(
                    _checked(frames_path.read_bytes()), type=PromptFrames
                )
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("a stored session is left out: %s: %s", path.name, error)
            return None
        session = PlayerSession(path.stem, stored.resume, stored.theme, stored.seed, frames)
        session.started, session.saved, session.frame = stored.started, stored.saved, stored.frame
        session.patient = stored.patient
        session.inputs.continue_from(stored.newest)
        return session

    def _flush_soon(self) -> None:
        if self._pending and not self._due.is_set():
            self._due.set()
            self._pool.submit(self._flush)

    def _flush(self) -> None:
        self._due.clear()
        while self._pending:
            began = time.monotonic()
            name = next(iter(self._pending))
            content = self._pending.pop(name)
            try:
                self._write(name, content)
            except OSError as error:
                log.warning("sessions are not kept over a restart: %s", error)
            self._closing.wait(_PAUSE * (time.monotonic() - began))

    def _write(self, name: str, content: _Content) -> None:
        assert self._folder is not None
        path = self._folder / name
        if content is None:
            path.unlink(missing_ok=True)
            return
        private_folder(self._folder)
        data = msgspec.msgpack.encode(content)
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(zlib.crc32(data).to_bytes(_CRC, "little"))
            file.write(data)
        os.replace(part, path)


def _checked(data: bytes) -> memoryview:
    content = memoryview(data)[_CRC:]
    if zlib.crc32(content).to_bytes(_CRC, "little") != data[:_CRC]:
        raise ValueError("its checksum is wrong")
    return content


def private_folder(folder: Path) -> None:
    """Make a folder that only we can enter, again if somebody removed it.

    Raises:
        OSError: it cannot be made, or it belongs to another user.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
