"""Errors that cross a process or a network boundary as data: a code, and what to do about it."""

from __future__ import annotations

from typing import Final

from worldbridge.errors import StructuredError

BAD_MESSAGE: Final = "bad_message"
VERSION_MISMATCH: Final = "version_mismatch"
MESSAGE_TOO_LARGE: Final = "message_too_large"
UNKNOWN_TYPE: Final = "unknown_type"
UNKNOWN_WORLD: Final = "unknown_world"
UNKNOWN_THEME: Final = "unknown_theme"
INVALID_INPUT: Final = "invalid_input"
BAD_PICTURE: Final = "bad_picture"
NO_FREE_SEAT: Final = "no_free_seat"
WORLD_FAILED: Final = "world_failed"
UNAUTHORIZED: Final = "unauthorized"
FORBIDDEN_ORIGIN: Final = "forbidden_origin"
NOT_GREETED: Final = "not_greeted"
CLIENT_TOO_SLOW: Final = "client_too_slow"
SESSION_EXPIRED: Final = "session_expired"
WORKER_LOST: Final = "worker_lost"
INTERNAL: Final = "internal"

ERROR_CODES: Final[frozenset[str]] = frozenset(
    {
        BAD_MESSAGE,
        VERSION_MISMATCH,
        MESSAGE_TOO_LARGE,
        UNKNOWN_TYPE,
        UNKNOWN_WORLD,
        UNKNOWN_THEME,
        INVALID_INPUT,
        BAD_PICTURE,
        NO_FREE_SEAT,
        WORLD_FAILED,
        UNAUTHORIZED,
        FORBIDDEN_ORIGIN,
        NOT_GREETED,
        CLIENT_TOO_SLOW,
        SESSION_EXPIRED,
        WORKER_LOST,
        INTERNAL,
    }
)


class BridgeError(StructuredError):
    """A failure with an error code of the protocol."""

    def __init__(
        self, code: str, message: str, expected: str = "", got: str = "", remedy: str = ""
    ) -> None:
        assert code in ERROR_CODES, f"{code!r} is not a code of the protocol"
        super().__init__(message, expected=expected, got=got, remedy=remedy)
        self.code = code

    def __str__(self) -> str:
        return f"{self.code}: {super().__str__()}"


class ProtocolError(BridgeError):
    """Bytes that are not a valid message."""
