"""Why a command could not do its work, as one line and an exit code.

StartError             1 unless it says otherwise
 +-- ConfigError       2 a setting is unknown or out of its range
 +-- PortInUseError    3 someone else listens there
 +-- ChildError        the child's own: 4 unknown world, 5 weights missing or damaged
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from worldbridge.models.errors import Told

__all__ = ["ChildError", "ConfigError", "PortInUseError", "StartError"]

EXIT_CONFIG: Final = 2
EXIT_PORT_IN_USE: Final = 3
EXIT_UNKNOWN_WORLD: Final = 4
EXIT_WEIGHTS: Final = 5


class StartError(Exception):
    """What was expected, what came, and what to do about it."""

    exit_code = 1

    def __init__(
        self, message: str, *, expected: str = "", got: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.got = got
        self.remedy = remedy

    @classmethod
    def of(cls, error: Told, exit_code: int | None = None) -> Self:
        """What a part of the program reports, as what ends a command."""
        told = cls(error.message, expected=error.expected, got=error.got, remedy=error.remedy)
        if exit_code is not None:
            told.exit_code = exit_code
        return told

    def __str__(self) -> str:
        facts = [f"expected {self.expected}"] if self.expected else []
        facts += [f"got {self.got}"] if self.got else []
        text = self.message + (": " if facts else "") + ", ".join(facts)
        return f"{text}; {self.remedy}" if self.remedy else text


class ConfigError(StartError, ValueError):
    exit_code = EXIT_CONFIG


class PortInUseError(StartError):
    exit_code = EXIT_PORT_IN_USE

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"cannot listen on {host}:{port} ({reason})",
            expected="an address of this machine with a free port",
            got=f"{host}:{port}",
            remedy="stop the other program, or choose another port (--port 0 takes a free one)",
        )


class ChildError(StartError):
    """A child process ended for a reason that starting it again would not change."""

    def __init__(self, name: str, exit_code: int, last_lines: list[str]) -> None:
        told = _told(last_lines)
        super().__init__(
            told.get("message") or f"the {name} process ended with exit code {exit_code}",
            expected=told.get("expected", ""),
            got=told.get("got", "") or ("" if told else _last(last_lines)),
            remedy=told.get("remedy", "") or "see the lines above",
        )
        self.exit_code = exit_code if exit_code > 0 else 1


def _told(lines: list[str]) -> dict[str, str]:
    """The newest JSON object among the last lines of a child's stderr, or nothing."""
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "message" in value:
            return {str(key): str(item) for key, item in value.items()}
    return {}


def _last(lines: list[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
