"""Python interpreters that keep their state between the cells of a conversation."""

from __future__ import annotations

import base64
import json
import select
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from harness.sandbox.inside.wire import MOST_BYTES
from harness.sandbox.policy import Outcome, Policy
from harness.sandbox.runner import Sandbox
from harness.sandbox.verdict import judge
from tasks.json_text import parse

PACKAGES = ("numpy", "pandas", "matplotlib", "sympy", "pyarrow")
POLICY = Policy(
    cpu_seconds=120,
    wall_seconds=3600,  # the model writes between the cells; each cell has its own limit
    memory_mb=2048,
    address_mb=8192,
    processes=32,
    packages=PACKAGES,
    preload=("numpy", "pandas", "matplotlib.pyplot", "sympy"),
    environment=(("MPLBACKEND", "Agg"), ("MPLCONFIGDIR", "."), ("OPENBLAS_NUM_THREADS", "1")),
)
"""What a conversation may use. cpu_seconds is for all its cells."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What came of a cell. value: repr of its last expression, "" for none; error: the traceback; figures: for each
    matplotlib figure its axes in numbers and words; images: PNG or JPEG files.

    outcome: "ok", "error", "syntax", "memory", "timeout", or "killed" when the process ended.
    """

    outcome: Outcome
    stdout: str = ""
    value: str = ""
    error: str = ""
    figures: tuple[Any, ...] = ()
    images: tuple[bytes, ...] = ()


class Interpreter:
    """One conversation's interpreter, in a room of a sandbox. Not for two threads at once; close it.

    files: name and text of what lies in its working folder. After an outcome of "timeout" or "killed" every further
    cell is "killed". Raises as Sandbox.run().
    """

    def __init__(self, sandbox: Sandbox, files: Mapping[str, str] | None = None) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            room = stack.enter_context(sandbox.room())
            self._line, its = socket.socketpair()
            stack.enter_context(self._line)
            with its:
                self._job = room.start({"mode": "cells"}, its)
            stack.callback(self._end)
            self._stack = stack.pop_all()
        for name, text in (files or {}).items():
            self.run(f"with open({name!r}, 'w', encoding='utf-8') as _: _.write({text!r})")

    def run(self, source: str, seconds: float = 30.0) -> Cell:
        """Runs a cell, at most `seconds` by the clock."""
        if self._job.ending is not None or self._job.room.spent:
            return Cell(outcome="killed", error="the interpreter has ended")
        data = json.dumps(source).encode()
        self._line.setblocking(False)
        sending, came = len(data).to_bytes(4, "little") + data, bytearray()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            mine = self._line.fileno()
            poll = _poll([mine, *self._job.sources()])
            if sending:
                poll.register(mine, select.POLLIN | select.POLLOUT)
            happened = dict(poll.poll(1000 * left))
            for fd in happened:
                if fd != mine:
                    self._job.read(fd)
            if self._job.ending is not None:
                outcome, detail = judge(self._job.ending, self._job.room.policy)
                return Cell(outcome="killed" if outcome == "ok" else outcome, error=detail)
            try:
                if happened.get(mine, 0) & select.POLLOUT:
                    sending = sending[self._line.send(sending) :]
                if happened.get(mine, 0) & ~select.POLLOUT:
                    if not (data_in := self._line.recv(1 << 16)):
                        self._end()
                        return Cell(outcome="killed", error="the interpreter ended, or closed its line to us")
                    came += data_in
            except (BrokenPipeError, ConnectionResetError):
                continue  # the ending comes in a moment
            if len(came) >= 4 and len(came) - 4 >= (size := int.from_bytes(came[:4], "little")):
                return _cell(bytes(came[4 : 4 + size]))
            if len(came) > MOST_BYTES:
                break
        self._end()
        return Cell(outcome="timeout", error=f"the cell took more than {seconds:g} s")

    def close(self) -> None:
        self._stack.close()

    def _end(self) -> None:
        """Kills the process, if it still runs, and waits for its end; in a lost room nothing runs any more."""
        if self._job.room.spent:
            return
        self._job.stop()
        while self._job.ending is None:
            for fd, _ in _poll(self._job.sources()).poll():
                self._job.read(fd)


def _poll(sources: Sequence[int]) -> select.poll:
    """Waits for what comes on any of the descriptors, however high their numbers."""
    poll = select.poll()
    for fd in sources:
        poll.register(fd, select.POLLIN)
    return poll


_OUTCOMES: dict[str, Outcome] = {"ok": "ok", "error": "error", "syntax": "syntax", "memory": "memory"}


def _cell(data: bytes) -> Cell:
    """The process's answer, of which nothing is believed but that it is text and numbers."""
    try:
        said = parse(data)
        images = tuple(base64.b64decode(image) for image in said["images"])
        texts = {name: str(said[name]) for name in ("stdout", "value", "error")}
        outcome = _OUTCOMES[said["outcome"]]
        return Cell(outcome=outcome, figures=tuple(said["figures"]), images=images, **texts)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return Cell(outcome="killed", error=f"the interpreter's answer is not readable ({type(error).__name__})")
