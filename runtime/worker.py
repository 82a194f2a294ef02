"""The worker process: `python -m worldbridge.runtime.worker --endpoint ipc://... --world NAME`.

A thin shell around `Engine`: a socket, a clock, and the end of the process. The process that is
started loads the world and forks the one that serves it (`respawn`). Exit codes: 0 told to
stop or left alone, 1 the world failed, 2 wrong arguments, 4 unknown world, 5 damaged weights; the
last two, and 1, print one line of JSON {code, message, expected, got, remedy} on stderr.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import secrets
import sys
import time
from collections.abc import Iterable, Sequence

import torch
import zmq

from worldbridge.bridge.protocol import (
    Loading,
    ProtocolError,
    Ready,
    WorkerMessage,
    decode_gateway,
    encode_parts,
)
from worldbridge.runtime.engine import Engine
from worldbridge.runtime.errors import (
    DamagedWeightsError,
    UnknownWorldError,
    WorldError,
    WorldFailedError,
)
from worldbridge.runtime.process import StopSignal, die_with_parent
from worldbridge.runtime.registry import open_world
from worldbridge.runtime.respawn import Respawner
from worldbridge.runtime.world import PipelinedWorld, WorldModel, WorldStart

__all__ = ["Worker", "main"]

log = logging.getLogger(__name__)

GATEWAY_SILENCE_MS = 10_000.0
LINGER_MS = 500
WARM_UP_STEPS = 3
_HOPELESS = frozenset({UnknownWorldError.exit_code, DamagedWeightsError.exit_code})


def now_ms() -> float:
    return time.monotonic() * 1000


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
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(stop.fileno(), zmq.POLLIN)

    def run(self) -> None:
        while not (self._stop.stopped or self._engine.stopped):
            self._drain()
            self.send_finished()
            due = self._engine.next_step_ms()
            if due is not None and due <= now_ms():
                self._send(self._engine.step(now_ms()))
            elif now_ms() - self._heard_ms > self._silence_ms:
                log.warning("the gateway was silent for %.0f s: leaving", self._silence_ms / 1000)
                break
            else:
                self._sleep(due)
        self._send(self._engine.final_snapshots())

    def send_finished(self) -> None:
        """Send the frames that have become pixels since the last look."""
        self._send(self._engine.collect())

    def _sleep(self, due_ms: float | None) -> None:
        """Until a message, a signal, the next step, or the end of the gateway's patience."""
        wake = self._heard_ms + self._silence_ms
        if self._engine.unfinished:  # pixels come from a thread, which no poll can see
            wake = min(wake, now_ms() + 1)
        wake = wake if due_ms is None else min(wake, due_ms)
        self._poller.poll(max(0, math.ceil(wake - now_ms())))

    def _drain(self) -> None:
        """Hand over all that is there: a step that starts now must see the newest input."""
        while self._socket.poll(0):
            parts = self._socket.recv_multipart()
            self._heard_ms = now_ms()
            try:
                message = decode_gateway(parts[0])
            except ProtocolError as error:
                log.warning("a message of the gateway was ignored: %s", error)
                continue
            self._send(self._engine.receive(message, self._heard_ms))

    def _send(self, messages: Iterable[WorkerMessage]) -> None:
        for message in messages:
            self._socket.send_multipart(encode_parts(message))


def warm_up(world: WorldModel, seats: int) -> None:
    """The first steps are slow (lazy allocations, kernel choice); take them before a player does.

    Raises:
        WorldFailedError: a world that cannot make a frame is not ready.
    """
    start = WorldStart(world.spec.themes[0], 0)
    try:
        states = [world.open(start) for _ in range(seats)]
        for count in (*[1] * WARM_UP_STEPS, seats):
            world.step(states[:count], torch.zeros(count, 4))
    except WorldError:
        raise
    except Exception as error:
        raise WorldFailedError("it made its first frames", error) from error


def load(arguments: argparse.Namespace) -> WorldModel:
    """Load and warm up the world, telling the gateway how far it is. Raises WorldError."""
    with zmq.Context() as context, _connect(arguments, context) as socket:

        def progress(stage: str, share: float) -> None:
            socket.send_multipart(encode_parts(Loading(stage, min(max(share, 0.0), 1.0))))

        progress("loading the world", 0.0)
        world = open_world(
            arguments.world,
            device=arguments.device,
            fps=arguments.fps,
            seats=arguments.seats,
            progress=progress,
        )
        progress("making the first frames", 0.95)
        warm_up(world, arguments.seats)
    return world


def rest(world: WorldModel) -> None:
    """End the threads of a world that has some; it starts them again when it needs them."""
    if isinstance(world, PipelinedWorld):
        world.rest()


def serve(arguments: argparse.Namespace, world: WorldModel) -> None:
    """Step sessions of a loaded world until the end."""
    stop = StopSignal()
    with zmq.Context() as context, _connect(arguments, context) as socket:
        engine = Engine(world, seats=arguments.seats, pick_seed=lambda: secrets.randbelow(2**31))
        stop.arm()
        worker = Worker(socket, engine, stop, arguments.silence * 1000)
        engine.between(worker.send_finished)
        socket.send_multipart(encode_parts(Ready(world.spec, arguments.seats)))
        worker.run()
    stop.close()


def _connect(
    arguments: argparse.Namespace, context: zmq.Context[zmq.Socket[bytes]]
) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.IDENTITY, arguments.name.encode())
    socket.connect(arguments.endpoint)
    return socket


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="worker %(levelname)s: %(message)s")
    die_with_parent()
    # One thread until the fork: a pool of threads would not survive it.
    torch.set_num_threads(1)
    with torch.inference_mode():
        world: WorldModel | None = None
        if arguments.device == "cpu":  # a GPU's state cannot be forked; each worker loads its own
            try:
                world = load(arguments)
            except Exception as error:
                return _failed(error)
            rest(world)
        # What is loaded stays: no collection is to walk through it in the middle of a step, nor
        # to write to pages that the fork shares.
        gc.collect()
        gc.freeze()

        def work() -> int:
            torch.set_num_threads(arguments.threads)
            try:
                serve(arguments, load(arguments) if world is None else world)
            except Exception as error:
                return _failed(error)
            return 0

        return Respawner(work, _HOPELESS).run()


def _failed(error: Exception) -> int:
    """Tells an error as one line on stderr; its exit code."""
    if not isinstance(error, WorldError):
        log.error("the worker failed", exc_info=error)
        error = WorldFailedError("it was loaded or served", error)
    print(error.as_json(), file=sys.stderr, flush=True)
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="worldbridge.runtime.worker", description="Steps the sessions of one world."
    )
    parser.add_argument("--endpoint", required=True, help="ZeroMQ address of the gateway")
    parser.add_argument("--world", required=True, help="a known world, or a world's directory")
    parser.add_argument("--threads", type=_positive, default=1, help="processor threads")
    parser.add_argument("--seats", type=_positive, default=4, help="sessions at the same time")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda")
    parser.add_argument("--fps", type=float, help="frame rate, for worlds that can choose")
    parser.add_argument("--name", default="worker", help="this worker's name for the gateway")
    parser.add_argument(
        "--silence", type=float, default=GATEWAY_SILENCE_MS / 1000,
        help="leave after this many seconds without a word from the gateway",
    )  # fmt: skip
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
