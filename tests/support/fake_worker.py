"""The worker's side of the link, over real ZeroMQ, with a moving test frame for a world."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import numpy as np
import zmq
import zmq.asyncio
from numpy.typing import NDArray

from worldbridge.bridge.protocol import (
    Buffer,
    CloseSession,
    ControllerState,
    ControlSpec,
    Failed,
    FrameAck,
    FrameHeader,
    GatewayMessage,
    Loading,
    Opened,
    OpenSession,
    Pose,
    RawFrame,
    Ready,
    RestartSession,
    SavedSession,
    SessionDepth,
    SessionInput,
    WorkerMessage,
    WorkerPing,
    WorkerPong,
    WorldSpec,
    decode_gateway,
    encode_parts,
)

SPEC = WorldSpec(
    name="test-card",
    title="Test card",
    width=128,
    height=64,
    fps=30.0,
    frames_per_latent=1,
    themes=("day", "night"),
    action_schema=(ControlSpec("forward", "axis"), ControlSpec("yaw", "look")),
    context_latents=0,
    kind="procedural",
)


def now_ms() -> float:
    return time.monotonic() * 1000


def moving_luma(frame: int, spec: WorldSpec = SPEC) -> NDArray[np.int_]:
    """Return the luma of each row of `moving_frame`, int [width]."""
    return 40 + (np.arange(spec.width) * 2 + frame * 3) % 160


def luma_error(i420: Buffer, frame: int, spec: WorldSpec = SPEC) -> float:
    """Return how far the middle row of an I420 image is from that of `moving_frame`: the median."""
    luma = np.frombuffer(i420, np.uint8)[: spec.width * spec.height]
    found = luma.reshape(spec.height, spec.width)[spec.height // 2].astype(float)
    return float(np.median(np.abs(found - moving_luma(frame, spec))))


def moving_frame(frame: int, spec: WorldSpec = SPEC) -> bytes:
    """I420: a grey ramp that moves with the frame number; flat colours, limited range."""
    y = np.broadcast_to(moving_luma(frame, spec).astype(np.uint8), (spec.height, spec.width))
    half = spec.width * spec.height // 4
    return y.tobytes() + bytes([100]) * half + bytes([150]) * half


def flat_depth(spec: WorldSpec = SPEC) -> bytes:
    """Depth, uint16 mm: column 0 is sky, column n is n cm away."""
    steps = np.arange(spec.width, dtype="<u2") * 10
    return np.broadcast_to(steps, (spec.height, spec.width)).tobytes()


@dataclass(slots=True)
class _World:
    frame: int = 0
    newest: ControllerState | None = None
    t_input: float = 0.0
    unacked: int = 0
    depth: bool = False


class FakeWorker:
    """Steps its sessions at `spec.fps`, two frames in flight at most. `stop` is a sudden death."""

    def __init__(
        self, endpoint: str, spec: WorldSpec = SPEC, seats: int = 2, refuses_saved: bool = False
    ) -> None:
        self.spec = spec
        self.seats = seats
        self.received: list[GatewayMessage] = []
        self.worlds: dict[str, _World] = {}
        self.answers_pings = True
        self.refuses_saved = refuses_saved
        self.step_s = 0.004
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, b"worker")
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._tasks: list[asyncio.Task[None]] = []

    async def send(self, message: WorkerMessage) -> None:
        await self._socket.send_multipart(encode_parts(message))

    async def ready(self) -> None:
        await self.send(Ready(self.spec, self.seats, "jacobi"))
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._step())]

    async def loading(self, stage: str, progress: float) -> None:
        await self.send(Loading(stage, progress))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    def of(self, kind: type) -> list[GatewayMessage]:
        return [message for message in self.received if isinstance(message, kind)]

    async def _listen(self) -> None:
        while True:
            message = decode_gateway((await self._socket.recv_multipart())[0])
            self.received.append(message)
            await self._handle(message)

    async def _handle(self, message: GatewayMessage) -> None:
        match message:
            case WorkerPing(time) if self.answers_pings:
                await self.send(WorkerPong(time))
            case OpenSession(session, saved=saved) if saved and self.refuses_saved:
                await self.send(Failed(session, "world_failed", "it was saved by another world"))
            case OpenSession(session, saved=saved):
                self.worlds[session] = _World(frame=int(saved or b"0"))
                await self.send(Opened(session))
            case SessionInput(session, state, t_input) if session in self.worlds:
                world = self.worlds[session]
                world.newest, world.t_input = state, t_input
            case SessionDepth(session, wanted) if session in self.worlds:
                self.worlds[session].depth = wanted
            case FrameAck(session) if session in self.worlds:
                self.worlds[session].unacked -= 1
            case RestartSession(session):
                self.worlds[session].frame = 0
            case CloseSession(session):
                self.worlds.pop(session, None)

    async def _step(self) -> None:
        while True:
            t_controls = now_ms()
            taken = [(w, w.newest, w.t_input) for w in self.worlds.values()]
            await asyncio.sleep(self.step_s)
            for session, world in list(self.worlds.items()):
                found = [(n, t) for w, n, t in taken if w is world]
                if found and world.unacked < 2:
                    await self._emit(session, world, t_controls, *found[0])
            await asyncio.sleep(max(0.0, 1 / self.spec.fps - self.step_s))

    async def _emit(
        self,
        session: str,
        world: _World,
        t_controls: float,
        newest: ControllerState | None,
        t_input: float,
    ) -> None:
        header = FrameHeader(
            frame=world.frame,
            input_sequence=newest.sequence if newest else -1,
            input_time=newest.time if newest else 0.0,
            t_input=t_input,
            t_controls=t_controls,
            t_tokens=t_controls,
            t_frame=now_ms(),
            camera=Pose(position=(float(world.frame), 1.6, 0.0)),
        )
        world.unacked += 1
        payload, scale = moving_frame(world.frame, self.spec), None
        if world.depth:
            payload, scale = payload + flat_depth(self.spec), 0.001
        await self.send(RawFrame(session, header, memoryview(payload), scale))
        world.frame += 1
        if world.frame % 10 == 0:
            await self.send(SavedSession(session, memoryview(str(world.frame).encode())))
