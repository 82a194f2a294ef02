"""Start sessions: complete what a `start` leaves out, and decode its prompt frames."""

from __future__ import annotations

import logging
from typing import Protocol

from worldbridge.bridge.gateway.peer import Peer, PendingStart
from worldbridge.bridge.gateway.players import PlayerSession
from worldbridge.bridge.gateway.prompt_process import PromptDecoder
from worldbridge.bridge.gateway.prompts import DepthFile
from worldbridge.bridge.gateway.sessions import SessionManager, TaskSet
from worldbridge.bridge.protocol import BridgeError, PromptFrames, Start, Status

log = logging.getLogger(__name__)


class StartObserver(Protocol):
    """Hears what becomes of a start."""

    def fail(self, peer: Peer, error: BridgeError, fatal: bool = True) -> None: ...
    def send_status(self, session: PlayerSession, status: Status) -> None: ...
    def notify(self, session: PlayerSession) -> None: ...


class Starter:
    """Starts and restarts sessions. `files` are the server's own prompt frames."""

    def __init__(
        self,
        worlds: SessionManager,
        files: tuple[bytes, ...],
        tasks: TaskSet,
        observer: StartObserver,
    ) -> None:
        self._worlds = worlds
        self._own_files = files
        self._own_frames: PromptFrames | None = None  # `files`, once they were decoded
        self._tasks = tasks
        self._observer = observer
        self._decoder = PromptDecoder()

    def close(self) -> None:
        """Stop decoding."""
        self._decoder.close()

    def start(self, peer: Peer, message: Start) -> None:
        """Start or restart the session of a client, at once or once its files are decoded."""
        session = peer.session
        if session is None:
            return
        try:
            self._worlds.check_start(message)
            if self._worlds.seat(session).state == "queued":  # nothing is decoded before a seat
                peer.postponed = _completed(message, peer.postponed)
                return
            message, files, depth = self._completed(peer, session, message)
        except BridgeError as error:
            self._observer.fail(peer, error, fatal=False)
            return
        self.cancel(peer)
        if files:
            self._observer.send_status(session, Status("loading", "decoding the prompt frames"))
            work = self._tasks.spawn(self._start_from(peer, session, message, files, depth))
            peer.starting = PendingStart(work, message, files, depth)
        else:
            keep = message.prompt_frames is None
            self._worlds.start(session, message, session.prompt_frames if keep else None)

    def _completed(
        self, peer: Peer, session: PlayerSession, message: Start
    ) -> tuple[Start, tuple[bytes, ...], DepthFile | None]:
        """Return a start, the files it starts from, and the depth of the newest.

        What it leaves out comes from a start that is not done yet. Raises BridgeError.
        """
        before, world = peer.starting, self._worlds.world
        assert world is not None
        files: tuple[bytes, ...] = ()
        depth: DepthFile | None = None
        if message.prompt_frames:
            files, depth = peer.upload.take(message.prompt_frames), peer.upload.depth
        elif message.prompt_frames is None and before is not None:
            files, depth = before.files, before.depth
        elif (
            message.prompt_frames is None
            and not session.started
            and len(self._own_files) <= world.max_prompt_frames
        ):
            files = self._own_files
        return _completed(message, before.message if before is not None else None), files, depth

    async def _start_from(
        self,
        peer: Peer,
        session: PlayerSession,
        message: Start,
        files: tuple[bytes, ...],
        depth: DepthFile | None,
    ) -> None:
        """Decode the files, then start. If they are refused the session stays as it was."""
        error: BridgeError | None = None
        try:
            frames = await self._decode(files, depth)
            if peer.session is session:
                self._worlds.start(session, message, frames)
        except BridgeError as refused:
            error = refused
        except Exception:  # our bug must end this client's connection, not the server
            log.exception("the prompt frames of a client were not handled")
            text = "the server failed on these prompt frames"
            error = BridgeError("internal", text, "", "", "Connect again.")
        peer.starting = None
        if error is not None:
            self._observer.fail(peer, error, fatal=error.code == "internal")
        self._observer.notify(session)

    async def _decode(self, files: tuple[bytes, ...], depth: DepthFile | None) -> PromptFrames:
        world, known = self._worlds.world, self._own_frames
        assert world is not None
        size = (world.height, world.width)
        own = files is self._own_files
        if own and known is not None and (known.height, known.width) == size:
            return known
        frames = await self._decoder.decode(files, world, depth)
        if own:
            self._own_frames = frames
        return frames

    def cancel(self, peer: Peer) -> None:
        """Forget a start whose files are being decoded, if there is one."""
        if peer.starting is not None:
            peer.starting.work.cancel()
            peer.starting = None


def _completed(message: Start, before: Start | None) -> Start:
    """Return a start with what it leaves out, but a start before it that is not done yet has."""
    if before is None:
        return message
    frames = message.prompt_frames
    return message.replace(
        theme=message.theme if message.theme is not None else before.theme,
        seed=message.seed if message.seed is not None else before.seed,
        prompt_frames=frames if frames is not None else before.prompt_frames,
    )
