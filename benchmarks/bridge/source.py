"""Frames that cost nothing to make: a recorded walk, handed to the gateway as a worker does.

`record` renders the walk once. `python -m worldbridge.benchmarks.bridge.source JSON` plays it,
forth and back, in a process of its own, and stamps each frame when it is handed over.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
import zmq
from numpy.typing import NDArray

from worldbridge.bridge.protocol import (
    CloseSession,
    FrameAck,
    FrameHeader,
    Opened,
    OpenSession,
    Pose,
    RawFrame,
    Ready,
    SessionInput,
    ShiftPhase,
    Shutdown,
    WorkerMessage,
    WorkerPing,
    WorkerPong,
    WorldSpec,
    decode_gateway,
    encode_parts,
    i420_bytes,
)
from worldbridge.clock import now_ms

__all__ = ["bench_spec", "play", "read_walk", "record"]

FRAMES: Final = 90
SHIFT_STEP_MS: Final = 0.5  # of one frame, as a worker does
IN_FLIGHT: Final = 2  # frames of a session that the gateway has not taken yet, as for a worker


def record(path: Path, frames: int = FRAMES) -> tuple[int, int]:
    """Write I420 frames of a walk through the procedural world. Return width and height."""
    from worldbridge.runtime.worlds.contract import Controls, WorldStart, next_frames
    from worldbridge.runtime.worlds.procedural import ProceduralWorld

    world = ProceduralWorld()
    state = world.open(WorldStart("city", 7))
    with path.open("wb") as file:
        for number in range(frames):
            yaw = math.sin(number / 15)
            [frame] = next_frames(world, [state], [Controls((0.0, 1.0, yaw, 0.0))])
            file.write(np.ascontiguousarray(frame.i420).tobytes())
    return world.spec.width, world.spec.height


def read_walk(path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """Return the recorded frames, uint8 [frames, bytes of an I420 frame]."""
    return np.fromfile(path, np.uint8).reshape(-1, i420_bytes(width, height))


def forth_and_back(count: int) -> Iterator[int]:
    """Yield 0, 1, ..., count - 1, ..., 1, 0, 1, ... without end: no cut, so no key frame."""
    yield from itertools.cycle([*range(count), *range(count - 2, 0, -1)])


def bench_spec(width: int, height: int, fps: float) -> WorldSpec:
    """Return the world that the source says it is."""
    return WorldSpec(
        name="bench",
        title="Recorded walk",
        width=width,
        height=height,
        fps=fps,
        frames_per_latent=1,
        themes=("city",),
        action_schema=(),
        context_latents=0,
        kind="procedural",
    )


@dataclass(slots=True)
class _Session:
    frame: int = 0
    unacked: int = 0
    newest: SessionInput | None = None


class _Source:
    def __init__(
        self,
        endpoint: str,
        spec: WorldSpec,
        walk: NDArray[np.uint8],
        seats: int,
        inputs: IO[str] | None,
    ) -> None:
        self._seats = seats
        self._inputs = inputs
        self._spec = spec
        self._walk = walk
        self._order = forth_and_back(len(walk))
        self._sessions: dict[str, _Session] = {}
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, b"worker")
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._stopped = False
        self._shift_ms = 0.0  # by which frames should be later, so that they meet a refresh

    def run(self) -> None:
        self._send(Ready(self._spec, self._seats))
        due, period = now_ms(), 1000 / self._spec.fps
        while not self._stopped:
            while self._socket.poll(max(0, math.ceil(due - now_ms()))):
                self._receive()
            pixels = memoryview(self._walk[next(self._order)])
            for name, session in self._sessions.items():
                if session.unacked < IN_FLIGHT:
                    self._hand_over(name, session, pixels)
            step = max(-SHIFT_STEP_MS, min(SHIFT_STEP_MS, self._shift_ms))
            self._shift_ms -= step
            due = max(due + period + step, now_ms() - period)

    def _send(self, message: WorkerMessage) -> None:
        self._socket.send_multipart(encode_parts(message))

    def _receive(self) -> None:
        match decode_gateway(self._socket.recv_multipart()[0]):
            case WorkerPing(time):
                self._send(WorkerPong(time))
            case OpenSession(name):
                self._sessions[name] = _Session()
                self._send(Opened(name))
            case SessionInput(name) as message if name in self._sessions:
                self._sessions[name].newest = message
                if self._inputs is not None:
                    print(json.dumps((message.state.sequence, message.t_input)), file=self._inputs)
            case FrameAck(name) if name in self._sessions:
                self._sessions[name].unacked -= 1
            case CloseSession(name):
                self._sessions.pop(name, None)
            case ShiftPhase(_, ms):
                self._shift_ms = math.remainder(ms, 1000 / self._spec.fps)
            case Shutdown():
                self._stopped = True

    def _hand_over(self, name: str, session: _Session, pixels: memoryview) -> None:
        newest, now = session.newest, now_ms()
        header = FrameHeader(
            frame=session.frame,
            input_sequence=newest.state.sequence if newest else -1,
            input_time=newest.state.time if newest else 0.0,
            t_input=newest.t_input if newest else now,
            t_controls=now,
            t_tokens=now,
            t_frame=now_ms(),
            camera=Pose(),
        )
        self._send(RawFrame(name, header, pixels))
        session.frame += 1
        session.unacked += 1


def play(
    endpoint: str,
    walk: str,
    width: int,
    height: int,
    fps: float,
    seats: int = 1,
    inputs: str | None = None,
) -> None:
    """Serve the recorded walk at `fps` until the gateway says that it ends.

    `inputs` is a file to write each input to, when it comes: its sequence and when the gateway had
    it, in ms.
    """
    spec, frames = bench_spec(width, height, fps), read_walk(Path(walk), width, height)
    with ExitStack() as stack:
        log = stack.enter_context(Path(inputs).open("w", 1)) if inputs is not None else None
        _Source(endpoint, spec, frames, seats, log).run()


if __name__ == "__main__":
    play(**json.loads(sys.argv[1]))
