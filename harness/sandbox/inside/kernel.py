"""System calls that Python does not offer, by ctypes."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

MS_NOSUID, MS_NODEV = 2, 4
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP = 1, 4, 8, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_DAC_READ_SEARCH = 2

PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR = 442  # the same number on every processor
AT_FDCWD, AT_RECURSIVE = -100, 0x8000


class SetupError(Exception):
    """A wall could not be put up; the message names it."""


def machine() -> str:
    """The processor, as the tables of system call numbers name it; raises SetupError for one that they lack."""
    name = os.uname().machine
    if name not in PIVOT_ROOT:
        raise SetupError(f"no table of system calls for {name} processors (x86_64 and aarch64 have one)")
    return name


def check(result: int, what: str) -> int:
    """result, unless the call that returned it failed: then raises SetupError."""
    if result < 0:
        raise SetupError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def syscall(what: str, number: int, *args: object) -> int:
    """The raw call; pass integers as ctypes.c_long where they may not fit in 32 bits. Raises SetupError."""
    return check(_libc.syscall(ctypes.c_long(number), *args), what)


def try_syscall(number: int, *args: object) -> int:
    """The raw call; -1 when it failed."""
    result: int = _libc.syscall(ctypes.c_long(number), *args)
    return result


def prctl(what: str, option: int, value: int | ctypes.Array[ctypes.c_char] | object = 0) -> None:
    """prctl(2) with one argument. Raises SetupError."""
    argument = ctypes.c_ulong(value) if isinstance(value, int) else value
    zero = ctypes.c_ulong(0)
    check(_libc.prctl(option, argument, zero, zero, zero), what)


def seccomp_filter(program: ctypes.Structure) -> None:
    """Puts a seccomp filter (a struct sock_fprog) on this thread. Raises SetupError."""
    zero = ctypes.c_ulong(0)
    check(_libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), zero, zero), "seccomp filter")


def unshare(flags: int, what: str) -> None:
    """unshare(2). Raises SetupError."""
    check(_libc.unshare(flags), what)


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2). Raises SetupError."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        None if options is None else options.encode(),
    )
    check(result, f"mount of {source} on {target}")


def restrict_mount(path: str, attributes: int, recursive: bool) -> None:
    """Adds attributes (ATTR_...) to a mount and, if recursive, to all mounts below it. Raises SetupError."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = ctypes.c_uint(AT_RECURSIVE if recursive else 0)
    place = os.fsencode(path)
    syscall(f"attributes of mount {path}", MOUNT_SETATTR, AT_FDCWD, place, flags, wanted, ctypes.c_size_t(32))


def unmount(target: str) -> None:
    """Takes a mount and all below it out of the tree. Raises SetupError."""
    check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount of {target}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2). Raises SetupError."""
    syscall("pivot_root", PIVOT_ROOT[machine()], os.fsencode(new), os.fsencode(old))


def set_capabilities(mask: int) -> None:
    """Leaves the thread the capabilities of mask (the low 32), as permitted and effective. Raises SetupError."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)
    check(_libc.capset(header, data), "capset")
