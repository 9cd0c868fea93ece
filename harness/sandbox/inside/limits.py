"""Resource limits, and the loss of every power that the launcher was started with."""

from __future__ import annotations

import math
import os
import resource
import signal

from . import kernel

MIB = 1 << 20
OPEN_FILES = 64


def set_limits(memory_mb: int, processes: int, file_mb: int) -> None:
    """For this process and each that it starts, each counted alone (processes excepted: by user)."""
    limits = {
        resource.RLIMIT_AS: memory_mb * MIB,
        resource.RLIMIT_FSIZE: file_mb * MIB,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for which, limit in limits.items():
        _set(which, limit, limit)


def limit_child(cpu_seconds: float) -> None:
    """What the zygote itself would run into: processor time, and descriptors, of which it has some beyond the limit."""
    if cpu_seconds < math.inf:
        cpu = math.ceil(cpu_seconds)
        # One second between the signal that can be caught and the one that cannot.
        _set(resource.RLIMIT_CPU, cpu, cpu + 1)
    _set(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)


def _set(which: int, soft: int, hard: int) -> None:
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def readable_by_all(path: str, parents: bool) -> bool:
    """Whether any user may read path and, with parents, reach it."""
    if os.stat(path).st_mode & 0o004 == 0 or (os.path.isdir(path) and os.stat(path).st_mode & 0o001 == 0):
        return False
    while parents and path != "/":
        path = os.path.dirname(path)
        if os.stat(path).st_mode & 0o001 == 0:
            return False
    return True


def drop_privileges(uid: int | None, keep_reading: bool) -> None:
    """Becomes user and group uid (None: stays who it is) without capabilities, and cannot get any back.

    keep_reading keeps CAP_DAC_READ_SEARCH, for an interpreter below a folder closed to others (/root); Landlock then
    says which files that reaches. Raises SetupError or OSError.
    """
    mask = 0
    if uid is not None:
        if keep_reading:
            kernel.prctl("PR_SET_KEEPCAPS", kernel.PR_SET_KEEPCAPS, 1)
            mask = 1 << kernel.CAP_DAC_READ_SEARCH
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    kernel.prctl("PR_CAP_AMBIENT", kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    kernel.set_capabilities(mask)
    kernel.prctl("PR_SET_NO_NEW_PRIVS", kernel.PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """SIGKILL for this process when its parent ends. A change of user undoes it, so call it after."""
    kernel.prctl("PR_SET_PDEATHSIG", kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
