"""The worker process: `python -m worldbridge.runtime '{"world": NAME, ...}'`.

A thin shell around `Engine`: a socket, a clock, and the end of the process. The process that is
started loads the world and forks the one that serves it (`respawn`). Exit codes: 0 asked to
stop or left alone, 1 the world failed, 2 a wrong setting, or a prompt, a decode mode, weights or a
detokenizer that the world cannot take, 4 unknown world, 5 damaged weights. Errors are one
line of JSON {code, message, expected, got, remedy} on stderr.
"""

from __future__ import annotations

import gc
import logging
import math
import secrets
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import zmq

from worldbridge.bridge.protocol import (
    CloseSession,
    FrameAck,
    GatewayMessage,
    Loading,
    OpenSession,
    ProtocolError,
    Ready,
    RestartSession,
    SessionDepth,
    Shutdown,
    WorkerMessage,
    WorkerPing,
    decode_gateway,
    encode_parts,
)
from worldbridge.clock import now_ms
from worldbridge.errors import ConfigError
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.decoding.autotune import remember, remembered
from worldbridge.runtime.decoding.capacity import (
    check_seats,
    players_carried,
    seats_of,
    seats_tried,
)
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.errors import (
    DamagedWeightsError,
    ModeError,
    NoDeviceError,
    PromptError,
    SeatsError,
    UnknownWorldError,
    WeightDtypeError,
    WorldError,
    WorldFailedError,
)
from worldbridge.runtime.process import Respawner, StopSignal, Wakeup, die_with_parent
from worldbridge.runtime.worlds.contract import Controls, WorldModel, WorldStart, next_frames
from worldbridge.runtime.worlds.registry import Prompt, open_world, read_prompt
from worldbridge.settings import from_json
from worldbridge.stderr import start_logging

__all__ = ["Worker", "main"]

log = logging.getLogger(__name__)

LINGER_MS = 500
WARM_UP_STEPS = 3
_HOPELESS = frozenset(
    e.exit_code
    for e in (
        UnknownWorldError,
        DamagedWeightsError,
        NoDeviceError,
        PromptError,
        ModeError,
        WeightDtypeError,
        SeatsError,
    )
)


class Backlog:
    """Messages that take long, and what follows them in their session.

    Whatever one player starts again and again, steps and the messages of others go on.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[GatewayMessage]] = {}  # by session, the next one first

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, message: GatewayMessage) -> bool:
        """Return whether a message has to wait here. A restart replaces what it makes void."""
        match message:
            case WorkerPing() | Shutdown() | FrameAck():
                return False
            case CloseSession():
                self._waiting.pop(message.session, None)
                return False
            case OpenSession():
                self._waiting[message.session] = [message]
                return True
        waiting = self._waiting.get(message.session, [])
        if isinstance(message, RestartSession):
            waiting = [x for x in waiting if isinstance(x, OpenSession | SessionDepth)]
        elif not waiting:
            return False
        self._waiting[message.session] = [*waiting, message]
        return True

    def take(self) -> list[GatewayMessage]:
        """Return the next message that takes long, and what may follow it at once."""
        if not self._waiting:
            return []
        session = next(iter(self._waiting))
        messages = self._waiting.pop(session)
        end = 1
        while end < len(messages) and not isinstance(messages[end], RestartSession):
            end += 1
        if messages[end:]:
            self._waiting[session] = messages[end:]
        return messages[:end]


class Worker:
    """Moves messages between the gateway's socket and the engine until something says stop."""

    def __init__(
        self, socket: zmq.Socket[bytes], engine: Engine, stop: StopSignal, silence_ms: float
    ) -> None:
        self._socket = socket
        self._engine = engine
        self._stop = stop
        self._silence_ms = silence_ms
        self._heard_ms = now_ms()
        self._thread = threading.get_ident()
        self._backlog = Backlog()
        self._finished = Wakeup()
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(stop.fileno(), zmq.POLLIN)
        self._poller.register(self._finished.fileno(), zmq.POLLIN)

    def run(self) -> None:
        while not (self._stop.stopped or self._engine.stopped):
            self._drain()
            self._finished.clear()
            self.send_finished()
            due = self._engine.next_step_ms()
            if due is not None and due <= now_ms():
                self._send(self._engine.step(now_ms()))
            elif now_ms() - self._heard_ms > self._silence_ms:
                log.warning("the gateway was silent for %.0f s: leaving", self._silence_ms / 1000)
                break
            elif not self._backlog:
                self._sleep(due)
        self._send(self._engine.final_snapshots())
        self._finished.close()

    def send_finished(self) -> None:
        """Send the frames that were finished since the last call."""
        self._send(self._engine.poll())

    def notice(self) -> None:
        """Frames may be finished: send them here, or wake the loop from another thread."""
        if threading.get_ident() == self._thread:
            self.send_finished()
        else:
            self._finished.set()

    def _sleep(self, due_ms: float | None) -> None:
        """Wait for a message, a signal, a frame, the next step, or the gateway to be overdue."""
        wake = self._heard_ms + self._silence_ms
        wake = wake if due_ms is None else min(wake, due_ms)
        self._poller.poll(max(0, math.ceil(wake - now_ms())))

    def _drain(self) -> None:
        """Hand over all that is there: a step that starts now must see the newest input.

        Of what takes long, one message has its turn before each step.
        """
        while self._socket.poll(0):
            parts = self._socket.recv_multipart()
            self._heard_ms = now_ms()
            try:
                message = decode_gateway(parts[0])
            except ProtocolError as error:
                log.warning("a message of the gateway was ignored: %s", error)
                continue
            if not self._backlog.add(message):
                self._send(self._engine.receive(message, self._heard_ms))
        for message in self._backlog.take():
            self._send(self._engine.receive(message, now_ms()))

    def _send(self, messages: Iterable[WorkerMessage]) -> None:
        for message in messages:
            self._socket.send_multipart(encode_parts(message))


