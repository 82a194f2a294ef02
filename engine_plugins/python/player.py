"""Play from code without an event loop: the client runs in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from worldbridge.bridge.protocol import BridgeError, ControllerState, Event, Pose, Status, WorldSpec
from worldbridge.engine_plugins.python.faults import Interruption

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from worldbridge.engine_plugins.python.client import Client, ReceivedFrame

__all__ = ["Player"]

HOLD_S: Final = 0.1  # a state is repeated this often; a silent controller is released
LEAVE_S: Final = 5.0  # closing takes a round trip; a server that is gone must not hold us up

Result = TypeVar("Result")


class Player:
    """Use `with connect(url) as player`. The methods block, and may be called from any thread.

    What the controller holds stays held until the next `steer` or `step`, however long the
    caller takes in between.
    """

    def __init__(self, opening: Callable[[], AsyncIterator[Client]]) -> None:
        self._held: dict[str, Any] = {}
        self._client: Client
        self._loop = asyncio.new_event_loop()
        self._leave = asyncio.Event()
        self._entered = threading.Event()
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, args=(opening,), name="worldbridge client", daemon=True
        )
        self._thread.start()
        atexit.register(self.close)  # a program that fails frees its seat as well
        self._entered.wait()

    def _run(self, opening: Callable[[], AsyncIterator[Client]]) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._play(opening))
        finally:
            self._loop.close()

    async def _play(self, opening: Callable[[], AsyncIterator[Client]]) -> None:
        async with contextlib.asynccontextmanager(opening)() as client:
            self._client = client
            self._entered.set()
            while not self._leave.is_set():
                if client.status.state == "playing" and client.plays:
                    client.steer(**self._held)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._leave.wait(), HOLD_S)

    def _on_loop(self, ask: Callable[[], Result]) -> Result:
        async def answer() -> Result:
            return ask()

        if self._closed:
            raise RuntimeError("the connection is closed; connect again")
        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result()

    # --- playing ------------------------------------------------------------------------------

    def steer(
        self,
        *,
        axes: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        buttons: int = 0,
        keys: Sequence[str] = (),
        pointer: tuple[float, float] = (0.0, 0.0),
        pose: Pose | None = None,
    ) -> ControllerState:
        """Hold this from now on. Return the state that was sent. See `Client.steer`."""
        held = dict(axes=axes, buttons=buttons, keys=keys, pointer=pointer, pose=pose)

        def send() -> ControllerState:
            state = self._client.steer(**held)  # type: ignore[arg-type]
            self._held = held  # only what was accepted is repeated
            return state

        return self._on_loop(send)

    def frame(self, timeout: float = 60.0) -> ReceivedFrame:
        """Return the newest frame that was not returned yet, waiting for one.

        Raises BridgeError or ConnectError if the server refused us, and TimeoutError.
        """
        if self._closed:
            raise RuntimeError("the connection is closed; connect again")
        waiting = asyncio.run_coroutine_threadsafe(self._next_frame(timeout), self._loop)
        return waiting.result()

    async def _next_frame(self, timeout: float) -> ReceivedFrame:
        try:
            return await asyncio.wait_for(self._client.frame(), timeout)
        except TimeoutError:
            status = self._client.status
            raise TimeoutError(
                f"expected a frame within {timeout:.1f} s, got none; "
                f"the session is {status.state} ({status.detail or 'no detail'})"
            ) from None

    def step(self, timeout: float = 60.0, **controls: Any) -> ReceivedFrame:
        """Hold `controls` (as `steer` takes them) and return the first frame that answers them.

        Raises what `frame` raises. It waits through reconnects.
        """
        return self.answer(self.steer(**controls), timeout)

    def answer(self, state: ControllerState, timeout: float = 60.0) -> ReceivedFrame:
        """Return the first frame that answers `state` or a newer one. Raises as `frame` does."""
        deadline = time.monotonic() + timeout
        while True:
            frame = self.frame(max(0.001, deadline - time.monotonic()))
            if frame.header.input_sequence >= state.sequence:
                return frame

    def restart(
        self, theme: str | None = None, seed: int | None = None, timeout: float = 60.0
    ) -> ReceivedFrame:
        """Restart the world with neutral controls and return a frame of the new one.

        Raises BridgeError if the server refuses, and what `frame` raises.
        """
        if self._client.welcome is None or self._client.status.state != "playing":
            self.frame(timeout)  # a start is taken only after the first one was done

        def send() -> ControllerState:
            self._client.start(theme, seed)
            # Messages stay in order: what answers this state was made after the restart.
            self._held = {}
            return self._client.steer()

        frame = self.answer(self._on_loop(send), timeout)
        if self._client.refusal is not None:
            raise self._client.refusal
        return frame

    # --- what is known ------------------------------------------------------------------------

    def world(self, timeout: float = 60.0) -> WorldSpec:
        """Return what the server plays, waiting until it is loaded. Raises what `frame` raises."""
        deadline = time.monotonic() + timeout
        while True:
            welcome = self._client.welcome
            if welcome is not None:
                return welcome.world
            if self._client.error is not None:
                raise self._client.error
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected a welcome within {timeout:.1f} s, got {self.status}")
            time.sleep(0.005)

    @property
    def status(self) -> Status:
        """The state of the session."""
        return self._client.status

    @property
    def refusal(self) -> BridgeError | None:
        """Why the newest restart was refused, if it was."""
        return self._client.refusal

    def take_interruptions(self) -> list[Interruption]:
        """Return what was lost since the last call, oldest first."""

        def take() -> list[Interruption]:
            taken = list(self._client.interruptions)
            self._client.interruptions.clear()
            return taken

        return self._on_loop(take)

    def take_events(self) -> list[Event]:
        """Return what the server reported since the last call, oldest first."""

        def take() -> list[Event]:
            taken = list(self._client.events)
            self._client.events.clear()
            return taken

        return self._on_loop(take)

    @property
    def plays(self) -> bool:
        """Whether this client has the controls."""
        return self._client.plays

    def observe(self, rgb: ArrayLike, depth: ArrayLike, pose: Pose, fresh: bool = False) -> None:
        """Give the world a frame that an engine rendered (see `Client.observe`)."""
        self._on_loop(lambda: self._client.observe(rgb, depth, pose, fresh))

    def request_control(self) -> None:
        """Ask, as a spectator, for the controls."""
        self._on_loop(self._client.request_control)

    def hand_over(self) -> None:
        """Give the controls to the spectator who asked first, and watch from now on."""
        self._on_loop(self._client.hand_over)

    def close(self) -> None:
        """Free the seat and end the thread. May be called again."""
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            self._loop.call_soon_threadsafe(self._leave.set)
            self._thread.join(LEAVE_S)
