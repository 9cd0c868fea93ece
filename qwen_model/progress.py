"""Progress on standard error: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def say(text: str) -> None:
    """One line to standard error."""
    print(text, file=sys.stderr, flush=True)


class Display:
    """Draws `bar` while it is entered; without a terminal that is disabled, and subclasses say lines."""

    def __init__(self, *columns: ProgressColumn, shown: bool = True) -> None:
        """`shown`: False for no bar on a terminal either."""
        console = Console(stderr=True)
        self.bar = Progress(*columns, console=console, disable=not (shown and console.is_terminal))

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """A line for good, above the bar."""
        if self.bar.disable:
            say(text)
        else:
            self.bar.console.print(text, markup=False, highlight=False)


class Meter(Display):
    """Bytes, rate and time left: a bar on a terminal, else one line every 10 %."""

    def __init__(self, label: str, total: int | None, *, present: int = 0) -> None:
        """`total` in bytes, None if a server will tell; `present` bytes are there already."""
        self.label, self.total, self.done, self.present = label, total, present, present
        self._known = total is not None
        self._start = time.monotonic()
        self._step = 10 * present // total if total else 0
        numbers = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        super().__init__(TextColumn("{task.description}"), BarColumn(), *numbers)
        self._task = self.bar.add_task(label, total=total, completed=present)

    def part(self, current: int, total: int) -> None:
        """The part under way has `current` of its `total` bytes (0: not known)."""
        if not self._known and total:
            self.total = total
        self._show(self.done + current)

    def finish_part(self, size: int) -> None:
        """A part of `size` bytes is complete."""
        if not self._known:
            self.total = self.done + size
        self.done += size
        self._show(self.done)

    def _show(self, current: int) -> None:
        self.bar.update(self._task, completed=current, total=self.total)
        if self.bar.disable and self.total and 10 * current // self.total > self._step:
            self._step = 10 * current // self.total
            rate = (current - self.present) / max(time.monotonic() - self._start, 1e-3)
            left = (self.total - current) / rate if rate else 0.0
            amount = f"{current / 1e6:.0f} of {self.total / 1e6:.0f} MB"
            say(f"{self.label}: {100 * current // self.total} % ({amount}), {rate / 1e6:.1f} MB/s, {left:.0f} s left")
