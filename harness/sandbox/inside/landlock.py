"""Landlock: which files this process and its children may open, for good.

Landlock does not cover chmod, chown, setxattr, utime or sockets other than TCP; seccomp does (seccomp.py). Neither
denies chdir and stat: where Landlock stands alone, the code learns whether a path exists, its size and its dates.
"""

from __future__ import annotations

import ctypes
import os
import stat

from . import kernel

CREATE, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same numbers on every processor

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
TRUNCATE = 1 << 14
# By ABI: 1 has thirteen rights, 2 adds REFER, 3 TRUNCATE, 5 IOCTL_DEV.
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
NET_TCP = 3
SCOPE_ALL = 3
SCOPE_ABI = 6
LEAST_ABI = 3


def abi() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    return max(0, kernel.try_syscall(CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


class Ruleset:
    """Paths are opened as rules are added, so add them while they can still be reached; then restrict()."""

    def __init__(self, version: int) -> None:
        self.handled = FILE_RIGHTS[max(v for v in FILE_RIGHTS if v <= version)]
        fields = [self.handled, NET_TCP if version >= 4 else 0, SCOPE_ALL if version >= SCOPE_ABI else 0]
        # An older kernel takes the longer structure as long as what it does not know is zero.
        attributes = (ctypes.c_uint64 * 3)(*fields)
        self.fd = kernel.syscall("landlock_create_ruleset", CREATE, attributes, ctypes.c_size_t(24), ctypes.c_uint32(0))

    def allow(self, path: str, rights: int) -> None:
        """Grants rights on path and all below it. Raises OSError or SetupError."""
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(parent).st_mode):
                rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
            # struct landlock_path_beneath_attr is packed: u64 rights, s32 descriptor.
            rule = (rights & self.handled).to_bytes(8, "little") + parent.to_bytes(4, "little")
            kernel.syscall(f"Landlock rule for {path}", ADD_RULE, self.fd, ctypes.c_int(1), rule, ctypes.c_uint32(0))
        finally:
            os.close(parent)

    def allow_reading(self, path: str) -> None:
        self.allow(path, READ_FILE | READ_DIR | EXECUTE)

    def allow_listing(self, path: str) -> None:
        """The names of the files there, which imports look through; not their content."""
        self.allow(path, READ_DIR)

    def allow_device(self, path: str) -> None:
        self.allow(path, READ_FILE | WRITE_FILE | TRUNCATE)

    def allow_scratch(self, path: str, programs: bool) -> None:
        self.allow(path, self.handled & ~((0 if programs else EXECUTE) | MAKE_CHAR | MAKE_BLOCK | MAKE_SOCK))

    def restrict(self) -> None:
        """Puts the wall up around this thread; no_new_privs must be set. Raises SetupError."""
        kernel.syscall("landlock_restrict_self", RESTRICT_SELF, self.fd, ctypes.c_uint32(0))
