"""Runs a plan's jobs as processes of their own. A finished one is marked by its command, so that the same call goes on.

What a command prints goes into a log beside its folder; on the terminal is one bar with the time left over the whole.
"""

from __future__ import annotations

import ctypes
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from harness.claims.steps import Job
from harness.records import write_atomic
from qwen_model.progress import Display
from tasks.api import TaskError

_LOOK_SECONDS = 0.5
_TRUSTED_SECONDS = 600
"""Of the estimates: so many count as much as what the finished jobs took, which is short at first and says little."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def run(jobs: Sequence[Job]) -> dict[Path, str]:
    """Run what is not done yet, in order; one that fails is named and what does not need it goes on.

    Returns the failed jobs' folders with one line each. Raises TaskError where a folder was filled by another command.
    """
    if changed := [job for job in jobs if job.stale]:
        raise TaskError(
            f"{changed[0].out}: was made by another command than {shlex.join(changed[0].command)!r}; "
            "delete the folder and its .done.json, or take another --results"
        )
    failed: dict[Path, str] = {}
    with _Whole(jobs) as whole:
        for number, job in enumerate(jobs, start=1):
            if job.done:
                continue
            if broken := [earlier for earlier in job.after if earlier.out in failed]:
                failed[job.out] = f"{broken[0].name} failed"
                continue
            whole.begin(job, f"[{number}/{len(jobs)}] {job.name}")
            line = _run(job, whole.tick)
            whole.end(job)
            if line is not None:
                failed[job.out] = line
                whole.say(f"failed: {job.name}: {line} ({job.log})")
    return failed


def _run(job: Job, tick: Callable[[], None]) -> str | None:
    """None, or one line on why it failed."""
    job.out.parent.mkdir(parents=True, exist_ok=True)
    if job.recipe is not None:
        write_atomic(job.recipe_file, job.recipe)
    begin = time.monotonic()
    with job.log.open("a", encoding="utf-8") as log:
        log.write(f"$ {shlex.join(job.command)}\n")
        log.flush()
        process = subprocess.Popen(
            [*program(job.command[0]), *job.command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            preexec_fn=_die_with_parent,
        )  # fmt: skip
        try:
            while process.poll() is None:
                tick()
                time.sleep(_LOOK_SECONDS)
        finally:
            if process.returncode is None:  # Ctrl-C reached it as well; it keeps what it has, and ends
                process.terminate()
                process.wait()
    if process.returncode:
        return _last_line(job.log) or f"exit code {process.returncode}"
    seconds = round(time.monotonic() - begin, 1)
    marker = {"key": job.key, "step": job.step, "seconds": seconds, "command": list(job.command)}
    write_atomic(job.marker, json.dumps(marker, indent=1) + "\n")
    return None


def program(name: str) -> list[str]:
    """How a command's first word is started: what is installed beside this Python."""
    if name == "python":
        return [sys.executable]
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise TaskError(f"{name}: no such command beside {sys.executable}; install the project there (make install)")
    return [found]


def _die_with_parent() -> None:
    """After kill -9 of the runner nothing may go on that the next call would start a second time. Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines and not lines[-1].startswith("$ ") else ""


class _Whole(Display):
    """The bar over all jobs. Estimates of the files are corrected by what the finished jobs took."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        share, left = TextColumn("{task.percentage:.0f} %"), TextColumn("left {task.fields[left]}")
        super().__init__(TextColumn("{task.description}"), BarColumn(), share, TimeElapsedColumn(), left)
        self._done = {job.out: job.seconds for job in jobs if job.done}
        self._jobs, self._failed = jobs, set[Path]()
        self._begin = 0.0
        self._now: Job | None = None
        self._task = self.bar.add_task("", total=1.0, left="")

    def begin(self, job: Job, label: str) -> None:
        self._now, self._begin = job, time.monotonic()
        self.bar.update(self._task, description=label)
        if self.bar.disable:
            self.say(f"{label}; about {timedelta(seconds=round(self.left()))} left over all")
        self.tick()

    def end(self, job: Job) -> None:
        if job.done:
            self._done[job.out] = job.seconds
        else:
            self._failed.add(job.out)
        self._now = None

    def tick(self) -> None:
        left = self.left()
        spent = sum(self._done.values()) + (time.monotonic() - self._begin if self._now else 0.0)
        self.bar.update(self._task, completed=spent / max(spent + left, 1e-9), left=str(timedelta(seconds=round(left))))

    def left(self) -> float:
        """Seconds, by the estimates of what is not done, as much longer or shorter as the finished ones were."""
        expected = sum(60 * job.minutes for job in self._jobs if job.out in self._done)
        pace = (sum(self._done.values()) + _TRUSTED_SECONDS) / (expected + _TRUSTED_SECONDS)
        waiting = [job for job in self._jobs if job.out not in self._done and job.out not in self._failed]
        left = 0.0
        for job in waiting:
            spent = time.monotonic() - self._begin if job is self._now else 0.0
            left += max(60 * job.minutes * pace - spent, 0.0)
        return left
