"""The supervisor of a room: starts the zygote behind its walls, hands it job after job, watches each, says how it went.

    python -P -s -S -c "...; from inside.launch import main; main()" FOLDER LINE      (a descriptor)

LINE is a socket of packets, each one message: first the room, marshalled; then for each job RUN with its descriptors,
answered by its ending. KILL ends a job early. When the other side closes, everything is killed.
"""

from __future__ import annotations

import marshal
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


class _AbandonedError(Exception):
    """Nobody wants the results any more."""


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


def _watch(room: walls.Room, line: socket.socket, below: socket.socket, spent: float) -> dict[str, object]:
    """Waits for the end of the job that the zygote runs, which is hastened on an objection: how it ended.

    Raises SetupError when the zygote does not answer, _Abandoned when nobody wants to know.
    """
    deadline, reason = time.monotonic() + room["wall_seconds"], ""
    while True:
        pause = min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))
        ready = select.select([line, below], [], [], PATIENCE_SECONDS if reason else pause)[0]
        if below in ready:
            if not (answer := below.recv(65536)):
                raise kernel.SetupError("the zygote ended")
            ending: dict[str, object] = marshal.loads(answer)
            return {"reason": reason, **ending}
        if line in ready:
            if line.recv(16) != zygote.KILL:
                raise _AbandonedError
            reason = reason or "stopped"
            below.send(zygote.KILL)
        elif reason:
            raise kernel.SetupError("the processes of the code could not be killed")
        elif reason := _objection(room, spent, deadline):
            below.send(zygote.KILL)


def _serve(room: walls.Room, line: socket.socket) -> None:
    below, pid = zygote.start(room)
    line.send(zygote.READY)
    while True:
        message, fds, _, _ = socket.recv_fds(line, 16, zygote.MAX_FDS)
        if not message:
            return
        if message != zygote.RUN:
            continue  # KILL came too late: the job had ended
        spent = tree.cpu_seconds([pid])
        socket.send_fds(below, [zygote.RUN], fds)
        for fd in fds:
            os.close(fd)
        line.send(marshal.dumps(_watch(room, line, below, spent)))


def main() -> None:
    """The whole life of the supervisor."""
    sys.path.pop()  # the folder that we were imported from
    line = socket.socket(fileno=walls.move_up(int(sys.argv[2])))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    room: walls.Room = marshal.loads(line.recv(1 << 20))
    try:
        kernel.prctl("PR_SET_CHILD_SUBREAPER", kernel.PR_SET_CHILD_SUBREAPER, 1)
        _serve(room, line)
    except (kernel.SetupError, OSError) as error:
        line.send(marshal.dumps({"setup": str(error)}))
    except _AbandonedError:
        pass
    finally:
        tree.kill_all(None)
        if room["tier"] != "namespaces":
            cleanup.remove(room["scratch"])
