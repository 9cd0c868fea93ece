"""Speed and time left on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import resource
import sys
import time

import torch
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from qwen_model.memory import peak_resident
from qwen_model.progress import Display

_LINE_SECONDS = 30.0


def peak_memory(device: torch.device) -> float:
    """The most memory in use so far, in MB: of the GPU, or of the process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return most / 1e6
    try:
        return peak_resident() / 1e6
    except OSError:  # some containers do not tell; this begins with the peak of the process that started this one
        return most * 1024 / 1e6


class Speedometer(Display):
    """Steps `start` to `steps` of a run."""

    def __init__(self, start: int, steps: int, *, shown: bool) -> None:
        super().__init__(
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}  left"),
            TimeRemainingColumn(),
            shown=shown,
        )
        self._shown = shown
        self._task = self.bar.add_task("", total=steps, completed=start)
        self.steps = steps
        self._begin = self._last = time.monotonic()
        self._start = self._done = start

    def show(self, step: int, text: str) -> None:
        """`step` steps are done; `text` says how it goes."""
        self.bar.update(self._task, completed=step, description=text)
        now = time.monotonic()
        if self.bar.disable and (now - self._last > _LINE_SECONDS or step == self.steps):
            self._last = now
            left = (now - self._begin) / max(1, step - self._start) * (self.steps - step)
            self.say(f"step {step}/{self.steps}: {text}, {left:.0f} s left")

    def say(self, text: str) -> None:
        """As always, but nothing where nothing is shown: of several processes one speaks."""
        if self._shown:
            super().say(text)
