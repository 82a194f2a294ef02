"""What a client may send and when. Pure: no sockets, no clocks.

A connection goes from hello to waiting (for the world), to streaming, to closed.
"""

from __future__ import annotations

import enum
import math
from typing import Final

from worldbridge.bridge.gateway.prompts import DepthFile
from worldbridge.bridge.protocol import (
    MAX_HELLO,
    MAX_PROMPT_BYTES,
    BridgeError,
    Buffer,
    Bye,
    ClientMessage,
    ErrorCode,
    HandOver,
    Hello,
    Input,
    Observe,
    Offer,
    PromptDepthPart,
    PromptFramePart,
    ProtocolError,
    RequestControl,
    Role,
    Start,
    decode_client,
)

HELLO_MS: Final = 5_000.0
SILENCE_MS: Final = 4_000.0
UPLOAD_MS: Final = 60_000.0  # the longest that one message may take to arrive
# Per second. A mouse at 1000 Hz whose bytes were held back for 4 s sends them at once; what they
# cost is limited as well, see `limits`.
MAX_MESSAGES: Final = 5_000


_TO_PLAY: Final = Input | Start | PromptFramePart | PromptDepthPart | Observe
_AFTER_WELCOME: Final = _TO_PLAY | Offer | RequestControl | HandOver


class Phase(enum.Enum):
    GREETING = "greeting"
    WAITING = "waiting"
    STREAMING = "streaming"
    CLOSED = "closed"


class Connection:
    """Checks every message of one client against the phase and the role."""

    def __init__(
        self, now_ms: float, hello_ms: float = HELLO_MS, silence_ms: float = SILENCE_MS
    ) -> None:
        self.phase = Phase.GREETING
        self.role: Role = "player"
        self.demoted = False  # it handed the controls over; what it sent before may come after
        self._hello_ms = hello_ms
        self._silence_ms = silence_ms
        self._began_ms = now_ms
        self._heard_ms = now_ms
        self._second = (now_ms, 0)  # when the current second began, messages since then

    def receive(self, data: Buffer, now_ms: float) -> ClientMessage:
        """Return the message if the client may send it now. Raises ProtocolError."""
        assert self.phase is not Phase.CLOSED, "nothing is received after the end"
        self._count(now_ms)
        if self.phase is Phase.GREETING and len(data) > MAX_HELLO:
            raise ProtocolError(
                "message_too_large",
                "the first message is too large",
                f"a hello of at most {MAX_HELLO} bytes",
                f"{len(data)} bytes",
                "Send hello first; prompt frames follow after welcome.",
            )
        message = decode_client(data)
        self._heard_ms = now_ms
        if self.phase is Phase.GREETING:
            self._greet(message)
        elif isinstance(message, Hello):
            raise _out_of_order("a second hello", "one hello per connection", "Connect again.")
        elif self.phase is Phase.WAITING and isinstance(message, _AFTER_WELCOME):
            raise _out_of_order(
                f"a message of type {_type(message)} before welcome",
                "only ping, stats or bye before welcome",
                "Wait for welcome.",
                "not_greeted",
            )
        elif self.role == "spectator" and not self.demoted and isinstance(message, _TO_PLAY):
            raise _out_of_order(
                f"a message of type {_type(message)} from a spectator",
                "no input, observations, prompt frames or start from spectators",
                "Say hello with the role `player` to play.",
                "invalid_input",
            )
        if isinstance(message, Bye):
            self.phase = Phase.CLOSED
        return message

    def _count(self, now_ms: float) -> None:
        began, count = self._second
        self._second = (began, count + 1) if now_ms - began < 1000.0 else (now_ms, 1)
        if self._second[1] > MAX_MESSAGES:
            raise ProtocolError(
                "bad_message",
                "too many messages",
                f"at most {MAX_MESSAGES} per second",
                "more",
                "Send the controls 60 times per second.",
            )

    def _greet(self, message: ClientMessage) -> None:
        if not isinstance(message, Hello):
            raise _out_of_order(
                f"a message of type {_type(message)}",
                "a message of type hello first",
                "Send hello, wait for welcome, then continue.",
                "not_greeted",
            )
        self.role = message.role
        self.phase = Phase.WAITING

    def welcomed(self) -> None:
        assert self.phase is Phase.WAITING
        self.phase = Phase.STREAMING

    def change_role(self, role: Role) -> None:
        """Let the client play from now on, or watch."""
        self.demoted = role == "spectator"
        self.role = role

    @property
    def heard_ms(self) -> float:
        """When the newest message came."""
        return self._heard_ms

    def close(self) -> None:
        self.phase = Phase.CLOSED

    def overdue(self, now_ms: float, bytes_ms: float = -math.inf) -> BridgeError | None:
        """Return why this client should be dropped now, or None.

        `bytes_ms` is when its newest bytes arrived. A client in the middle of a large message is
        not silent, but no message may take longer than a minute. The first message is small.
        """
        if self.phase is Phase.GREETING and now_ms - self._began_ms > self._hello_ms:
            return BridgeError(
                "not_greeted",
                "no hello arrived",
                f"a hello within {self._hello_ms / 1000:g} s of connecting",
                "silence",
                "Send hello as the first message.",
            )
        sending = now_ms - bytes_ms < 1000.0 and now_ms - self._heard_ms < UPLOAD_MS
        if (
            not sending
            and self.phase is not Phase.CLOSED
            and now_ms - self._heard_ms > self._silence_ms
        ):
            return BridgeError(
                "session_expired",
                "the client went silent",
                f"a message at least every {self._silence_ms / 1000:g} s",
                f"nothing for {(now_ms - self._heard_ms) / 1000:.1f} s",
                "Send ping every 500 ms; say hello with the resume token to come back.",
            )
        return None


