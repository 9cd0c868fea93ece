"""A few processes that compare expressions for us, started when first wanted and replaced when one dies.

`compare` blocks and may be called from several threads. A worker that says nothing in time is killed, and its children.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from tasks.api import TaskError

WORKERS = 2
START_SECONDS = 120.0
ANSWER_SECONDS = 9.0
"""By the clock, for a worker whose own limits have failed."""
PROGRAM = Path(__file__).with_name("math_worker.py")


class Answer(NamedTuple):
    """What came of a comparison: "equal", "different", "unreadable" (math-verify cannot parse one of the two),
    "timeout", "memory", "killed" or "error: KIND"; and the processor time that it took."""

    outcome: str
    seconds: float = 0.0


class Worker:
    """One process, which answers one comparison after the other."""

    def __init__(self) -> None:
        """Starts it. Raises TaskError if it does not come up."""
        # Nothing of our environment but where to find the packages; the hash seed because sympy iterates over sets.
        environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        if self._line(START_SECONDS) is None:
            self.stop()
            raise TaskError(
                "math: the process that compares answers does not start; see what `python -P "
                f"{PROGRAM} < /dev/null` says, and that math-verify is installed"
            )

    def ask(self, gold: str, answer: str) -> Answer | None:
        """What the worker says, or None if it is no more."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"gold": gold, "answer": answer}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return None
        line = self._line(ANSWER_SECONDS)
        return None if line is None else Answer(**json.loads(line))

    def _line(self, seconds: float) -> bytes | None:
        assert self.process.stdout is not None
        poll = select.poll()  # takes any descriptor, however high its number
        poll.register(self.process.stdout, select.POLLIN)
        return (self.process.stdout.readline() or None) if poll.poll(1000 * seconds) else None

    def stop(self) -> None:
        """Ends it and whatever it started."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


class Pool:
    """At most `size` workers; a comparison takes whichever is free."""

    def __init__(self, size: int = WORKERS) -> None:
        self._free: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(size):
            self._free.put(None)
        self._workers: set[Worker] = set()
        self._lock = threading.Lock()

    def compare(self, gold: str, answer: str) -> Answer:
        """Compares two expressions in LaTeX. Raises TaskError if no worker can be started."""
        worker = self._free.get()
        try:
            for _ in range(2):  # a worker that was killed while it idled is replaced, and asked again
                if worker is None:
                    worker = self._start()
                said = worker.ask(gold, answer)
                if said is not None:
                    return said
                self._end(worker)
                worker = None
            return Answer("killed")
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Ends all workers; a later comparison starts new ones."""
        for worker in list(self._workers):
            self._end(worker)

    def _start(self) -> Worker:
        worker = Worker()
        with self._lock:
            self._workers.add(worker)
        return worker

    def _end(self, worker: Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.stop()


POOL = Pool()
atexit.register(POOL.close)
