"""Every error the worker side raises for something that came from outside.

WorldError
 +-- UnknownWorldError      no world of that name or directory          exit code 4
 +-- DamagedWeightsError    weights missing, truncated or altered       exit code 5
 +-- ChoiceError            what this world or machine does not have     exit code 2
 |    +-- NoDeviceError         the device
 |    +-- ModeError             the decode mode
 |    +-- PromptError           the text
 |    +-- SeatsError            room for that many sessions
 |    +-- WeightDtypeError      the type of the weights
 |    +-- DetokenizerError      the detokenizer
 |    +-- FrameRateError        a frame rate of choice
 +-- UnknownThemeError      the world has no such theme
 +-- BadPromptFrameError    prompt frames that the world cannot start from
 +-- SnapshotError          snapshot bytes damaged, or of another world
 +-- NoFreeSeatError        every seat of this worker is taken
 +-- WorldFailedError       the world model itself raised
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from worldbridge.errors import EXIT_CONFIG, EXIT_UNKNOWN_WORLD, EXIT_WEIGHTS, StructuredError

__all__ = [
    "BadPromptFrameError",
    "ChoiceError",
    "DamagedWeightsError",
    "FrameRateError",
    "ModeError",
    "NoDeviceError",
    "NoFreeSeatError",
    "PromptError",
    "SnapshotError",
    "UnknownThemeError",
    "UnknownWorldError",
    "WeightDtypeError",
    "WorldError",
    "WorldFailedError",
]


class WorldError(StructuredError):
    """Base of the worker's errors."""


class UnknownWorldError(WorldError):
    code = "unknown_world"
    exit_code = EXIT_UNKNOWN_WORLD

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"there is no world {name!r}",
            expected="one of " + ", ".join(known) + ", or a directory that holds a world.json",
            got=repr(name),
            remedy="`worldbridge worlds` lists what can be served",
        )


class DamagedWeightsError(WorldError):
    code = "world_failed"
    exit_code = EXIT_WEIGHTS


class ChoiceError(WorldError):
    """A setting that this world or this machine does not have."""

    code = "world_failed"
    exit_code = EXIT_CONFIG


class NoDeviceError(ChoiceError):
    """This machine has no such device."""


class ModeError(ChoiceError):
    """The world does not have that decode mode."""


class PromptError(ChoiceError):
    """The world cannot take that text."""


class SeatsError(ChoiceError):
    """There is no room for that many sessions."""


class WeightDtypeError(ChoiceError):
    """The world's weights cannot be read so."""

    @classmethod
    def no_kernels(cls, precision: str, got: str) -> Self:
        """Where PyTorch draws the tokens."""
        return cls(
            f"only kernels on a GPU read {precision} weights",
            expected="--device cuda, Triton, and a model whose heads have at least 16 channels",
            got=got,
            remedy="add --device cuda, or leave --weight-dtype out",
        )


class DetokenizerError(ChoiceError):
    """The world's latents cannot be detokenized so."""


class FrameRateError(ChoiceError):
    """The world has a frame rate of its own."""


class UnknownThemeError(WorldError):
    code = "unknown_theme"

    def __init__(self, theme: str, known: Sequence[str]) -> None:
        super().__init__(
            f"there is no theme {theme!r}",
            expected="one of " + ", ".join(known),
            got=repr(theme),
            remedy="choose one of the themes that the server's welcome lists",
        )


class BadPromptFrameError(WorldError):
    code = "bad_prompt_frame"

    @classmethod
    def none_taken(cls, world: str, count: int) -> Self:
        """For a world that is rendered, not generated."""
        return cls(
            f"the world {world!r} cannot start from a prompt frame",
            expected="no prompt frames",
            got=f"{count}",
            remedy="leave them out, or play a generated world",
        )


class SnapshotError(WorldError):
    code = "world_failed"

    def __init__(self, message: str, *, expected: str, got: str) -> None:
        super().__init__(
            message, expected=expected, got=got, remedy="start the session again from its seed"
        )

    @classmethod
    def damaged(cls, version: int, got: str) -> Self:
        """A world's part of a snapshot that is not what that world writes."""
        return cls(
            "the world's part of the snapshot is damaged",
            expected=f"a version {version} snapshot of this world",
            got=got,
        )


class NoFreeSeatError(WorldError):
    code = "no_free_seat"

    def __init__(self, seats: int) -> None:
        super().__init__(
            "every seat of this worker is taken",
            expected=f"at most {seats} open sessions",
            got=f"a request for session number {seats + 1}",
            remedy="wait until a player leaves, or serve with more seats",
        )


class WorldFailedError(WorldError):
    code = "world_failed"

    def __init__(self, doing: str, cause: BaseException) -> None:
        super().__init__(
            f"the world failed while {doing}",
            expected="a world that keeps running",
            got=f"{type(cause).__name__}: {cause}",
            remedy="start the session again; if it happens again, report it with the server's log",
        )
