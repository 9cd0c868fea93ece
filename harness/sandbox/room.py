"""A room: a supervisor with a zygote behind walls, in which one job after another runs."""

from __future__ import annotations

import marshal
import os
import secrets
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from harness.sandbox import scratch, users
from harness.sandbox.inside.walls import Room as Spec
from harness.sandbox.inside.zygote import KILL, READY, RUN
from harness.sandbox.policy import Policy, SandboxUnavailable, Tier
from harness.sandbox.verdict import Ending

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_START = "import sys; sys.path.append(sys.argv[1]); from inside.launch import main; main()"
# Beyond the wall limit, for killing the tree and for a loaded machine.
_GRACE_SECONDS = 30.0
_START_SECONDS = 60.0
_CHUNK = 65536
# The modules that solutions import most; found imported already, they cost nothing.
PRELOAD = (
    *(
        "bisect",
        "collections",
        "copy",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
    ),
    *("json", "linecache", "math", "operator", "random", "re", "statistics", "string", "sys", "traceback", "typing"),
)


class RoomLostError(OSError):
    """The room's supervisor has gone; a new room may do better."""


class Room:
    """Raises SandboxUnavailable when the walls cannot be put up, OSError when no process can be started."""

    def __init__(self, policy: Policy, tier: Tier, read: Sequence[str], path: Sequence[str]) -> None:
        self.policy, self.tier = policy, tier
        uid = None if tier == "none" else users.fresh()
        folder = "/" if tier == "namespaces" else scratch.make(uid)
        spec: Spec = {
            "tier": tier,
            "uid": uid,
            "scratch": folder,
            "read": [*policy.read, *read],
            "path": list(path),
            "preload": [*PRELOAD, *policy.preload],
            "environment": dict(policy.environment),
            "own_programs": policy.own_programs,
            "cpu_seconds": policy.cpu_seconds,
            "wall_seconds": policy.wall_limit,
            "memory_mb": policy.memory_mb,
            "address_mb": policy.address_mb or policy.memory_mb,
            "processes": policy.processes,
            "file_mb": policy.file_mb,
            "scratch_mb": policy.scratch_mb,
        }
        self.line, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        with its:
            # Never a plain fork: this process may have threads (torch), whose locks a forked Python would inherit.
            self._supervisor = subprocess.Popen(
                [python, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _START, _FOLDER, str(its.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(its.fileno(),),
                # One order of every set for all runs: a verdict must not hang on it.
                env={"PYTHONHASHSEED": "0"},
                cwd="/",
                start_new_session=True,
            )
        self.line.settimeout(_START_SECONDS)
        try:
            self.line.send(marshal.dumps(dict(spec)))
            answer = self.line.recv(_CHUNK)
        except OSError as error:
            answer = marshal.dumps({"setup": f"no answer from the launcher ({error})"})
        if answer != READY:
            problem = marshal.loads(answer)["setup"] if answer else ""
            self.close()
            raise self._unavailable(problem or self._last_words or "no answer from the launcher")
        self.line.setblocking(False)

    _last_words = ""

    def _unavailable(self, problem: str) -> SandboxUnavailable:
        return SandboxUnavailable(f"the {self.tier} sandbox failed: {problem}")

    def start(self, job: Mapping[str, object], channel: socket.socket | None = None) -> Job:
        """Starts a job: a dict for inside.solution. Raises RoomLostError."""
        token = secrets.token_hex(16)
        out, err, proof = (os.pipe() for _ in range(3))
        code = os.memfd_create("job")
        passed = [code, out[1], err[1], proof[1], *(() if channel is None else (channel.fileno(),))]
        try:
            with open(code, "wb", closefd=False) as file:
                file.write(marshal.dumps({**job, "token": token}))
            socket.send_fds(self.line, [RUN], passed)
        except OSError as error:
            for fd in (out[0], err[0], proof[0]):
                os.close(fd)
            raise RoomLostError(f"the sandbox's supervisor has gone ({error}); run this again") from error
        finally:
            for fd in passed[:4]:
                os.close(fd)
        return Job(self, (out[0], err[0], proof[0]), token)

    def close(self) -> None:
        """Ends everything in the room and waits for it."""
        self.line.close()
        try:
            said = self._supervisor.communicate(timeout=_GRACE_SECONDS)[1]
            self._last_words = said.decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()


class Job:
    """One running job of a room: its output so far and, in time, its ending."""

    def __init__(self, room: Room, fds: tuple[int, int, int], token: str) -> None:
        self.room, self._token = room, token
        self._texts = {fd: bytearray() for fd in fds}
        self._fds = fds
        keep = room.policy.output_bytes
        self._space = dict(zip(fds, (keep, keep, _CHUNK), strict=True))
        self._deadline = time.monotonic() + room.policy.wall_limit + _GRACE_SECONDS
        self.ending: Ending | None = None
        for fd in fds:
            os.set_blocking(fd, False)

    def sources(self) -> list[int]:
        """The descriptors to watch; 0 stands for none."""
        return [*self._fds, self.room.line.fileno()]

    def read(self, fd: int) -> bool:
        """Takes what has come on one of sources(); False when nothing will come any more.

        Of stdout and stderr the first bytes are kept: what follows is dropped, so that nobody waits for us.
        """
        if fd not in self._texts:
            self._end()
            return False
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        self._texts[fd] += data[: self._space[fd] - len(self._texts[fd])]
        return bool(data)

    def _end(self) -> None:
        try:
            answer = self.room.line.recv(_CHUNK)
        except OSError:
            answer = b""
        if not answer:
            raise RoomLostError("the sandbox's supervisor has gone; run this again")
        said = marshal.loads(answer)
        if "setup" in said:
            raise self.room._unavailable(said["setup"])
        self.ending = cast(Ending, said)
        for fd in self._fds:  # the writers are dead: what is left is in the pipes
            while self.read(fd):
                pass

    def stop(self) -> None:
        """Has the job killed, if it still runs."""
        with suppress(OSError):
            self.room.line.send(KILL)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    @property
    def left(self) -> float:
        """Seconds until even the supervisor counts as lost."""
        return self._deadline - time.monotonic()

    @property
    def stdout(self) -> str:
        return self._texts[self._fds[0]].decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self._texts[self._fds[1]].decode(errors="replace")

    @property
    def kind(self) -> str:
        """What the process said of its end, "" if nothing credible."""
        proven, mark = self._texts[self._fds[2]].decode(errors="replace"), f"{self._token} "
        return proven.removeprefix(mark) if proven.startswith(mark) else ""


def wait(jobs: Sequence[Job], ended: Callable[[Job], Any] = lambda job: None) -> None:
    """Reads all jobs until all have ended; `ended` is called with each as it ends.

    Raises RoomLostError when a supervisor goes or is long overdue, SandboxUnavailable when a wall is missing.
    """
    with selectors.DefaultSelector() as selector:
        for job in jobs:
            for fd in job.sources():
                selector.register(fd, selectors.EVENT_READ, job)
        while waiting := [job for job in jobs if job.ending is None]:
            if (left := min(job.left for job in waiting)) <= 0:
                raise RoomLostError("the sandbox's supervisor does not answer; run this again")
            for key, _ in selector.select(left):
                job = key.data
                if job.ending is None and not job.read(key.fd):
                    selector.unregister(key.fd)
                    if job.ending is not None:
                        for fd in job.sources():
                            if fd in selector.get_map():
                                selector.unregister(fd)
                        ended(job)
