"""Errors that cross a process or network boundary as data: a code, the facts, and a remedy."""

from __future__ import annotations

from typing import Final, Literal, get_args

from worldbridge.errors import StructuredError

__all__ = ["ERROR_CODES", "BridgeError", "ErrorCode", "ProtocolError"]

ErrorCode = Literal[
    "bad_message",
    "version_mismatch",
    "message_too_large",
    "unknown_type",
    "unsupported",
    "unknown_world",
    "unknown_theme",
    "invalid_input",
    "bad_prompt_frame",
    "no_free_seat",
    "world_failed",
    "unauthorized",
    "forbidden_origin",
    "not_greeted",
    "client_too_slow",
    "session_expired",
    "worker_lost",
    "internal",
]
ERROR_CODES: Final[frozenset[str]] = frozenset(get_args(ErrorCode))

BAD_MESSAGE: Final = "bad_message"
VERSION_MISMATCH: Final = "version_mismatch"
MESSAGE_TOO_LARGE: Final = "message_too_large"
UNKNOWN_TYPE: Final = "unknown_type"
UNSUPPORTED: Final = "unsupported"
UNKNOWN_WORLD: Final = "unknown_world"
UNKNOWN_THEME: Final = "unknown_theme"
INVALID_INPUT: Final = "invalid_input"
BAD_PROMPT_FRAME: Final = "bad_prompt_frame"
NO_FREE_SEAT: Final = "no_free_seat"
UNAUTHORIZED: Final = "unauthorized"
FORBIDDEN_ORIGIN: Final = "forbidden_origin"
NOT_GREETED: Final = "not_greeted"
CLIENT_TOO_SLOW: Final = "client_too_slow"
SESSION_EXPIRED: Final = "session_expired"
WORKER_LOST: Final = "worker_lost"
INTERNAL: Final = "internal"


class BridgeError(StructuredError):
    """A failure with an error code of the protocol.

    Attributes:
        path: the field at fault, such as `input.states[0].axes[1]`; empty if there is none.
    """

    def __init__(
        self,
        code: str,
        message: str,
        expected: str = "",
        got: str = "",
        remedy: str = "",
        path: str = "",
    ) -> None:
        assert code in ERROR_CODES, f"{code!r} is not a code of the protocol"
        super().__init__(message, expected=expected, got=got, remedy=remedy)
        self.code = code
        self.path = path

    def __str__(self) -> str:
        return f"{self.code}: {super().__str__()}"


class ProtocolError(BridgeError):
    """Bytes that are not a valid message."""
