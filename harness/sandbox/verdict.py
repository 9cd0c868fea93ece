"""From how a run ended to its outcome."""

from __future__ import annotations

import os
import signal
from typing import TypedDict

from harness.sandbox.policy import Outcome, Policy


class Ending(TypedDict):
    """The supervisor's last word. reason: why it killed the code ("" it did not, else "wall", "cpu", "processes",
    "scratch"); status: as of waitpid; cpu_seconds of the whole tree; wall_seconds from start to end."""

    reason: str
    status: int
    cpu_seconds: float
    wall_seconds: float


def judge(ending: Ending, kind: str, policy: Policy) -> tuple[Outcome, str]:
    """The outcome, and how it came about in words.

    kind: what the launcher proved about the code's end ("ok", "error", "syntax", "memory"), "" for no proof.
    """
    over: dict[str, tuple[Outcome, str]] = {
        "wall": ("timeout", f"killed after {policy.wall_limit:g} s by the clock"),
        "cpu": ("timeout", f"killed after {policy.cpu_seconds:g} s of processor time"),
        "processes": ("killed", f"killed for more than {policy.processes} processes"),
        "scratch": ("killed", f"killed for more than {policy.scratch_mb} MiB or too many files in the scratch folder"),
    }
    if ending["reason"]:
        return over[ending["reason"]]
    status = os.waitstatus_to_exitcode(ending["status"])
    # By the time used, not by the signal: code that catches SIGXCPU has had its time as well.
    if ending["cpu_seconds"] > policy.cpu_seconds or status == -signal.SIGXCPU:
        return "timeout", f"used more than {policy.cpu_seconds:g} s of processor time"
    if status < 0:
        return "killed", f"ended by signal {-status} ({signal.strsignal(-status)})"
    if kind == "ok" and status == 0:
        return "ok", "ran to its end"
    if kind == "syntax":
        return "syntax", "does not compile"
    if kind == "memory":
        return "memory", f"MemoryError under a limit of {policy.memory_mb} MiB"
    if kind == "error":
        return "error", "uncaught exception"
    if status:
        return "error", f"exit status {status}"
    return "killed", "exit status 0 before the end"