def warm_up(world: WorldModel[Any], seats: int) -> float:
    """The first steps are slow (lazy allocations, kernel choice); take them before a player does.

    Returns how many milliseconds the fastest whole latent of one session took.

    Raises:
        WorldFailedError: a world that cannot make a frame is not ready.
    """
    start = WorldStart(world.spec.themes[0], 0)
    try:
        states = [world.open(start) for _ in range(seats)]
        per_latent, times = world.spec.frames_per_latent, []
        for _ in range(max(WARM_UP_STEPS, per_latent)):
            begun = now_ms()
            next_frames(world, states[:1], [Controls()])
            times.append(now_ms() - begun)
        if seats > 1:
            next_frames(world, states, [Controls()] * seats)
        # a latent is drawn in one of its steps, wherever in it one begins to count
        return min(sum(times[i : i + per_latent]) for i in range(len(times) - per_latent + 1))
    except WorldError:
        raise
    except Exception as error:
        raise WorldFailedError("it made its first frames", error) from error


@dataclass(frozen=True, slots=True)
class _Loaded:
    world: WorldModel[Any]
    seats: int


def load(config: WorkerConfig, text: torch.Tensor | None) -> _Loaded:
    """Load and warm up the world, telling the gateway how far it is. Raises WorldError.

    Without a number of seats, it lets in as many players as keep the world's frame rate on this
    machine, and as the memory has room for.
    """
    with zmq.Context() as context, _connect(config, context) as socket:

        def progress(stage: str, share: float) -> None:
            socket.send_multipart(encode_parts(Loading(stage, min(max(share, 0.0), 1.0))))

        progress("loading the world", 0.0)
        autotune_cache = _path(config.autotune_cache)
        known = replace(config, mode=remembered(config.mode, autotune_cache))
        world = open_world(known, progress=progress, context=text)
        remember(world, config.mode, autotune_cache)
        if config.seats is not None:
            check_seats(world, config.seats)
        progress("making the first frames", 0.9)
        alone_ms = warm_up(world, config.seats or 1)
        if config.seats is not None:
            return _Loaded(world, config.seats)
        progress("counting how many players this machine carries", 0.95)
        most = seats_of(world, seats_tried(config))
        seats = players_carried(
            world,
            most,
            alone_ms,
            lambda players: progress(f"trying {players} players together", 0.95),
        )
        log.info("%d players at %g frames/s", seats, world.spec.fps)
    return _Loaded(world, seats)


def serve(config: WorkerConfig, loaded: _Loaded) -> None:
    """Step sessions of a loaded world until the end."""
    world, seats = loaded.world, loaded.seats
    stop = StopSignal()
    with zmq.Context() as context, _connect(config, context) as socket:
        engine = Engine(world, seats=seats, pick_seed=lambda: secrets.randbelow(2**31))
        stop.arm()
        worker = Worker(socket, engine, stop, config.silence_s * 1000)
        world.notify = worker.notice
        socket.send_multipart(encode_parts(Ready(world.spec, seats, _mode(world))))
        worker.run()
    stop.close()


def _mode(world: WorldModel[Any]) -> str:
    """Return the decode mode; nothing for a world that is rendered."""
    return "" if world.decoding is None else str(world.decoding.decoder.mode)


def _connect(config: WorkerConfig, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.IDENTITY, config.name.encode())
    socket.connect(config.endpoint)
    return socket


def main(arguments: Sequence[str]) -> int:
    """Run a worker with the settings in `arguments[0]`, JSON; return its exit code."""
    try:
        config = from_json(WorkerConfig, arguments[0] if arguments else "")
    except ConfigError as error:
        print(error.as_json(), file=sys.stderr, flush=True)
        return error.exit_code
    start_logging("worker", "info", config.log_format)
    die_with_parent()
    # One thread until the fork: a pool of threads would not survive it.
    torch.set_num_threads(1)
    with torch.inference_mode():
        loaded: _Loaded | None = None
        try:
            text = _text(config)  # once, also where each worker loads its own world
        except Exception as error:
            return _failed(error)
        if config.device == "cpu":  # a GPU's state cannot be forked; each worker loads its own
            try:
                loaded = load(config, text)
            except Exception as error:
                return _failed(error)
            loaded.world.rest()
        # What is loaded stays: no collection is to walk through it in the middle of a step, nor
        # to write to pages that the fork shares.
        gc.collect()
        gc.freeze()

        def work() -> int:
            torch.set_num_threads(config.model_threads)
            try:
                serve(config, load(config, text) if loaded is None else loaded)
            except Exception as error:
                return _failed(error)
            return 0

        return Respawner(work, _HOPELESS).run()


def _text(config: WorkerConfig) -> torch.Tensor | None:
    """Return the embedded text that conditions the world. Raises WorldError."""
    prompt = Prompt(_path(config.prompt_embeddings), config.prompt, _path(config.t5))
    return None if prompt == Prompt() else read_prompt(config.world, prompt)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _failed(error: Exception) -> int:
    """Tells an error as one line on stderr; its exit code."""
    if not isinstance(error, WorldError):
        log.error("the worker failed", exc_info=error)
        error = WorldFailedError("it was loaded or served", error)
    print(error.as_json(), file=sys.stderr, flush=True)
    return error.exit_code