def _type(message: ClientMessage) -> str:
    return str(message.__struct_config__.tag)


def _out_of_order(
    got: str, expected: str, remedy: str, code: ErrorCode = "bad_message"
) -> ProtocolError:
    return ProtocolError(code, "this message cannot be sent now", expected, got, remedy)


class PromptUpload:
    """Prompt frames on their way in: files that arrive part after part, in order.

    A part that does not fit makes the upload fail; `take` reports that, so a client hears of it
    once, and nothing more is kept of it. `depth`: that of the files that were taken last.
    """

    def __init__(self) -> None:
        self.depth: DepthFile | None = None
        self._reset(0)

    def _reset(self, count: int) -> None:
        self._files: list[bytearray] = []
        self._depth, self._depth_scale = bytearray(), 0.0
        self._depth_parts = (0, 0)  # that came, and that there are
        self._next = (0, 0)  # frame and part that have to come next
        self._count = count
        self._size = 0
        self._error: BridgeError | None = None

    def add(self, part: PromptFramePart, most: int) -> None:
        """Keep a part; the first part of frame 0 begins again. `most`: frames of this world."""
        if (part.index, part.part) == (0, 0):
            self._reset(part.count)
        if self._error is not None:
            return
        self._size += len(part.data)
        if part.count > most:
            self._fail("too many prompt frames", f"at most {most}", f"{part.count}")
        elif (part.index, part.part) != self._next or part.count != self._count:
            expected = f"part {self._next[1]} of frame {self._next[0]} of {self._count}"
            got = f"part {part.part} of frame {part.index} of {part.count}"
            self._fail("a part of a prompt frame is out of order", expected, got)
        elif self._size > MAX_PROMPT_BYTES:
            expected = f"at most {MAX_PROMPT_BYTES} bytes together"
            self._fail("the prompt frames are too large", expected, "more")
        else:
            self._keep(part)

    def add_depth(self, part: PromptDepthPart, taken: bool) -> None:
        """Keep a part of the depth of the newest frame. `taken`: whether this world has depth."""
        if self._error is not None:
            return
        self._size += len(part.data)
        if not taken:
            self._fail("this world takes no depth", "a world with `depth`", "one without")
        elif self._next != (self._count, 0) or part.part != self._depth_parts[0]:
            expected = f"part {self._depth_parts[0]}, after {self._count} prompt frames"
            self._fail("a part of the depth is out of order", expected, f"part {part.part}")
        elif self._size > MAX_PROMPT_BYTES:
            expected = f"at most {MAX_PROMPT_BYTES} bytes together"
            self._fail("the prompt frames are too large", expected, "more")
        else:
            self._depth += part.data
            self._depth_scale, self._depth_parts = part.scale, (part.part + 1, part.parts)

    def _keep(self, part: PromptFramePart) -> None:
        if part.part == 0:
            self._files.append(bytearray())
        self._files[-1] += part.data
        last = part.part + 1 == part.parts
        self._next = (part.index + 1, 0) if last else (part.index, part.part + 1)

    def _fail(self, message: str, expected: str, got: str) -> None:
        self._files = []
        remedy = "Send every file whole, in parts and in order, then start."
        self._error = BridgeError(
            "bad_prompt_frame", message, expected, got, remedy, "prompt_frame"
        )

    def take(self, count: int) -> tuple[bytes, ...]:
        """Return `count` files and forget them. Raises BridgeError bad_prompt_frame."""
        if self._error is None and (len(self._files) != count or self._next != (count, 0)):
            got = f"{len(self._files)}, the last one whole: {self._next[1] == 0}"
            self._fail("prompt frames are missing", f"{count} prompt frames before start", got)
        came, parts = self._depth_parts
        if self._error is None and came != parts:
            self._fail("a part of the depth is missing", f"{parts} parts", f"{came}")
        files, error = tuple(map(bytes, self._files)), self._error
        self.depth = DepthFile(bytes(self._depth), self._depth_scale) if parts else None
        self._reset(0)
        if error is not None:
            raise error
        return files
