"""What a client may say and when, and what is remembered of each player. No sockets, no clocks.

A conversation goes hello -> (waiting for the world) -> streaming -> closed.
"""

from __future__ import annotations

import enum
import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from worldbridge.bridge.errors import (
    BAD_MESSAGE,
    INVALID_INPUT,
    NOT_GREETED,
    SESSION_EXPIRED,
    BridgeError,
    ProtocolError,
)
from worldbridge.bridge.fields import Buffer
from worldbridge.bridge.gateway.sequence import SequenceRebaser
from worldbridge.bridge.protocol import (
    Bye,
    ClientMessage,
    Hello,
    Input,
    Offer,
    PromptFrames,
    Role,
    Start,
    decode_client,
)

HELLO_MS: Final = 5_000.0
SILENCE_MS: Final = 4_000.0
UPLOAD_MS: Final = 60_000.0  # the longest that one message may take to come in
MAX_MESSAGES: Final = 1_000  # per second, several times what a controller at 250 Hz sends


class Phase(enum.Enum):
    GREETING = "greeting"
    WAITING = "waiting"
    STREAMING = "streaming"
    CLOSED = "closed"


class Conversation:
    """One client's side of the protocol: checks every message against the phase and the role."""

    def __init__(
        self, now_ms: float, hello_ms: float = HELLO_MS, silence_ms: float = SILENCE_MS
    ) -> None:
        self.phase = Phase.GREETING
        self.role: Role = "player"
        self._hello_ms = hello_ms
        self._silence_ms = silence_ms
        self._began_ms = now_ms
        self._heard_ms = now_ms
        self._second = (now_ms, 0)  # when the current second began, messages since then

    def receive(self, data: Buffer, now_ms: float) -> ClientMessage:
        """The message, if this client may send it now. Raises ProtocolError."""
        assert self.phase is not Phase.CLOSED, "nothing is received after the end"
        self._count(now_ms)
        message = decode_client(data)
        self._heard_ms = now_ms
        if self.phase is Phase.GREETING:
            self._greet(message)
        elif isinstance(message, Hello):
            raise _out_of_order("a second hello", "one hello per connection", "Connect anew.")
        elif self.phase is Phase.WAITING and isinstance(message, Start | Offer):
            raise _out_of_order(
                f"a message of type {message.TYPE} before welcome",
                "only ping, stats or bye before welcome",
                "Wait for welcome.",
                NOT_GREETED,
            )
        elif self.role == "spectator" and isinstance(message, Input | Start):
            raise _out_of_order(
                f"a message of type {message.TYPE} from a spectator",
                "no input and no start from spectators",
                "Say hello with the role `player` to play.",
                INVALID_INPUT,
            )
        if isinstance(message, Bye):
            self.phase = Phase.CLOSED
        return message

    def _count(self, now_ms: float) -> None:
        began, count = self._second
        self._second = (began, count + 1) if now_ms - began < 1000.0 else (now_ms, 1)
        if self._second[1] > MAX_MESSAGES:
            raise ProtocolError(
                BAD_MESSAGE,
                "too many messages",
                f"at most {MAX_MESSAGES} per second",
                "more",
                "Send the controls 60 times per second.",
            )

    def _greet(self, message: ClientMessage) -> None:
        if not isinstance(message, Hello):
            raise _out_of_order(
                f"a message of type {message.TYPE}",
                "a message of type hello first",
                "Send hello, wait for welcome, then go on.",
                NOT_GREETED,
            )
        self.role = message.role
        self.phase = Phase.WAITING

    def welcomed(self) -> None:
        assert self.phase is Phase.WAITING
        self.phase = Phase.STREAMING

    def close(self) -> None:
        self.phase = Phase.CLOSED

    def overdue(self, now_ms: float, bytes_ms: float = -math.inf) -> BridgeError | None:
        """Why this client should be dropped now, if it should.

        `bytes_ms`: when its newest bytes came. Pictures take a while on a slow line, so whoever is
        in the middle of a message is not silent, but no message may take for ever.
        """
        sending = now_ms - bytes_ms < 1000.0 and now_ms - self._heard_ms < UPLOAD_MS
        if sending:
            return None
        if self.phase is Phase.GREETING and now_ms - self._began_ms > self._hello_ms:
            return BridgeError(
                NOT_GREETED,
                "no hello came",
                f"a hello within {self._hello_ms / 1000:g} s of connecting",
                "silence",
                "Send hello as the first message.",
            )
        if self.phase is not Phase.CLOSED and now_ms - self._heard_ms > self._silence_ms:
            return BridgeError(
                SESSION_EXPIRED,
                "the client went silent",
                f"a message at least every {self._silence_ms / 1000:g} s",
                f"nothing for {(now_ms - self._heard_ms) / 1000:.1f} s",
                "Send ping every 500 ms; say hello with the resume token to come back.",
            )
        return None


def _out_of_order(got: str, expected: str, remedy: str, code: str = BAD_MESSAGE) -> ProtocolError:
    return ProtocolError(code, "this message cannot be sent now", expected, got, remedy)


@dataclass(slots=True, eq=False)
class PlayerSession:
    """What the gateway keeps of a player's world, whoever is connected to it at the moment."""

    id: str
    resume: str
    theme: str | None
    seed: int | None
    pictures: PromptFrames | None = None
    latch: SequenceRebaser = field(default_factory=SequenceRebaser)
    snapshot: bytes | None = None
    opened: bool = False
    restoring: bool = False  # the worker is asked to go on from `snapshot`
    start_due: bool = False  # begun anew while the worker was opening it


class SessionStore:
    """Sessions by id and by resume token, oldest first."""

    def __init__(self) -> None:
        self._by_id: dict[str, PlayerSession] = {}
        self._by_resume: dict[str, PlayerSession] = {}

    def __iter__(self) -> Iterator[PlayerSession]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def create(
        self, theme: str | None, seed: int | None, pictures: PromptFrames | None = None
    ) -> PlayerSession:
        name, resume = secrets.token_hex(8), secrets.token_urlsafe(24)
        session = PlayerSession(name, resume, theme, seed, pictures)
        self._by_id[session.id] = session
        self._by_resume[session.resume] = session
        return session

    def get(self, session_id: str) -> PlayerSession | None:
        return self._by_id.get(session_id)

    def resume(self, token: str) -> PlayerSession:
        """The session of a resume token. Raises BridgeError session_expired."""
        session = self._by_resume.get(token)
        if session is None:
            raise BridgeError(
                SESSION_EXPIRED,
                "there is no session to resume",
                "a resume token of a session that was left less than 30 s ago",
                "an unknown or expired token",
                "Say hello without `resume` to begin a new session.",
            )
        return session

    def newest(self) -> PlayerSession | None:
        return next(reversed(self._by_id.values()), None)

    def remove(self, session: PlayerSession) -> None:
        self._by_id.pop(session.id, None)
        self._by_resume.pop(session.resume, None)
