"""Progress on the terminal: a bar with rate and time left for each task; plain lines where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from harness.evaluation import Progress
from qwen_model.progress import Display, say

_LINE_SECONDS = 30.0
"""Between two lines of a log."""


_SOON = 3.0
"""Seconds that a step may take without a word."""


@contextmanager
def said_when_slow(text: str) -> Iterator[None]:
    """A line about a step, if it takes more than a few seconds."""
    clock = threading.Timer(_SOON, say, [text])
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


class Bars(Display, Progress):
    """Use as a context manager around `execute`."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet`: as where there is no terminal."""
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            shown=not quiet,
        )
        self._ids: dict[str, int] = {}
        self._counts: dict[str, list[int]] = {}
        self._start = time.monotonic()
        self._said = 0
        """Samples that were judged here by the last line."""
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        self._clock.start()
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        super().__exit__(kind, error, at)

    def stage(self, text: str) -> None:
        self.say(text)

    def begin(self, task: str, done: int, total: int) -> None:
        self._ids[task] = self.bar.add_task(task, completed=done, total=total)
        self._counts[task] = [done, total, done]

    def judged(self, task: str) -> None:
        self.bar.advance(self._ids[task])  # type: ignore[arg-type]
        counts = self._counts[task]
        counts[0] += 1
        if self.bar.disable and counts[0] == counts[1]:
            self._line()

    def _tick(self) -> None:
        """Lines where there are no bars, also while the first samples are far from their verdicts."""
        while self.bar.disable and not self._ended.wait(_LINE_SECONDS):
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
        say(f"{state}; {spent:.0f} s, {rate:.1f} samples/s{guess}")
