"""From how a job ended to its outcome."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from typing import Literal, TypedDict

from harness.sandbox.policy import Outcome, Policy


class Ending(TypedDict):
    """How a job ended. reason: why it was killed ("" it was not, "stopped" by us, else "wall", "cpu", "memory",
    "processes", "scratch"); status: as of waitpid; kind: what the process said of its end ("ok", "error", "syntax",
    "memory"), "" if it said nothing; cpu_seconds of the whole tree; wall_seconds from start to end."""

    reason: str
    status: int
    kind: str
    cpu_seconds: float
    wall_seconds: float


Word = Literal["ok", "wrong", "remote", "memory", "gone"]
"""What tests say: all held, one did not, a call raised, a call raised MemoryError, the solution answered no more."""


def judge(ending: Ending, policy: Policy) -> tuple[Outcome, str]:
    """The outcome of a program, or of a solution by itself, and how it came about in words."""
    kind = ending["kind"]
    over: dict[str, tuple[Outcome, str]] = {
        "wall": ("timeout", f"killed after {policy.wall_limit:g} s by the clock"),
        "cpu": ("timeout", f"killed after {policy.cpu_seconds:g} s of processor time"),
        "memory": ("memory", f"killed for more than {policy.memory_mb} MiB of memory"),
        "processes": ("killed", f"killed for more than {policy.processes} processes"),
        "scratch": ("killed", f"killed for more than {policy.scratch_mb} MiB or too many files in the scratch folder"),
    }
    if ending["reason"] in over:
        return over[ending["reason"]]
    status = os.waitstatus_to_exitcode(ending["status"])
    # By the time used, not by the signal: code that catches SIGXCPU has had its time as well.
    if ending["cpu_seconds"] > policy.cpu_seconds or status == -signal.SIGXCPU:
        return "timeout", f"used more than {policy.cpu_seconds:g} s of processor time"
    if kind == "syntax":
        return "syntax", "does not compile"
    if kind == "memory":
        return "memory", f"MemoryError under a limit of {policy.memory_mb} MiB"
    if kind == "error":
        return "error", "uncaught exception"
    if ending["reason"] == "stopped":
        return "killed", "went on without answering its tests"
    if status < 0:
        return "killed", f"ended by signal {-status} ({signal.strsignal(-status)})"
    if kind == "ok" and status == 0:
        return "ok", "ran to its end"
    if status:
        return "error", f"exit status {status}"
    return "killed", "exit status 0 before the end"


def judge_tests(solution: Ending, tests: Word | Ending, policy: Policy) -> tuple[Outcome, str]:
    """The outcome of a solution under its tests: by their word, or by how they ended without one.

    Only the tests' word makes it "passed": no code of the solution's runs in their process.
    """
    alone, why = judge(solution, policy)
    if isinstance(tests, dict):
        if alone in ("timeout", "memory"):
            return alone, why
        if os.waitstatus_to_exitcode(tests["status"]) == -signal.SIGPROF:  # the timer that they set themselves
            return "timeout", f"the tests: used more than {policy.cpu_seconds:g} s of processor time"
        outcome, how = judge(tests, dataclasses.replace(policy, cpu_seconds=math.inf))  # it was for all their work
        return outcome, f"the tests: {how}"
    if tests == "ok":
        return ("passed", "all tests held") if alone != "timeout" else (alone, why)
    if tests == "wrong":
        return "wrong", "a test did not hold"
    if tests == "remote":
        return "error", "uncaught exception in a call"
    if tests == "memory":
        return "memory", f"MemoryError under a limit of {policy.memory_mb} MiB"
    return ("killed", "ended before its tests did") if alone == "ok" else (alone, why)
