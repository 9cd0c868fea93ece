"""Runs model-written code in rooms and judges how it ended."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from harness.sandbox import packages, tiers
from harness.sandbox.gate import GATE
from harness.sandbox.judging import Judge
from harness.sandbox.policy import Outcome, Policy, Result, SandboxUnavailable, Tier
from harness.sandbox.room import Job, Room, wait
from harness.sandbox.verdict import judge, judge_tests

Kept = TypeVar("Kept", Room, Judge)
_LEAVING_SECONDS = 0.3
"""For a solution to end by itself once its tests are done."""


class Sandbox:
    """Runs code under one policy. One Sandbox may be used by many threads at once, each in a room of its own; rooms
    are kept for later runs until close().

    unsafe: run without walls (tier "none"): limits and the killing of the whole tree remain, the code can read and
    write what you can. Raises SandboxUnavailable where no isolation can be had, FileNotFoundError for a path of
    Policy.read or a distribution of Policy.packages that does not exist.
    """

    def __init__(self, policy: Policy | None = None, unsafe: bool = False, *, _tier: Tier | None = None) -> None:
        self.policy = Policy() if policy is None else policy
        for path in self.policy.read:
            os.stat(path)
        self._read, self._path = packages.places(self.policy.packages)
        if unsafe and not sys.platform.startswith("linux"):
            raise SandboxUnavailable(tiers.NOT_LINUX)
        self.tier: Tier = _tier or ("none" if unsafe else tiers.probe().tier)
        self._rooms: list[Room] = []
        self._judges: list[Judge] = []
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _close_all, self._rooms, self._judges)

    def close(self) -> None:
        """Ends the rooms that are kept; later runs make new ones."""
        with self._lock:
            _close_all(self._rooms, self._judges)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, source: str) -> Result:
        """Runs source as a program and waits for its end, at most Policy.wall_limit seconds after its start.

        "ok" is the program's own word. What a model's code is worth, ask check().
        Raises SandboxUnavailable when the walls cannot be put up (any more), OSError when no process can be started.
        """
        return self._fairly(source, lambda: self._run(source))

    def check(self, solution: str, tests: str, names: Sequence[str], setup: str = "") -> Result:
        """Runs a solution in one room and its tests in another; only the tests can say "passed".

        setup is run before the tests, then each of names stands for what the solution calls so: the tests may call it,
        or pass it back as an argument. Arguments and results are copied as wire.py says. Raises as run() does.
        """
        return self._fairly(solution, lambda: self._check(solution, tests, names, setup))

    def _fairly(self, source: str, run: Callable[[], Result]) -> Result:
        """One more try, alone, for what ran out of time on a busy machine."""
        if not source.strip():
            return Result(outcome="no_code", detail="no code")
        with GATE.shared():
            result = run()
        # On a core of its own a loop takes about as much by the clock as of the processor.
        held_up = result.wall_seconds > 1.5 * result.cpu_seconds
        if result.outcome != "timeout" or not held_up or not GATE.busy():
            return result
        with GATE.alone():
            result = run()
        return dataclasses.replace(result, detail=f"{result.detail}; tried again alone")

    def _run(self, source: str) -> Result:
        with self.room() as room:
            job = room.start({"mode": "program", "source": source})
            wait(job)
            assert job.ending is not None
            outcome, detail = judge(job.ending, self.policy)
            return self._result(job, outcome, detail, job.stderr)

    def _check(self, solution: str, tests: str, names: Sequence[str], setup: str) -> Result:
        with self._kept(self._judges, self._new_judge) as tester, self.room() as room:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                job = room.start({"mode": "solution", "source": solution}, ours)
                tester.ask(setup, tests, names, theirs)
            wait(tester, job)
            if not wait(job, seconds=_LEAVING_SECONDS):
                job.stop()
                wait(job)
            assert job.ending is not None and tester.word is not None
            outcome, detail = judge_tests(job.ending, tester.word, self.policy)
            return self._result(job, outcome, detail, job.stderr + tester.output)

    def _result(self, job: Job, outcome: Outcome, detail: str, stderr: str) -> Result:
        assert job.ending is not None
        return Result(
            outcome=outcome,
            stdout=job.stdout,
            stderr=stderr,
            cpu_seconds=job.ending["cpu_seconds"],
            wall_seconds=job.ending["wall_seconds"],
            detail=detail,
        )

    def _new_room(self) -> Room:
        return Room(self.policy, self.tier, self._read, self._path)

    def _new_judge(self) -> Judge:
        return Judge(self.policy, self.tier, self._read, self._path)

    def room(self) -> AbstractContextManager[Room]:
        """A room for one job."""
        return self._kept(self._rooms, self._new_room)

    @contextmanager
    def _kept(self, idle: list[Kept], new: Callable[[], Kept]) -> Iterator[Kept]:
        """One that is kept, or a new one. After any exception, or when it is spent, it is not used again."""
        with self._lock:
            one = idle.pop() if idle else None
        if one is None:
            one = new()
        try:
            yield one
        except BaseException:
            one.close()
            raise
        if one.spent:
            one.close()
            return
        with self._lock:
            idle.append(one)


def _close_all(rooms: list[Room], judges: list[Judge]) -> None:
    for room in rooms:
        room.close()
    for tester in judges:
        tester.close()
    rooms.clear()
    judges.clear()
