"""Progress on the terminal: a bar with rate and time left for each task; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
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
from rich.progress import Progress as RichProgress
from rich.text import Text

from harness.evaluation import Progress

_LINE_SECONDS = 30.0
"""Between two lines of a log."""


_SOON = 3.0
"""Seconds that a step may take without a word."""


@contextmanager
def said_when_slow(text: str) -> Iterator[None]:
    """A line about a step, if it takes more than a few seconds."""
    clock = threading.Timer(_SOON, lambda: print(text, file=sys.stderr, flush=True))
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


class _Rate(ProgressColumn):
    """Samples a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


class Bars(Progress):
    """Use as a context manager around `execute`."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet`: as where there is no terminal."""
        console = Console(stderr=True)
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._ids: dict[str, int] = {}
        self._counts: dict[str, list[int]] = {}
        self._start = time.monotonic()
        self._said = 0
        """Samples that were judged here by the last line."""
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Bars:
        self._bars.start()
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._bars.stop()

    def stage(self, text: str) -> None:
        if self._bars.disable:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bars.console.print(text, markup=False, highlight=False)

    def begin(self, task: str, done: int, total: int) -> None:
        self._ids[task] = self._bars.add_task(task, completed=done, total=total)
        self._counts[task] = [done, total, done]

    def judged(self, task: str) -> None:
        self._bars.advance(self._ids[task])  # type: ignore[arg-type]
        counts = self._counts[task]
        counts[0] += 1
        if self._bars.disable and counts[0] == counts[1]:
            self._line()

    def _tick(self) -> None:
        """Lines where there are no bars, also while the first samples are far from their verdicts."""
        while self._bars.disable and not self._ended.wait(_LINE_SECONDS):
            if self._counts:
                self._line()

    def _line(self) -> None:
        counts = list(self._counts.items())  # another thread may begin a task
        spent = time.monotonic() - self._start
        new = sum(done - before for _, (done, _, before) in counts)
        left = sum(total - done for _, (done, total, _) in counts)
        rate = new / max(spent, 1e-3)
        # texts written side by side all end late: the first few, and a time without any, say nothing of the rate
        guess = f", about {left / rate:.0f} s left" if new > max(2, self._said) and 0 < left < 10 * new else ""
        self._said = new
        state = ", ".join(f"{name} {done}/{total}" for name, (done, total, _) in counts)
        print(f"{state}; {spent:.0f} s, {rate:.1f} samples/s{guess}", file=sys.stderr, flush=True)
