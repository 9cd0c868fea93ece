"""Progress over bytes that are fetched, read or written, on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


def say(text: str) -> None:
    """One line to standard error."""
    print(text, file=sys.stderr, flush=True)


class Meter:
    """Bytes, rate and time left on standard error: a bar on a terminal, else one line every 10 %."""

    def __init__(self, label: str, total: int | None, *, present: int = 0) -> None:
        """`total` in bytes, None if a server will tell; `present` bytes are there already."""
        self.label, self.total, self.done, self.present = label, total, present, present
        self._known = total is not None
        self._start = time.monotonic()
        self._step = 10 * present // total if total else 0
        console = Console(stderr=True)
        numbers = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), *numbers)
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._task = self._bar.add_task(label, total=total, completed=present) if self._bar else None

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

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
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=current, total=self.total)
        elif self.total and 10 * current // self.total > self._step:
            self._step = 10 * current // self.total
            rate = (current - self.present) / max(time.monotonic() - self._start, 1e-3)
            left = (self.total - current) / rate if rate else 0.0
            amount = f"{current / 1e6:.0f} of {self.total / 1e6:.0f} MB"
            say(f"{self.label}: {100 * current // self.total} % ({amount}), {rate / 1e6:.1f} MB/s, {left:.0f} s left")
