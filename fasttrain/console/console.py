"""Prints the messages of the commands, and the progress of long tasks.

Progress is shown as bars in a terminal and as plain lines elsewhere, so that a log file stays
readable.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from .eta import Plan
from .progress import ProgressBars, ProgressLines


class Display:
    """Prints messages and progress on `console`; the default one is quiet and prints nothing."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(quiet=True)

    def log(self, line: str) -> None:
        """Print a line, above the progress bars."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """Print a warning; on a quiet display, warn as Python does."""
        line = f"fasttrain: warning: {line}"
        if self.console.quiet:
            warnings.warn(line, stacklevel=2)
        else:
            self.log(line)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar over `total` bytes; yield a function to call with the bytes done so far."""
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda done: bars.update(task, completed=done)

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar over `total` steps, or a line outside a terminal; yield how to update it."""
        if not self.console.is_terminal:
            self.log(f"  {title}: {total} steps")
            yield lambda done: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda done: bars.update(task, completed=done)

    @contextmanager
    def counted(self) -> Iterator[Callable[[str], Callable[[int, int | None], None]]]:
        """Yield a function that makes, for a title, a callback(done, total) that shows a bar.

        `total` is None if it is not known. The bar appears at the first call, and only in a
        terminal.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bars = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)

        def bar(title: str) -> Callable[[int, int | None], None]:
            tasks: list[TaskID] = []

            def show(done: int, total: int | None) -> None:
                if self.console.is_terminal and (tasks or total is None or done < total):
                    if not tasks:
                        bars.start()  # not earlier: a download may show its own bar
                        tasks.append(bars.add_task(title, total=total))
                    bars.update(tasks[0], completed=done)

            return show

        try:
            yield bar
        finally:
            if bars.tasks:  # else it would print an empty line
                bars.stop()

    @contextmanager
    def follow(self, plan: Plan) -> Iterator[ProgressLines]:
        """Show the progress of a training; yield an object with the hooks `.step` and `.epoch`."""
        bars = self.console.is_terminal
        follower = (
            ProgressBars(self.log, plan, self.console) if bars else ProgressLines(self.log, plan)
        )
        with follower.shown():
            yield follower
