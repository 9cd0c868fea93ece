"""The supervisor: reads a job, starts the code behind the walls, watches it, kills all of it, says how it went.

    python -I -S -c "...; from inside.launch import main; main()" FOLDER PROOF STATUS      (two descriptors)

The job comes on stdin: its length in 8 bytes, then a marshalled dict. Stdin stays open as long as somebody wants the
result; when it closes, everything is killed. The last word is a Python literal on STATUS.
"""

from __future__ import annotations

import marshal
import os
import resource
import select
import signal
import sys
import time

from . import cleanup, kernel, tree, walls

POLL_SECONDS = 0.05
SCRATCH_ENTRIES = 10000


def _read_job() -> walls.Job:
    size = int.from_bytes(os.read(0, 8), "little")
    data = bytearray()
    while len(data) < size:
        if not (part := os.read(0, size - len(data))):
            sys.exit(1)
        data += part
    job: walls.Job = marshal.loads(bytes(data))
    return job


def _scratch_full(folder: str, limit_mb: int) -> bool:
    """Whether the folder holds more than its share; what cannot be looked into counts as too much."""
    size = entries = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    status = entry.stat(follow_symlinks=False)
                    size += status.st_blocks * 512
                    entries += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError:
            return True
        if size > limit_mb << 20 or entries > SCRATCH_ENTRIES:
            return True
    return False


def _objection(job: walls.Job, deadline: float) -> str:
    """Why the code must end now: "abandoned", "wall", "cpu", "processes", "scratch", or "" for no reason."""
    if select.select([0], [], [], 0)[0]:
        return "abandoned"
    if time.monotonic() >= deadline:
        return "wall"
    pids = tree.descendants()
    if tree.cpu_seconds(pids) > job["cpu_seconds"]:
        return "cpu"
    if job["tier"] == "namespaces":
        return ""  # the kernel counts processes and scratch space there
    if len(pids) > job["processes"]:
        return "processes"
    return "scratch" if _scratch_full(job["scratch"], job["scratch_mb"]) else ""


def _watch(job: walls.Job, first: int) -> tuple[str, int | None]:
    """Waits for the end of process first, or until there is an objection: the objection, and the wait status."""
    deadline = time.monotonic() + job["wall_seconds"]
    while True:
        pause = min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))
        signal.sigtimedwait([signal.SIGCHLD], pause)
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == first:
                return "", status
            if pid == 0:
                break
        if objection := _objection(job, deadline):
            return objection, None


def _supervise(job: walls.Job, proof: int) -> dict[str, object]:
    """Runs the job to its end. Raises SetupError or OSError when a wall cannot be put up."""
    setup_read, setup = os.pipe()
    ended_read, ended = os.pipe()
    setup, ended = walls.move_up(setup), walls.move_up(ended)
    first = walls.start(job, proof, setup, ended)
    for fd in (proof, setup, ended):
        os.close(fd)
    kernel.prctl("PR_SET_DUMPABLE", kernel.PR_SET_DUMPABLE, 0)  # not before: it would close the map of users to us
    if message := os.read(setup_read, 4096):
        tree.kill_all(first)
        raise kernel.SetupError(message.decode(errors="replace"))
    begin = time.monotonic()
    reason, status = _watch(job, first)
    wall = time.monotonic() - begin
    # A process namespace that is killed does not pass on the time of those within.
    before = tree.cpu_seconds(tree.descendants()) if reason else 0.0
    if not tree.kill_all(first if status is None else None):
        raise kernel.SetupError("the processes of the code could not be killed")
    passed_on = os.read(ended_read, 4)
    if reason == "abandoned" and job["tier"] != "namespaces":
        cleanup.remove(job["scratch"])
    if passed_on:
        status = int.from_bytes(passed_on, "little")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "reason": reason,
        "status": int(signal.SIGKILL) if status is None else status,
        "cpu_seconds": max(before, used.ru_utime + used.ru_stime),
        "wall_seconds": wall,
    }


def main() -> None:
    """The whole life of the helper interpreter."""
    sys.path.pop()  # the folder that we were imported from
    proof, status = (walls.move_up(int(text)) for text in sys.argv[2:4])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    job = _read_job()
    try:
        kernel.prctl("PR_SET_CHILD_SUBREAPER", kernel.PR_SET_CHILD_SUBREAPER, 1)
        ending = _supervise(job, proof)
    except (kernel.SetupError, OSError) as error:
        ending = {"setup": str(error)}
    os.write(status, repr(ending).encode())
