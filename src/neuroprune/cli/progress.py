"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from neuroprune.bench.progress import Progress
from neuroprune.cli.console import messages

_LINE_SECONDS = 15.0


class ShownProgress(Progress):
    """Shows stages and training steps; a context manager.

    Example:
        >>> with ShownProgress() as progress:
        ...     progress.stage("load")
    """

    def __init__(self) -> None:
        self.console = messages()
        self.live = self.console.is_terminal
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._last_line = 0.0

    def __enter__(self) -> ShownProgress:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def stage(self, title: str) -> None:
        """Print the stage's title; a bar follows where it has steps."""
        self._task = None
        self._title = title
        self._last_line = time.monotonic()
        self.console.print(title)

    def step(self, done: int, total: int, loss: float) -> None:
        """Move the bar, or print a line every few seconds where there is no terminal."""
        if self.live:
            if self._task is None:
                self._task = self.bars.add_task(self._title, total=total, loss="")
            self.bars.update(self._task, completed=done, loss=f"{loss:.3f}")
        elif time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(f"  step {done} of {total}, loss {loss:.3f}")

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(text)
