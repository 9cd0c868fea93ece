"""What the user can mend."""

from __future__ import annotations

import signal


class TrainError(Exception):
    """The message is one line that names the file or field and the remedy."""


class Stopped(Exception):
    """Training ended early at the user's or the scheduler's wish; a checkpoint was written. `code` is the exit code."""

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after step {step}; the same command goes on from there")
        self.code = 128 + number
