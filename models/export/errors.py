"""Why a tokenizer cannot be exported, or an export not be run."""

from __future__ import annotations

from worldbridge.models.errors import InputError

__all__ = ["ExportError"]


class ExportError(InputError):
    """Something that an export needs is missing, in the way, or not what it should be.

    `exit_code` is that of the command.
    """

    exit_code = 2

    def ending(self, exit_code: int) -> ExportError:
        """The same error with another exit code."""
        self.exit_code = exit_code
        return self
