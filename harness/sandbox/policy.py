"""What a run may use, and what came of it: plain data, shared by every tier."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "error", "syntax", "timeout", "memory", "killed", "no_code"]
Tier = Literal["namespaces", "landlock", "none"]


class SandboxUnavailable(RuntimeError):
    """No isolation can be had here; the message says what is missing and what to install or enable."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What one run may use.

    cpu_seconds: processor seconds of the whole process tree.
    wall_seconds: seconds by the clock, a backstop; None means three times cpu_seconds plus 2.
    memory_mb: address space of each process, MiB.
    processes: processes and threads alive at once, the first one included.
    file_mb: size of one file, MiB.
    scratch_mb: size of the scratch folder, MiB.
    output_bytes: bytes kept of stdout, and as many of stderr; what comes after is read and dropped.
    read: absolute paths that may be read besides the interpreter and its libraries.

    Raises ValueError for a limit that is not positive, and for a path that is relative or the root folder.
    """

    cpu_seconds: float = 5
    wall_seconds: float | None = None
    memory_mb: int = 1024
    processes: int = 16
    file_mb: int = 16
    scratch_mb: int = 64
    output_bytes: int = 65536
    read: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("cpu_seconds", "memory_mb", "processes", "file_mb", "scratch_mb", "output_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Policy.{name} must be positive, not {getattr(self, name)!r}")
        if self.wall_seconds is not None and not self.wall_seconds > 0:
            raise ValueError(f"Policy.wall_seconds must be positive or None, not {self.wall_seconds!r}")
        if isinstance(self.read, str):
            raise ValueError("Policy.read is a tuple of paths, not one string")
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

    outcome: "ok" only when the code ran to its end; "error" an uncaught exception or a non-zero exit; "syntax" it does
    not compile; "timeout" by processor time or by the clock; "memory" an uncaught MemoryError; "killed" it ended early
    otherwise (a signal, os._exit(0), sys.exit(0), more processes or scratch space than allowed); "no_code"
    blank source.
    stdout, stderr: decoded as UTF-8, bad bytes replaced, cut at Policy.output_bytes each.
    cpu_seconds: of the whole tree; wall_seconds: of the code, without starting the interpreter.
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
