"""From a job to the code behind its walls: which files it needs, which walls in which order."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TypedDict

from . import kernel, landlock, limits, namespaces, seccomp, solution, tree

# Descriptors of ours lie between these, out of reach of the limit that the code is given.
FIRST_FD, END_FD = limits.OPEN_FILES, limits.OPEN_FILES + 64
# Where the user's other processes count as well, they need room to come and go; the watch counts exactly.
SPARE_PROCESSES = 64


class Job(TypedDict):
    """tier: "namespaces", "landlock" or "none"; uid: the user to become, None to stay; scratch: the folder to work in,
    unless the tier makes its own; the rest as in Policy."""

    tier: str
    source: str
    token: str
    uid: int | None
    scratch: str
    read: list[str]
    cpu_seconds: float
    wall_seconds: float
    memory_mb: int
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


def start(job: Job, proof: int, setup: int, ended: int) -> int:
    """Starts the code behind the walls of its tier; the process to wait for.

    proof: where the code's end is proven; setup: closed when the walls are up, or says which is not; ended: where the
    code's exit status comes (4 bytes), if it is not that of the process returned. Raises SetupError or OSError.
    """
    read = needed_paths(job["read"])
    if job["tier"] == "namespaces":
        namespaces.enter_user(privileged=job["uid"] is not None)
        return _fork(setup, lambda: _init(job, read, proof, setup, ended))
    processes = job["processes"]
    if job["uid"] is None:
        processes += tree.tasks_of_user(os.getuid()) + SPARE_PROCESSES
    return _fork(setup, lambda: _inside(job, read, proof, setup, processes))


def _fork(setup: int, then: Callable[[], NoReturn]) -> int:
    if pid := os.fork():
        return pid
    try:
        then()
    except (kernel.SetupError, OSError) as error:
        os.write(setup, str(error).encode())
    finally:
        os._exit(1)


def _init(job: Job, read: list[str], proof: int, setup: int, ended: int) -> NoReturn:
    """The first process of a process namespace: builds the root, starts the code, collects orphans, passes on how
    the code ended. With it the whole namespace ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the only signal that Python catches, so that can reach an init
    namespaces.enter_root(read, job["scratch_mb"], job["uid"])
    job["scratch"] = namespaces.SCRATCH
    # The supervisor and this process count as the code's where they are the same user.
    processes = job["processes"] + (2 if job["uid"] is None else 0)
    first = _fork(setup, lambda: _inside(job, read, proof, setup, processes))
    os.close(setup)
    os.close(proof)
    limits.drop_privileges(None, keep_reading=False)
    limits.die_with_parent()
    while True:
        pid, status = os.wait()
        if pid == first:
            os.write(ended, status.to_bytes(4, "little"))
            os._exit(0)


def _inside(job: Job, read: list[str], proof: int, setup: int, processes: int) -> NoReturn:
    """The first process of the code: the last walls, then the code."""
    walls = job["tier"] != "none"
    in_view = job["tier"] == "landlock"  # of the host's files and processes, which Landlock and seccomp close off
    version = landlock.abi() if walls else 0
    os.setsid()
    os.chdir(job["scratch"])
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    if in_view and version < landlock.LEAST_ABI:
        raise kernel.SetupError(f"Landlock ABI {landlock.LEAST_ABI} (Linux 6.2) or newer is needed, found {version}")
    rules = None
    if version:
        rules = landlock.Ruleset(version)
        for path in read:
            rules.allow_reading(path)
        for path in namespaces.DEVICES:
            rules.allow_device(path)
        rules.allow_scratch(job["scratch"])
    if walls:
        keep = job["uid"] is not None and not all(limits.readable_by_all(path, parents=in_view) for path in read)
    limits.set_limits(job["cpu_seconds"], job["memory_mb"], processes, job["file_mb"])
    if walls:
        limits.drop_privileges(job["uid"], keep_reading=keep)
    limits.die_with_parent()
    if rules is not None:
        rules.restrict()
    keep_fds = sorted((proof, setup))
    for low, high in zip([2, *keep_fds], [*keep_fds, END_FD], strict=True):
        os.closerange(low + 1, high)
    if walls:
        signals_to = os.getpid() if in_view and version < landlock.SCOPE_ABI else None
        change_own_files = not in_view or job["uid"] is not None
        seccomp.install(seccomp.program(kernel.machine(), signals_to, change_own_files))
    os.close(setup)
    _forget_launcher()
    solution.run(job["source"], job["token"], proof)


def _forget_launcher() -> None:
    os.environ.clear()  # the interpreter itself sets LC_CTYPE
    sys.argv[:] = [solution.NAME]
    sys.orig_argv[:] = [sys.executable]
    for name in [name for name in sys.modules if name.partition(".")[0] == __package__]:
        del sys.modules[name]
