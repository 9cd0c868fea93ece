"""What attacks are made of: small programs that print BREACH when they get through.

Each is preceded by assignments of the names of its world (see world.py): SECRET, a file of the attacking user's;
OUTSIDE, a folder of theirs; HOME, a folder of theirs closed to others, with a file `key`; TCP, UDP, DNS, UNIX,
ABSTRACT, places where somebody listens; VICTIM, a process of theirs with a secret in its environment; READABLE, a
file of theirs that the policy lets the code read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Attack:
    """needs_root: without walls it works for root only. opened: limits under which it gets through even behind the
    walls, for attacks on a limit; None: it is shown to work by running it without walls."""

    source: str
    needs_root: bool = False
    opened: dict[str, Any] | None = None
    limits: dict[str, Any] = field(default_factory=dict)


def tries(*statements: str, head: str = "import os", error: str = "OSError") -> str:
    """A program that tries each statement by itself."""
    lines = [head]
    for statement in statements:
        body = "\n".join("    " + line for line in statement.splitlines())
        lines.append(f"try:\n{body}\n    print('BREACH', {statement!r})\nexcept {error}:\n    pass")
    return "\n".join(lines)


SYSCALL = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == 'aarch64'
def call(x86, arm, *args):
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    return libc.syscall(ctypes.c_long(arm if ARM else x86), *args)
def breach(name, result):
    if result >= 0:
        print('BREACH', name, result)
def reach(name, result):
    # Whoever gets another answer than "not permitted" has reached the kernel's own code for the call.
    error = ctypes.get_errno()
    if result < 0 and error == 38:
        print('ABSENT', name)
    elif result >= 0 or error != 1:
        print('BREACH', name, result, error)
page = ctypes.create_string_buffer(256)
"""
