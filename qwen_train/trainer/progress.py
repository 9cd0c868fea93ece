"""Speed and time left on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import resource
import sys
import time
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qwen_model.memory import peak_resident

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


class Speedometer:
    """Steps `start` to `steps` of a run."""

    def __init__(self, start: int, steps: int, *, shown: bool) -> None:
        console = Console(stderr=True)
        self._shown = shown
        self._lines = shown and not console.is_terminal
        self._bar = Progress(
            TextColumn("step"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}  left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task("", total=steps, completed=start)
        self.steps = steps
        self._begin = self._last = time.monotonic()
        self._start = self._done = start

    def __enter__(self) -> Speedometer:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def show(self, step: int, text: str) -> None:
        """`step` steps are done; `text` says how it goes."""
        self._bar.update(self._task, completed=step, description=text)
        now = time.monotonic()
        if self._lines and (now - self._last > _LINE_SECONDS or step == self.steps):
            self._last = now
            left = (now - self._begin) / max(1, step - self._start) * (self.steps - step)
            self.say(f"step {step}/{self.steps}: {text}, {left:.0f} s left")

    def say(self, text: str) -> None:
        """A line for good."""
        if not self._shown:
            return
        if self._bar.disable:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)
