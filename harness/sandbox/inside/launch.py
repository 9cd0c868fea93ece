"""The supervisor of a room: starts the zygote behind its walls and watches the jobs that run there.

    python -P -s -S -c "...; from inside.launch import main; main()" FOLDER LINE OUT ERR      (descriptors)

LINE is a socket of packets, each one message: first the room, marshalled, answered by READY. From then on it is the
zygote's: for each job RUN with its descriptors, answered by its ending; KILL ends a job early. When the other side
closes, everything is killed. OUT and ERR are where jobs print to.
"""

from __future__ import annotations

import marshal
import mmap
import os
import select
import signal
import socket
import sys
import time

from . import cleanup, kernel, tree, walls, zygote

POLL_SECONDS = 0.05
SCRATCH_ENTRIES = 10000
PATIENCE_SECONDS = 10.0


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


def _objection(room: walls.Room, spent: float, deadline: float) -> str:
    """Why the code must end now: "wall", "cpu", "memory", "processes", "scratch", or "" for no reason.

    spent: processor seconds of the room before this job.
    """
    if time.monotonic() >= deadline:
        return "wall"
    pids = tree.descendants()
    if tree.cpu_seconds(pids) - spent > room["cpu_seconds"]:
        return "cpu"
    if tree.memory_bytes(pids) > room["memory_mb"] << 20:
        return "memory"
    if room["tier"] == "namespaces":
        return ""  # the kernel counts processes and scratch space there
    if len(pids) - 1 > room["processes"]:  # the zygote is none of the code's
        return "processes"
    return "scratch" if _scratch_full(room["scratch"], room["scratch_mb"]) else ""


def _watch(room: walls.Room, below: socket.socket, page: mmap.mmap) -> None:
    """Tells the zygote which job must end and why, until the zygote ends.

    Raises SetupError when a job does not end. A job is looked at from the second time on that it is met: most have
    ended by then, and looking takes as long as many of them.
    """
    met, told, pause = 0, 0.0, POLL_SECONDS
    while not select.select([below], [], [], pause)[0]:
        number, began, spent = zygote.CLOCK.unpack(page[: zygote.CLOCK.size])
        pause = POLL_SECONDS
        if number != met:
            met, told = number, 0.0
        elif number and told:
            if time.monotonic() > told + PATIENCE_SECONDS:
                raise kernel.SetupError("the processes of the code could not be killed")
        elif number:
            if reason := _objection(room, spent, began + room["wall_seconds"]):
                below.send(f"{reason} {number}".encode())
                told = time.monotonic()
            age = time.monotonic() - began
            pause = max(POLL_SECONDS, min(age / 20, 1.0, began + room["wall_seconds"] - time.monotonic()))


def main() -> None:
    """The whole life of the supervisor."""
    sys.path.pop()  # the folder that we were imported from
    line, *output = (walls.move_up(int(number)) for number in sys.argv[2:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(line)) as above:
        room: walls.Room = marshal.loads(above.recv(1 << 20))
        try:
            kernel.prctl("PR_SET_CHILD_SUBREAPER", kernel.PR_SET_CHILD_SUBREAPER, 1)
            below, page = zygote.start(room, line, (output[0], output[1]))
            above.send(zygote.READY)
            above.close()
            _watch(room, below, page)
        except (kernel.SetupError, OSError) as error:
            print(error, file=sys.stderr)
        finally:
            tree.kill_all(None)
            if room["tier"] != "namespaces":
                cleanup.remove(room["scratch"])
