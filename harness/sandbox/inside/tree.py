"""The processes below the supervisor: who they are, what they have used, and their end.

The supervisor is a child subreaper, so an orphan, setsid or not, becomes its child and cannot leave the tree.
"""

from __future__ import annotations

import os
import resource
import signal
import time

TICKS = os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (the state) on, None when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode("latin-1").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def _by_parent() -> dict[int, list[int]]:
    """Every process of the machine by its parent: for kernels without CONFIG_PROC_CHILDREN."""
    table: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _fields(int(name))):
            table.setdefault(int(fields[1]), []).append(int(name))
    return table


def descendants() -> list[int]:
    """Every living process below this one."""
    me = os.getpid()
    if os.path.exists(f"/proc/{me}/task/{me}/children"):
        children = _children
    else:
        table = _by_parent()

        def children(pid: int) -> list[int]:
            return table.get(pid, [])

    found: list[int] = []
    waiting = [me]
    while waiting:
        below = children(waiting.pop())
        found += below
        waiting += below
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Processor seconds of pids, of their children that ended, and of ours that ended."""
    ticks = 0
    for pid in pids:
        if fields := _fields(pid):
            ticks += sum(map(int, fields[11:15]))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / TICKS + ended.ru_utime + ended.ru_stime


def memory_bytes(pids: list[int]) -> int:
    """Memory of pids, in use now, swapped out or not, with page tables, without files; what they share, for each."""
    size = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        size += sum(int(line.split()[1]) for line in lines if line.startswith(_IN_USE)) << 10
    return size


_IN_USE = (b"RssAnon:", b"RssShmem:", b"VmSwap:", b"VmPTE:")


def tasks_of_user(uid: int) -> int:
    """Processes and threads that the user has on this machine now."""
    count = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            owner = os.stat(f"/proc/{name}").st_uid
        except (FileNotFoundError, ProcessLookupError):
            continue
        if owner == uid and (fields := _fields(int(name))):
            count += int(fields[17])
    return count


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def kill_all(first: int | None, patience: float = 5.0) -> bool:
    """Kills every process below this one, `first` before the others; whether none is left after `patience` seconds.

    They are all stopped before any is killed: a stopped process holds its place in the limit of processes, so a
    fork bomb runs out of places instead of running ahead of us.
    """
    if first is not None:
        _signal(first, signal.SIGKILL)
    end = time.monotonic() + patience
    stopped: set[int] = set()
    while time.monotonic() < end:
        pids = set(descendants())
        for pid in pids - stopped:
            _signal(pid, signal.SIGSTOP)
        if pids <= stopped:
            for pid in pids:
                _signal(pid, signal.SIGKILL)
        stopped |= pids
        if not reap():
            return True
        time.sleep(0.0005)
    return False


def reap() -> bool:
    """Collects the children that have ended; whether any child is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
