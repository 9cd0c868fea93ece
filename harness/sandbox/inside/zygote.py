"""The zygote of a room: forks a process for each job, which puts its walls up and becomes the code; afterwards it sees
to it that nothing of the job is left, no process and no file.

It never sees a job's code, so that no job can find another's in the memory it inherits.
"""

from __future__ import annotations

import gc
import importlib
import marshal
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from . import cleanup, kernel, limits, namespaces, solution, tree, walls

RUN, KILL, READY = b"run", b"kill", b"ready"
MAX_FDS = 8


def start(room: walls.Room) -> tuple[socket.socket, int]:
    """Starts the zygote behind the outer walls of its tier; the line to it, and its process. Raises SetupError or
    OSError."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read = walls.needed_paths(room["read"])
    if room["tier"] == "namespaces":
        namespaces.enter_user(privileged=room["uid"] is not None)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _become(room, read, socket.socket(fileno=walls.move_up(its.detach())))
        finally:
            os._exit(1)
    its.close()
    kernel.prctl("PR_SET_DUMPABLE", kernel.PR_SET_DUMPABLE, 0)  # not before: it would close the map of users to us
    if (answer := ours.recv(4096)) != READY:
        raise kernel.SetupError(answer.decode(errors="replace") or "the zygote ended")
    return socket.socket(fileno=walls.move_up(ours.detach())), pid


def _become(room: walls.Room, read: list[str], line: socket.socket) -> NoReturn:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # which Python catches, so that it can reach an init
        if room["tier"] == "namespaces":
            namespaces.enter_root(read, room["scratch_mb"], room["uid"])
            room["scratch"] = namespaces.SCRATCH
        kernel.prctl("PR_SET_CHILD_SUBREAPER", kernel.PR_SET_CHILD_SUBREAPER, 1)
        limits.die_with_parent()
        sys.path += room["path"]
        os.environ.clear()  # the interpreter itself sets LC_CTYPE
        os.environ.update(room["environment"])
        os.chdir(room["scratch"])  # some modules write as they are imported
        for name in room["preload"]:
            importlib.import_module(name)
        cleanup.empty(room["scratch"])
        prepared = walls.Walls(room, read)
        wake_read, wake = (walls.move_up(fd) for fd in os.pipe())
        os.set_blocking(wake_read, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        _forget_launcher()
        gc.collect()
        gc.freeze()  # or every collection in a child would copy all these pages
    except (kernel.SetupError, OSError, ImportError) as error:
        line.send(str(error).encode())
        os._exit(1)
    line.send(READY)
    sweep = _sweep_namespace if room["tier"] == "namespaces" else _sweep_tree
    while True:
        message, fds, _, _ = socket.recv_fds(line, 16, MAX_FDS)
        if not message:
            os._exit(0)
        if message == RUN:
            line.send(marshal.dumps(_job(prepared, [walls.move_up(fd) for fd in fds], line, wake_read, sweep)))


def _job(
    prepared: walls.Walls, fds: list[int], line: socket.socket, wake: int, sweep: Callable[[], None]
) -> dict[str, object]:
    """Runs one job to its end: its wait status, processor seconds of the whole tree, seconds by the clock."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    setup_read, setup = (walls.move_up(fd) for fd in os.pipe())
    processes = prepared.processes()
    first = os.fork()
    if first == 0:
        _child(prepared, processes, fds, setup)
    for fd in (setup, *fds):
        os.close(fd)
    status = _wait(first, line, wake, sweep)
    wall = time.monotonic() - began
    if tree.reap():
        sweep()
    cleanup.empty(prepared.room["scratch"])
    problem = os.read(setup_read, 4096)
    os.close(setup_read)
    if problem:
        return {"setup": problem.decode(errors="replace")}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"status": status, "cpu_seconds": cpu, "wall_seconds": wall}


def _wait(first: int, line: socket.socket, wake: int, sweep: Callable[[], None]) -> int:
    """Collects what ends until `first` does, or until we are told to kill it: the wait status of `first`."""
    while True:
        ready: list[int] = select.select([wake, line.fileno()], [], [])[0]
        if line.fileno() in ready:
            if line.recv(16) == KILL:
                os.kill(first, signal.SIGKILL)
            else:
                sweep()
                os._exit(0)
        if wake in ready:
            os.read(wake, 4096)
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == first:
                    return ended[1]
        except ChildProcessError as error:  # somebody else collected it, which cannot be
            raise kernel.SetupError("the code's process is gone") from error


def _sweep_namespace() -> None:
    """As the first process of the namespace we reach all others at once: a fork bomb cannot run ahead."""
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _sweep_tree() -> None:
    if not tree.kill_all(None):
        raise kernel.SetupError("the processes of the code could not be killed")


def _child(prepared: walls.Walls, processes: int, fds: list[int], setup: int) -> NoReturn:
    """The first process of the code. fds: the job, stdout, stderr, the proof and, for some, the channel."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number, action in ((signal.SIGCHLD, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            signal.signal(number, action)
        size = os.fstat(fds[0]).st_size
        job = marshal.loads(os.pread(fds[0], size, 0))
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(fds[1], 1)
        os.dup2(fds[2], 2)
        prepared.put_up(processes, fds[3:], setup)
        solution.run(job, *fds[3:])
    except (kernel.SetupError, OSError) as error:
        os.write(setup, str(error).encode())
    finally:
        os._exit(status)


def _forget_launcher() -> None:
    sys.argv[:] = [solution.NAME]
    sys.orig_argv[:] = [sys.executable]
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__]:
        del sys.modules[name]
