"""Ctrl-C and a scheduler's SIGTERM become a clean stop: the step under way ends, and a checkpoint is written."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Watch:
    """While open, `number` is the signal that came, 0 before. A second Ctrl-C interrupts at once."""

    number = 0

    def __enter__(self) -> Watch:
        self._before = {which: signal.signal(which, self._note) for which in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number
