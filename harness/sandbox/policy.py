"""What a run may use, and what came of it: plain data, shared by every tier."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "passed", "wrong", "error", "syntax", "timeout", "memory", "killed", "no_code", "not_installed"]
Tier = Literal["namespaces", "landlock", "none"]


class SandboxUnavailable(RuntimeError):
    """No isolation can be had here; the message says what is missing and what to install or enable."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What one run may use.

    cpu_seconds: processor seconds of the whole process tree.
    wall_seconds: seconds by the clock, a backstop; None means three times cpu_seconds plus 2.
    memory_mb: address space of each process, and memory in use by all of them together, MiB.
    address_mb: address space of each process, MiB, for runtimes that reserve more than they use; None: memory_mb.
    processes: processes and threads alive at once, the first one included.
    file_mb: size of one file, MiB.
    scratch_mb: size of the scratch folder, MiB.
    output_bytes: bytes kept of stdout, and as many of stderr; what comes after is read and dropped.
    read: absolute paths that may be read, and programs below them started, besides the interpreter and its libraries.
    packages: installed distributions that may be imported, each with what it requires.
    preload: modules imported before the code starts, which saves it the time.
    environment: the environment variables, as pairs; there are no others.
    own_programs: whether programs may be started that lie in the scratch folder, such as compiled ones.

    Raises ValueError for a limit that is not positive, and for a path that is relative or the root folder.
    """

    cpu_seconds: float = 5
    wall_seconds: float | None = None
    memory_mb: int = 1024
    address_mb: int | None = None
    processes: int = 16
    file_mb: int = 16
    scratch_mb: int = 64
    output_bytes: int = 65536
    read: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    own_programs: bool = False

    def __post_init__(self) -> None:
        for name in ("cpu_seconds", "memory_mb", "processes", "file_mb", "scratch_mb", "output_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Policy.{name} must be positive, not {getattr(self, name)!r}")
        for name in ("wall_seconds", "address_mb"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"Policy.{name} must be positive or None, not {getattr(self, name)!r}")
        for name in ("read", "packages", "preload"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"Policy.{name} is a tuple, not one string")
        for path in self.read:
            if not os.path.isabs(path) or os.path.realpath(path) == "/":
                raise ValueError(f"Policy.read takes absolute paths below the root folder, not {path!r}")

    @property
    def wall_limit(self) -> float:
        """Seconds by the clock after which the tree is killed."""
        return 3 * self.cpu_seconds + 2 if self.wall_seconds is None else self.wall_seconds


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one run.

    outcome: of a program "ok" only when it ran to its end, of a solution "passed" only when its tests did; "wrong" a
    test did not hold; "error" an uncaught exception or a non-zero exit; "syntax" it does not compile; "timeout" by
    processor time or by the clock; "memory" an uncaught MemoryError or more memory than allowed; "killed" it ended
    early otherwise (a signal, os._exit(0), sys.exit(0), more processes or scratch space than allowed); "no_code" blank
    source; "not_installed" the compiler or a library is missing here.
    stdout, stderr: decoded as UTF-8, bad bytes replaced, cut at Policy.output_bytes each; a solution's, then
    its tests'.
    cpu_seconds: of the whole tree, a solution's without its tests'; wall_seconds: of the code, without starting the
    interpreter.
    detail: how it ended, for people.
    """

    outcome: Outcome
    stdout: str = ""
    stderr: str = ""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """The strongest tier of this machine, what it consists of, how to get a stronger one ("" for the best)."""

    tier: Tier
    detail: str
    advice: str
