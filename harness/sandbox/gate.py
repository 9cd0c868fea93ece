"""Many runs at once, or one alone: a time-out on a busy machine is tried again when nothing else of ours runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Shared by any number of runs, or held by one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0
        self._alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Among others; waits while somebody is alone or wants to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until all others have left, and keeps them out."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._alone and not self._inside)
            self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()

    def busy(self) -> bool:
        """Whether others run now, of ours or, by the load of the last minute, of somebody else's."""
        return self._inside > 0 or os.getloadavg()[0] > len(os.sched_getaffinity(0))


GATE = Gate()
"""The machine's: all sandboxes of this process go through it."""
