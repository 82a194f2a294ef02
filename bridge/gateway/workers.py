"""The gateway's side of the link to the worker, and whether the worker is alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import zmq
import zmq.asyncio

from worldbridge.bridge.gateway.session_files import private_folder
from worldbridge.bridge.protocol import (
    MAX_PAYLOAD,
    Failed,
    GatewayMessage,
    Loading,
    Opened,
    ProtocolError,
    RawFrame,
    Ready,
    SavedSession,
    WorkerMessage,
    WorkerPing,
    WorkerPong,
    WorkerStats,
    decode_worker,
    encode_parts,
)
from worldbridge.clock import now_ms

log = logging.getLogger(__name__)

PING_EVERY_MS: Final = 500.0
LOOK_EVERY_MS: Final = 2_000.0
LOST_AFTER_MS: Final = 1_500.0
MAX_UNTAKEN: Final = 8  # messages of a session that the worker may have to take


class WorkerEvents(Protocol):
    """Hears what the worker sends, and whether it lives."""

    def worker_loading(self, message: Loading) -> None: ...
    def worker_ready(self, message: Ready) -> None: ...
    def worker_lost(self, why: str) -> None: ...
    def worker_revived(self) -> None: ...
    def session_opened(self, message: Opened) -> None: ...
    def session_failed(self, message: Failed) -> None: ...
    def session_saved(self, message: SavedSession) -> None: ...
    def frame_arrived(self, message: RawFrame) -> None: ...
    def worker_stats(self, message: WorkerStats) -> None: ...
    def messages_taken(self) -> None: ...
    def session_ids(self) -> tuple[str, ...]: ...


class Liveness:
    """Whether a worker that was ready still answers. Pure: times come from the caller."""

    def __init__(self, lost_after_ms: float = LOST_AFTER_MS) -> None:
        self._lost_after_ms = lost_after_ms
        self._heard_ms = 0.0
        self._broken = self._undelivered = False
        self.watching = False
        self.lost = False

    def ready(self, now_ms: float) -> None:
        self.watching, self.lost, self._heard_ms = True, False, now_ms
        self._broken = self._undelivered = False

    @property
    def silent(self) -> bool:
        """Whether its process is there but does not answer."""
        return self.lost and not self._broken

    def excuse(self, now_ms: float) -> None:
        """Give it time to answer, as it was us who did not run."""
        self._heard_ms = now_ms

    def restarting(self) -> None:
        """Stop watching: a worker that loads cannot answer."""
        self.watching = self.lost = False

    def heard(self, now_ms: float) -> bool:
        """Note a sign of life. Return whether the worker had been given up."""
        self._heard_ms = now_ms
        if self._undelivered:
            return False
        revived, self.lost = self.lost, False
        return revived

    def undelivered(self) -> bool:
        """Note that it misses a message, so that only a new one helps. Return if that is news."""
        news = self.watching and not self.lost
        self._undelivered = self.lost = self.watching
        return news

    def gone(self) -> bool:
        """Note that its connection broke. Return whether that is news."""
        news = self.watching and not self.lost
        self._broken = True
        self.lost = self.lost or self.watching
        return news

    def newly_lost(self, now_ms: float) -> bool:
        """Return whether the worker is lost from now on."""
        if not self.watching or self.lost:
            return False
        self.lost = now_ms - self._heard_ms > self._lost_after_ms
        return self.lost


class Credit:
    """How many messages of each session the worker has not taken yet. Pure.

    A worker takes messages in order, so its answer to a ping says that it took all that was sent
    before. One ping is under way at a time: a worker that is busy is not sent more of them.
    """

    def __init__(self) -> None:
        self._open: dict[str, int] = {}  # sent since the ping, by session
        self._asked: dict[str, int] = {}  # sent before the ping
        self._time: float | None = None  # of the ping

    def sent(self, session: str) -> None:
        self._open[session] = self._open.get(session, 0) + 1

    def untaken(self, session: str) -> int:
        """Return how many messages may still wait at the worker."""
        return self._open.get(session, 0) + self._asked.get(session, 0)

    def ask(self, now_ms: float) -> WorkerPing | None:
        """Return the ping to send now, None while one is under way."""
        if self._time is not None:
            return None
        self._time, self._asked, self._open = now_ms, self._open, {}
        return WorkerPing(now_ms)

    def answered(self, time: float) -> bool:
        """Return whether this pong says that messages were taken."""
        if self._time is None or time < self._time:
            return False
        self._time, self._asked = None, {}
        return True

    def clear(self) -> None:
        """Forget what was sent to a worker that is gone."""
        self._open, self._asked, self._time = {}, {}, None


class WorkerLink:
    """A ROUTER that the worker connects to.

    It serves one worker: the last one that sent `loading` or `ready`.
    """

    def __init__(self, endpoint: str, events: WorkerEvents) -> None:
        self._endpoint = endpoint
        self._events = events
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_PAYLOAD)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # what cannot be sent is an error
        # a worker that was restarted comes back under the same name
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._worker: bytes | None = None
        self._liveness = Liveness()
        self._pinged_ms = 0.0
        self._looked_ms = 0.0
        self._path: Path | None = None  # of the socket, if it has one
        self.credit = Credit()

    def bind(self) -> str:
        """Listen and return the endpoint as bound. Raises zmq.ZMQError."""
        path = self._endpoint.removeprefix("ipc://")
        self._path = Path(path) if path != self._endpoint else None
        self._make_folder()
        self._socket.bind(self._endpoint)
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def run(self, clock: Callable[[], float]) -> None:
        """Deliver messages until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            while True:
                parts = await self._socket.recv_multipart(copy=False)
                self._receive(parts, clock())

    async def _watch(self) -> None:
        """Notice a broken connection, which is sooner than missed pongs."""
        monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        while True:
            await monitor.recv_multipart()
            if self._liveness.gone():
                self._events.worker_lost("the worker's process ended")

    def _receive(self, parts: list[zmq.Frame], now: float) -> None:
        if len(parts) not in (2, 3):
            log.warning("a worker sent %d parts instead of 1 or 2", len(parts) - 1)
            return
        try:
            payload = parts[2].buffer if len(parts) == 3 else None
            message = decode_worker(parts[1].buffer, payload)
        except ProtocolError as error:
            log.warning("a message of the worker was ignored: %s", error)
            return
        name = parts[0].bytes
        if isinstance(message, Loading | Ready):
            self._worker = name
        elif name != self._worker:
            return  # one that was replaced, or that never said it was ready
        try:
            self._dispatch(message, now)
        except Exception:  # our bug costs this message, not every player's game
            log.exception("a message of the worker was not handled")

    def _dispatch(self, message: WorkerMessage, now: float) -> None:
        events = self._events
        match message:
            case Loading():
                self._liveness.restarting()
                return events.worker_loading(message)
            case Ready():
                self._liveness.ready(now)
                return events.worker_ready(message)
        if not self._liveness.watching:
            return  # left over from before it restarted
        if self._liveness.heard(now):
            events.worker_revived()
        match message:
            case Opened():
                events.session_opened(message)
            case Failed():
                events.session_failed(message)
            case RawFrame():
                events.frame_arrived(message)
            case SavedSession():
                events.session_saved(message)
            case WorkerStats():
                events.worker_stats(message)
            case WorkerPong():
                if self.credit.answered(message.time):
                    events.messages_taken()

    def send(self, message: GatewayMessage) -> None:
        """Send without waiting. Nothing is sent while there is no worker."""
        if self._worker is None:
            return
        parts = [self._worker, *encode_parts(message)]
        sent = asyncio.ensure_future(self._socket.send_multipart(parts, zmq.NOBLOCK))
        error = sent.exception()  # it is done at once
        if isinstance(error, zmq.Again):
            lost, why = self._liveness.undelivered(), "the worker's queue is full"
        elif error is not None:
            lost, why = self._liveness.gone(), "the worker's connection ended"
        else:
            return
        if lost:  # later: whoever sends this is in the middle of something
            asyncio.get_running_loop().call_soon(self._events.worker_lost, why)

    @property
    def worker_silent(self) -> bool:
        return self._liveness.silent

    def excuse(self, now: float) -> None:
        """Give the worker time to answer, as it was us who did not run."""
        self._liveness.excuse(now)

    def send_counted(self, session: str, message: GatewayMessage) -> None:
        """Send a message whose number is limited, and ask when it was taken."""
        self.send(message)
        self.credit.sent(session)
        if self.credit.untaken(session) >= MAX_UNTAKEN // 2:  # seldom in ordinary play
            self.ask()

    def ask(self) -> None:
        """Ask the worker whether it took what was sent, unless it is being asked."""
        ping = self.credit.ask(now_ms()) if self._worker is not None else None
        if ping is not None:
            self.send(ping)

    def tick(self, now: float) -> None:
        """Ping the worker and notice its silence. Call it a few times per second."""
        if now - self._pinged_ms >= PING_EVERY_MS:
            self._pinged_ms = now
            self.send(WorkerPing(now, self._events.session_ids()))
        if now - self._looked_ms >= LOOK_EVERY_MS:
            self._looked_ms = now
            self._restore_path()
        if self._liveness.newly_lost(now):
            self._events.worker_lost("the worker stopped answering")

    def _make_folder(self) -> None:
        if self._path is not None and not self._path.parent.exists():
            private_folder(self._path.parent)

    def _restore_path(self) -> None:
        """Bind again if somebody cleaned the folder: the next worker could not connect."""
        if self._path is None or self._path.exists():
            return
        log.warning("%s was removed; listening there again", self._path)
        try:
            self._make_folder()
            self._socket.unbind(self._endpoint)
            self._socket.bind(self._endpoint)
        except (OSError, zmq.ZMQError) as error:
            log.warning("a worker that is started now cannot connect: %s", error)

    def close(self) -> None:
        self._context.destroy(linger=200)
