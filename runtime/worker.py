"""The worker process: `python -m worldbridge.runtime.worker --endpoint ipc://... --world NAME`.

A thin shell around `Engine`: a socket, a clock, and the end of the process. The process that is
started loads the world and forks the one that serves it (`respawn`). Exit codes: 0 told to
stop or left alone, 1 the world failed, 2 wrong arguments, or a prompt, a decode mode, weights or a
way to make pictures that the world cannot take, 4 unknown world, 5 damaged weights; all but wrong
arguments print one line of JSON {code, message, expected, got, remedy} on stderr.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import secrets
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from worldbridge.clock import now_ms
from worldbridge.runtime.decoding.autotune import Wanted, remember, remembered
from worldbridge.runtime.decoding.capacity import players_carried
from worldbridge.runtime.decoding.seat_memory import check_seats, most_tried, seats_of
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
from worldbridge.runtime.prefork import Respawner
from worldbridge.runtime.process import StopSignal, Wakeup, die_with_parent
from worldbridge.runtime.worlds.contract import Controls, WorldModel, WorldStart, next_frames
from worldbridge.runtime.worlds.registry import open_world
from worldbridge.runtime.worlds.text_prompt import Prompt, read_prompt

__all__ = ["Worker", "main"]

log = logging.getLogger(__name__)

GATEWAY_SILENCE_MS = 10_000.0
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
            else:
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


def warm_up(world: WorldModel[Any], seats: int) -> float:
    """The first steps are slow (lazy allocations, kernel choice); take them before a player does.

    Returns how many milliseconds the fastest whole latent of one session took.

    Raises:
        WorldFailedError: a world that cannot make a frame is not ready.
    """
    start = WorldStart(world.spec.themes[0], 0)
    try:
        states = [world.open(start) for _ in range(seats)]
        pictures, times = world.spec.frames_per_latent, []
        for _ in range(max(WARM_UP_STEPS, pictures)):
            begun = now_ms()
            next_frames(world, states[:1], [Controls()])
            times.append(now_ms() - begun)
        if seats > 1:
            next_frames(world, states, [Controls()] * seats)
        # a latent is drawn in one of its steps, wherever in it one begins to count
        return min(sum(times[i : i + pictures]) for i in range(len(times) - pictures + 1))
    except WorldError:
        raise
    except Exception as error:
        raise WorldFailedError("it made its first frames", error) from error


@dataclass(frozen=True, slots=True)
class _Loaded:
    world: WorldModel[Any]
    seats: int


def load(arguments: argparse.Namespace, text: torch.Tensor | None) -> _Loaded:
    """Load and warm up the world, telling the gateway how far it is. Raises WorldError.

    Without `--seats`, it lets in as many players as keep the world's frame rate on this machine,
    and as the memory has room for.
    """
    with zmq.Context() as context, _connect(arguments, context) as socket:

        def progress(stage: str, share: float) -> None:
            socket.send_multipart(encode_parts(Loading(stage, min(max(share, 0.0), 1.0))))

        progress("loading the world", 0.0)
        wanted = Wanted(arguments.mode, arguments.diagonal)
        world = open_world(
            arguments.world,
            device=arguments.device,
            fps=arguments.fps,
            seats=arguments.seats or most_tried(arguments.device),
            progress=progress,
            context=text,
            wanted=remembered(wanted, arguments.remember),
            weights=arguments.weights,
            pixels=arguments.pixels,
        )
        remember(world, wanted, arguments.remember)
        if arguments.seats is not None:
            check_seats(world, arguments.seats)
        progress("making the first frames", 0.9)
        alone_ms = warm_up(world, arguments.seats or 1)
        if arguments.seats is not None:
            return _Loaded(world, arguments.seats)
        progress("counting how many players this machine carries", 0.95)
        most = seats_of(world, most_tried(arguments.device))
        seats = players_carried(
            world,
            most,
            alone_ms,
            lambda players: progress(f"trying {players} players together", 0.95),
        )
        log.info("%d players at %g frames/s", seats, world.spec.fps)
    return _Loaded(world, seats)


def serve(arguments: argparse.Namespace, loaded: _Loaded) -> None:
    """Step sessions of a loaded world until the end."""
    world, seats = loaded.world, loaded.seats
    stop = StopSignal()
    with zmq.Context() as context, _connect(arguments, context) as socket:
        engine = Engine(world, seats=seats, pick_seed=lambda: secrets.randbelow(2**31))
        stop.arm()
        worker = Worker(socket, engine, stop, arguments.silence * 1000)
        world.notify = worker.notice
        socket.send_multipart(encode_parts(Ready(world.spec, seats, _mode(world))))
        worker.run()
    stop.close()


def _mode(world: WorldModel[Any]) -> str:
    """Return the decode mode; nothing for a world that is rendered."""
    return "" if world.decoding is None else str(world.decoding.decoder.mode)


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
        loaded: _Loaded | None = None
        try:
            text = _text(arguments)  # once, also where each worker loads its own world
        except Exception as error:
            return _failed(error)
        if arguments.device == "cpu":  # a GPU's state cannot be forked; each worker loads its own
            try:
                loaded = load(arguments, text)
            except Exception as error:
                return _failed(error)
            loaded.world.rest()
        # What is loaded stays: no collection is to walk through it in the middle of a step, nor
        # to write to pages that the fork shares.
        gc.collect()
        gc.freeze()

        def work() -> int:
            torch.set_num_threads(arguments.threads)
            try:
                serve(arguments, load(arguments, text) if loaded is None else loaded)
            except Exception as error:
                return _failed(error)
            return 0

        return Respawner(work, _HOPELESS).run()


def _text(arguments: argparse.Namespace) -> torch.Tensor | None:
    """What the world is told in words. Raises WorldError."""
    prompt = Prompt(arguments.prompt_embeddings, arguments.prompt, arguments.t5)
    return None if prompt == Prompt() else read_prompt(arguments.world, prompt)


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
    parser.add_argument(
        "--seats", type=_positive, default=None, help="sessions at the same time; else by measuring"
    )
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda")
    parser.add_argument("--fps", type=float, help="frame rate, for worlds that can choose")
    parser.add_argument("--mode", help="how tokens are decoded, auto to measure; else as usual")
    parser.add_argument("--diagonal", type=_positive, help="with --mode diagonal: its step")
    parser.add_argument(
        "--remember", type=Path, help="file that keeps the mode found by --mode auto, for the next"
    )
    parser.add_argument("--weights", default="model", help="how weights are read: model, fp8, int8")
    parser.add_argument("--pixels", default="eager", help="eager, compiled, or a folder of engines")
    parser.add_argument("--prompt-embeddings", type=Path, help="file with T5 embeddings")
    parser.add_argument("--prompt", help="a text for worlds that take one")
    parser.add_argument("--t5", type=Path, help="folder of the encoder for --prompt")
    parser.add_argument("--name", default="worker", help="this worker's name for the gateway")
    parser.add_argument(
        "--silence",
        type=float,
        default=GATEWAY_SILENCE_MS / 1000,
        help="leave after this many seconds without a word from the gateway",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
