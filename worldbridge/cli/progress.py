"""What happens while a server starts: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["ProgressReporter"]


class ProgressReporter:
    """Writes to stderr only."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._told = ""

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(f"worldbridge: {text}", markup=False)

    def show(self, stage: str, fraction: float | None) -> None:
        """What is being done now, and how much of it is done (0 to 1, None if unknown)."""
        if not self._console.is_terminal:
            if stage and stage != self._told:
                self.note(stage)
            self._told = stage
            return
        if self._bar is None:
            self._open_bar()
        assert self._bar is not None
        self._bar.update(self._task, description=stage, completed=fraction or 0.0)

    def _open_bar(self) -> None:
        self._bar = Progress(
            TextColumn("worldbridge: {task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=4,  # the model that loads needs the processor more
        )
        self._bar.start()
        self._task = self._bar.add_task("starting", total=1.0)

    def close(self) -> None:
        """Takes the bar away. May be called more than once."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
