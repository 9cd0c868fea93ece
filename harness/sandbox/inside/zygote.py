"""The zygote of a room: forks a process for each job, which puts its walls up and becomes the code; afterwards it sees
to it that nothing of the job is left, no process and no file.

It never sees a job's code, so that no job can find another's in the memory it inherits.
"""

from __future__ import annotations

import gc
import importlib
import marshal
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from . import cleanup, kernel, limits, namespaces, solution, tree, walls

RUN, KILL, READY = b"run", b"kill", b"ready"
MAX_FDS = 4
CLOCK = struct.Struct("Qdd")
"""What the zygote tells the supervisor in the page that they share: the number of the running job, 0 for none, when it
began (monotonic seconds), and the processor seconds of the room before it."""


def start(room: walls.Room, line: int, output: tuple[int, int]) -> tuple[socket.socket, mmap.mmap]:
    """Starts the zygote behind the outer walls of its tier: the supervisor's line to it, and the page with the clock.
    line and output (descriptors: jobs come by the one, what they print goes into the others) are the zygote's from now
    on. Raises SetupError or OSError."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    page = mmap.mmap(-1, mmap.PAGESIZE)
    read = walls.needed_paths(room["read"])
    if room["tier"] == "namespaces":
        namespaces.enter_user(privileged=room["uid"] is not None)
    if os.fork() == 0:
        try:
            ours.close()
            page.madvise(mmap.MADV_DONTFORK)  # no job may set its own clock
            for number, fd in enumerate(output, start=1):
                os.dup2(fd, number)
                os.close(fd)
            _Zygote(room, read, page, socket.socket(fileno=walls.move_up(its.detach())), socket.socket(fileno=line))
        finally:
            os._exit(1)
    its.close()
    for fd in (line, *output):
        os.close(fd)
    kernel.prctl("PR_SET_DUMPABLE", kernel.PR_SET_DUMPABLE, 0)  # not before: it would close the map of users to us
    if (answer := ours.recv(4096)) != READY:
        raise kernel.SetupError(answer.decode(errors="replace") or "the zygote ended")
    return socket.socket(fileno=walls.move_up(ours.detach())), page


class _Zygote:
    """The whole life of the zygote: never returns. `above` leads to the supervisor, `line` to the harness."""

    def __init__(
        self, room: walls.Room, read: list[str], page: mmap.mmap, above: socket.socket, line: socket.socket
    ) -> None:
        self.room, self.page, self.above, self.line, self.number = room, page, above, line, 0
        try:
            self._prepare(read)
        except (kernel.SetupError, OSError, ImportError) as error:
            above.send(str(error).encode())
            os._exit(1)
        above.send(READY)
        while True:
            message, fds, _, _ = socket.recv_fds(line, 16, MAX_FDS)
            if not message:
                os._exit(0)
            if message == RUN:
                line.send(marshal.dumps(self._job([walls.move_up(fd) for fd in fds])))
            # else KILL came too late: the job had ended

    def _prepare(self, read: list[str]) -> None:
        room = self.room
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
        self.proof, self.prove = _pipe()
        self.trouble, self.complain = _pipe()
        self.walls = walls.Walls(room, read)
        self.sweep: Callable[[], None] = _sweep_namespace if room["tier"] == "namespaces" else _sweep_tree
        _forget_launcher()
        gc.collect()
        gc.freeze()  # or every collection in a child would copy all these pages

    def _job(self, fds: list[int]) -> dict[str, object]:
        """Runs one job to its end, which is described as verdict.Ending says. fds: the job and, for some, a channel."""
        self.number += 1
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        mine = resource.getrusage(resource.RUSAGE_SELF)
        spent = sum(usage.ru_utime + usage.ru_stime for usage in (before, mine))
        self.page[: CLOCK.size] = CLOCK.pack(self.number, began, spent)
        for fd in (1, 2):
            os.set_blocking(fd, True)  # whatever the last job did to it
        token = os.urandom(16).hex()
        processes = self.walls.processes()
        first = os.fork()
        if first == 0:
            self._child(token, processes, fds)
        for fd in fds:
            os.close(fd)
        reason, status = self._wait(first)
        wall = time.monotonic() - began
        if tree.reap():
            self.sweep()
        self.page[: CLOCK.size] = CLOCK.pack(0, 0.0, 0.0)
        cleanup.empty(self.room["scratch"])
        if problem := _all_of(self.trouble):
            return {"setup": problem}
        said = _all_of(self.proof)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        kind = said.removeprefix(f"{token} ") if said.startswith(token) else ""
        return {"reason": reason, "status": status, "kind": kind, "cpu_seconds": cpu, "wall_seconds": wall}

    def _wait(self, first: int) -> tuple[str, int]:
        """Waits until `first` ends, or has it killed when we are told so: the reason, and its wait status."""
        ending, reason = os.pidfd_open(first), ""
        try:
            while True:
                ready = select.select([ending, self.line.fileno(), self.above.fileno()], [], [])[0]
                if ending in ready:
                    return reason, os.waitpid(first, 0)[1]
                if self.line.fileno() in ready:
                    if self.line.recv(16) != KILL:
                        self.sweep()
                        os._exit(0)
                    reason = reason or "stopped"
                    os.kill(first, signal.SIGKILL)
                if self.above.fileno() in ready:
                    said, _, number = self.above.recv(64).decode().partition(" ")
                    if number == str(self.number):  # else it is about a job that has ended
                        reason = reason or said
                        os.kill(first, signal.SIGKILL)
        finally:
            os.close(ending)

    def _child(self, token: str, processes: int, fds: list[int]) -> NoReturn:
        """The first process of the code."""
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            job = marshal.loads(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))
            self.walls.put_up(processes, [self.prove, *fds[1:]], self.complain)
            solution.run(job, token, self.prove, *fds[1:])
        except (kernel.SetupError, OSError) as error:
            os.write(self.complain, str(error).encode())
        finally:
            os._exit(1)


def _pipe() -> tuple[int, int]:
    """Both ends of a pipe that is read without waiting."""
    read, write = (walls.move_up(fd) for fd in os.pipe())
    os.set_blocking(read, False)
    return read, write


def _all_of(fd: int) -> str:
    """What has been written to a pipe, which is empty afterwards."""
    said = b""
    with suppress(BlockingIOError):
        while True:
            said += os.read(fd, 65536)
    return said.decode(errors="replace")


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


def _forget_launcher() -> None:
    sys.argv[:] = [solution.NAME]
    sys.orig_argv[:] = [sys.executable]
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__]:
        del sys.modules[name]
