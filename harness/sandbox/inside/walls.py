"""The walls of a room: which files are needed there, and which walls a process puts up around itself in which order."""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
from typing import TypedDict

from . import kernel, landlock, limits, namespaces, seccomp, tree

# Descriptors of ours lie between these, out of reach of the limit that the code is given.
FIRST_FD, END_FD = limits.OPEN_FILES, limits.OPEN_FILES + 64
# Where the user's other processes count as well, they need room to come and go; the watch counts exactly.
SPARE_PROCESSES = 64


class Room(TypedDict):
    """What a room is told once. tier: "namespaces", "landlock" or "none"; uid: the user that the code becomes, None to
    stay; scratch: the folder to work in, unless the tier makes its own; path: folders to import from; preload: modules
    that the code finds imported already; the rest as in Policy."""

    tier: str
    uid: int | None
    scratch: str
    read: list[str]
    path: list[str]
    preload: list[str]
    environment: dict[str, str]
    own_programs: bool
    cpu_seconds: float
    wall_seconds: float
    memory_mb: int
    address_mb: int
    processes: int
    file_mb: int
    scratch_mb: int


def move_up(fd: int) -> int:
    """The descriptor under a number of ours; the old number is closed."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)
    os.close(fd)
    return moved


def needed_paths(extra: list[str]) -> list[str]:
    """Real paths of the interpreter, its standard library, the shared libraries it uses, and the extra ones; none
    below another."""
    paths = {os.path.realpath(sys.executable), os.path.dirname(os.path.realpath(os.__file__))}
    paths.update(os.path.realpath(path) for path in sys.path if os.path.isdir(path))
    if sys.base_prefix not in ("/usr", "/usr/local"):
        paths.add(os.path.realpath(sys.base_prefix + "/lib"))
    with open("/proc/self/maps") as file:
        mapped = {line.split(None, 5)[5].rstrip("\n") for line in file if ".so" in line}
    paths.update(os.path.dirname(os.path.realpath(path)) for path in mapped)
    paths.update(path for path in ("/etc/ld.so.cache", "/usr/share/zoneinfo") if os.path.exists(path))
    paths.update(os.path.realpath(path) for path in extra)
    kept: list[str] = []
    for path in sorted(paths):
        if not any(path.startswith(above + "/") for above in kept):
            kept.append(path)
    return kept


class Walls:
    """Everything that can be made ready before the fork; then each process calls put_up().

    Raises SetupError or OSError when a wall cannot be had.
    """

    def __init__(self, room: Room, read: list[str]) -> None:
        self.room = room
        self.keep_reading = False
        self.rules: landlock.Ruleset | None = None
        self._filtered = self._around_zygote = False
        # Of the host's files and processes, which Landlock and seccomp then close off.
        in_view = room["tier"] == "landlock"
        if room["tier"] == "none":
            return
        version = landlock.abi()
        if in_view and version < landlock.LEAST_ABI:
            raise kernel.SetupError(
                f"Landlock ABI {landlock.LEAST_ABI} (Linux 6.2) or newer is needed, found {version}"
            )
        if version:
            self.rules = landlock.Ruleset(version)
            for path in read:
                self.rules.allow_reading(path)
            for path in room["path"]:
                self.rules.allow_listing(path)
            for path in namespaces.DEVICES:
                self.rules.allow_device(path)
            self.rules.allow_scratch(room["scratch"], room["own_programs"])
        if room["uid"] is not None:
            self.keep_reading = not all(limits.readable_by_all(path, parents=in_view) for path in read)
        self._signals_to_itself = in_view and version < landlock.SCOPE_ABI
        self._change_own_files = not in_view or room["uid"] is not None
        if room["tier"] == "namespaces":
            # Around the zygote, whose children then need not pay for it. As the first process of its namespace it
            # cannot be signalled from within, nor traced.
            self._limit(self.processes())
            self._restrict()
            self._around_zygote = True
        elif not self._signals_to_itself and self._change_own_files:
            # Nothing in it hinders the zygote, which needs it once where each child would pay for it anew.
            kernel.prctl("PR_SET_NO_NEW_PRIVS", kernel.PR_SET_NO_NEW_PRIVS, 1)
            seccomp.install(self._assemble(None))
            self._filtered = True

    def _assemble(self, signals_to: int | None) -> ctypes.Structure:
        return seccomp.assemble(seccomp.program(kernel.machine(), signals_to, self._change_own_files))

    def processes(self) -> int:
        """The limit of processes that the kernel is given: it counts by user."""
        most = self.room["processes"]
        if self.room["tier"] == "namespaces":
            return most + (
                1 if self.room["uid"] is not None else 2
            )  # the zygote is the same user, or the supervisor too
        if self.room["uid"] is not None:
            return most
        return most + tree.tasks_of_user(os.getuid()) + SPARE_PROCESSES

    def put_up(self, processes: int, keep: list[int], last: int) -> None:
        """Puts up around this process what is not yet around the zygote. Of its descriptors of ours `keep` stay open
        and, until all is done, `last`, which is then closed."""
        os.setsid()
        os.chdir(self.room["scratch"])
        if not self._around_zygote:
            self._limit(processes)
            if self.room["tier"] != "none":
                self._restrict()
            limits.die_with_parent()
        limits.limit_child(self.room["cpu_seconds"])
        stay = sorted([*keep, last])
        for low, high in zip([2, *stay], [*stay, END_FD], strict=True):
            os.closerange(low + 1, high)
        os.close(last)

    def _limit(self, processes: int) -> None:
        limits.set_limits(self.room["address_mb"], processes, self.room["file_mb"])

    def _restrict(self) -> None:
        """Takes away privileges, files and system calls, for good."""
        limits.drop_privileges(self.room["uid"], keep_reading=self.keep_reading)
        if self.rules is not None:
            self.rules.restrict()
        if not self._filtered:
            seccomp.install(self._assemble(os.getpid() if self._signals_to_itself else None))
