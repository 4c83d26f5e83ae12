"""Show progress of long work on stderr: a bar on a terminal, otherwise plain lines per stage.

Takes stage names and counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

Report = Callable[[int, int], None]
"""Called with (done, total)."""


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


class Progress:
    """Prints the stages of long work."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        """Print a stage's start and end; yields a function to call with (done, total) at any time."""
        start = time.perf_counter()
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), _Rate(),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            with Bars(*columns, console=self._console) as bars:
                task = bars.add_task(name, total=None)
                yield lambda done, total: bars.update(task, completed=done, total=total)
                bars.update(task, total=bars.tasks[0].completed or 1, completed=bars.tasks[0].completed or 1)
            return
        print(f"{name} ...", file=sys.stderr, flush=True)
        reached = [0]
        yield lambda done, total: reached.__setitem__(0, done)
        spent = time.perf_counter() - start
        rate = f", {reached[0] / spent:,.0f}/s" if reached[0] else ""
        print(f"{name}: {spent:.1f} s{rate}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
