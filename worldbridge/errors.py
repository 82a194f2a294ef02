"""The structured error of every package, and the errors that end a command.

A leaf: it imports the standard library alone, so any package may import it. Each package derives
its own errors beside the code that raises them.

StructuredError          message, expected, got, remedy; a code for clients and an exit code
 +-- StartError          1 unless it says otherwise
      +-- ConfigError    2 a setting is unknown or out of its range
      +-- PortInUseError 3 another program listens there
      +-- ChildError     the child's own: 4 unknown world, 5 weights missing or damaged
      +-- RestartBudgetError  6 a child process ends again and again
"""

from __future__ import annotations

import json
from typing import Final, Self

__all__ = [
    "ChildError",
    "ConfigError",
    "PortInUseError",
    "RestartBudgetError",
    "StartError",
    "StructuredError",
]

EXIT_CONFIG: Final = 2
EXIT_PORT_IN_USE: Final = 3
EXIT_UNKNOWN_WORLD: Final = 4
EXIT_WEIGHTS: Final = 5
EXIT_RESTARTS: Final = 6


class StructuredError(Exception):
    """An error that says what was expected, what was got, and how to fix it.

    Attributes:
        code: identifies the error to programs; clients see it.
        exit_code: the exit status of a process that ends because of this error.
    """

    code: str = "internal"
    exit_code: int = 1

    def __init__(
        self, message: str, *, expected: str = "", got: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.got = got
        self.remedy = remedy

    @classmethod
    def of(cls, error: StructuredError, exit_code: int | None = None) -> Self:
        """Return a copy of `error` as this class, with the given exit code if there is one.

        Only for classes whose constructor takes the four texts alone.
        """
        copy = cls(error.message, expected=error.expected, got=error.got, remedy=error.remedy)
        if exit_code is not None:
            copy.exit_code = exit_code
        return copy

    def __str__(self) -> str:
        facts = [f"expected {self.expected}"] if self.expected else []
        facts += [f"got {self.got}"] if self.got else []
        text = self.message + (": " if facts else "") + ", ".join(facts)
        return f"{text}; {self.remedy}" if self.remedy else text

    def as_dict(self) -> dict[str, str]:
        """Return the code and the four texts, for logs and for other processes."""
        return {
            "code": self.code,
            "message": self.message,
            "expected": self.expected,
            "got": self.got,
            "remedy": self.remedy,
        }

    def as_json(self) -> str:
        """Return `as_dict` as one line, which a parent process reads from standard error."""
        return json.dumps(self.as_dict(), ensure_ascii=False)


class StartError(StructuredError):
    """A command cannot do its work."""


class ConfigError(StartError, ValueError):
    """A setting is unknown or out of its range."""

    exit_code = EXIT_CONFIG


class PortInUseError(StartError):
    """The address cannot be listened on."""

    exit_code = EXIT_PORT_IN_USE

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"cannot listen on {host}:{port} ({reason})",
            expected="an address of this machine with a free port",
            got=f"{host}:{port}",
            remedy="stop the other program, or choose another port (--port 0 takes a free one)",
        )


class ChildError(StartError):
    """A child process ended for a reason that restarting it would not change."""

    def __init__(self, name: str, exit_code: int, last_lines: list[str]) -> None:
        report = _report_in(last_lines)
        super().__init__(
            report.get("message") or f"the {name} process ended with exit code {exit_code}",
            expected=report.get("expected", ""),
            got=report.get("got", "") or ("" if report else _last(last_lines)),
            remedy=report.get("remedy", "") or "see the lines above",
        )
        self.exit_code = exit_code if exit_code > 0 else 1


class RestartBudgetError(StartError):
    """A child process ended too often."""

    exit_code = EXIT_RESTARTS

    def __init__(self, name: str, starts: int, seconds: float) -> None:
        super().__init__(
            f"the {name} process ends again and again",
            expected=f"fewer than {starts} starts in {seconds:g} s",
            got=f"{starts}",
            remedy="see the lines above",
        )


def _report_in(lines: list[str]) -> dict[str, str]:
    """Return the newest `as_json` line among the last lines of a child's stderr, or nothing."""
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
