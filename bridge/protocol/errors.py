"""Errors that cross a process or network boundary as data: a code, the facts, and a remedy."""

from __future__ import annotations

from typing import Final, Literal, cast, get_args

from worldbridge.errors import StructuredError

__all__ = ["ERROR_CODES", "BridgeError", "ErrorCode", "ProtocolError", "known_code"]

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
    "seat_lost",
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


def known_code(code: str) -> ErrorCode:
    """Return a code that a newer server sent, or `internal` if it is unknown here."""
    return cast(ErrorCode, code) if code in ERROR_CODES else "internal"


class BridgeError(StructuredError):
    """A failure with an error code of the protocol.

    Attributes:
        path: the field at fault, such as `input.states[0].axes[1]`; empty if there is none.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        expected: str = "",
        got: str = "",
        remedy: str = "",
        path: str = "",
    ) -> None:
        super().__init__(message, expected=expected, got=got, remedy=remedy)
        self.code = code
        self.path = path

    def __str__(self) -> str:
        return f"{self.code}: {super().__str__()}"


class ProtocolError(BridgeError):
    """Bytes that are not a valid message."""
