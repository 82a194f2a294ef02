"""Why a tokenizer cannot be exported, or an export not be run."""

from __future__ import annotations

from worldbridge.models.errors import InputError

__all__ = ["ExportError"]


class ExportError(InputError):
    """Something that an export needs is missing, in the way, or invalid.

    `exit_code` is that of the command.
    """

    def with_exit_code(self, exit_code: int) -> ExportError:
        """Return this error with another exit code."""
        self.exit_code = exit_code
        return self
