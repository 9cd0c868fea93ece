"""A room: a supervisor with a zygote behind walls, in which one job after another runs."""

from __future__ import annotations

import marshal
import math
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol, cast

from harness.sandbox import scratch, users
from harness.sandbox.inside.walls import Room as Spec
from harness.sandbox.inside.zygote import KILL, READY, RUN
from harness.sandbox.policy import Policy, SandboxUnavailable, Tier
from harness.sandbox.verdict import Ending

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_START = "import sys; sys.path.append(sys.argv[1]); from inside.launch import main; main()"
# Beyond the wall limit, for killing the tree and for a loaded machine.
GRACE_SECONDS = 30.0
_START_SECONDS = 60.0
_CHUNK = 65536
# The modules that solutions import most; found imported already, they cost nothing. More would cost every fork pages.
PRELOAD = (
    *("bisect", "collections", "copy", "functools", "heapq", "itertools", "json", "linecache", "math", "operator"),
    *("random", "re", "string", "sys", "traceback", "typing"),
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
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        self.output = (out, err)
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        passed = (its.fileno(), its_out, its_err)
        with its:
            # Never a plain fork: this process may have threads (torch), whose locks a forked Python would inherit.
            self._supervisor = subprocess.Popen(
                [python, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _START, _FOLDER, *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=passed,
                # One order of every set for all runs: a verdict must not hang on it.
                env={"PYTHONHASHSEED": "0"},
                cwd="/",
                start_new_session=True,
            )
            os.close(its_out)
            os.close(its_err)
        for fd in self.output:
            os.set_blocking(fd, False)
        self.line.settimeout(_START_SECONDS)
        try:
            self.line.send(marshal.dumps(dict(spec)))
            answer = self.line.recv(_CHUNK)
        except OSError as error:
            self.close()
            raise self.lost(f"no answer from the launcher ({error})") from error
        if answer != READY:
            self.close()
            raise self.lost("no answer from the launcher")
        self.line.setblocking(False)

    _last_words = ""

    @property
    def spent(self) -> bool:
        """Whether it is closed: until then a room can be used again and again."""
        return self.line.fileno() < 0

    def lost(self, problem: str) -> Exception:
        """What to raise when the room, closed by now, no longer answers: its own last words say best why."""
        if self._last_words:
            return SandboxUnavailable(f"the {self.tier} sandbox failed: {self._last_words}")
        return RoomLostError(f"{problem}; run this again")

    def start(self, job: Mapping[str, str | float], channel: socket.socket | None = None) -> Job:
        """Starts a job: a dict for inside.solution. Raises RoomLostError or SandboxUnavailable."""
        code = os.memfd_create("job")
        try:
            with open(code, "wb", closefd=False) as file:
                file.write(marshal.dumps(dict(job)))
            socket.send_fds(self.line, [RUN], [code, *(() if channel is None else (channel.fileno(),))])
        except OSError as error:
            self.close()
            raise self.lost(f"the sandbox's supervisor has gone ({error})") from error
        finally:
            os.close(code)
        return Job(self)

    def close(self) -> None:
        """Ends everything in the room and waits for it."""
        if self.spent:
            return
        self.line.close()
        for fd in self.output:
            os.close(fd)
        try:
            said = self._supervisor.communicate(timeout=GRACE_SECONDS)[1]
            self._last_words = said.decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()


class Job:
    """One running job of a room: its output so far and, in time, its ending."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._texts = {fd: bytearray() for fd in room.output}
        self._deadline = time.monotonic() + room.policy.wall_limit + GRACE_SECONDS
        self.ending: Ending | None = None

    def sources(self) -> list[int]:
        """The descriptors to watch."""
        return [*self.room.output, self.room.line.fileno()]

    def read(self, fd: int) -> None:
        """Takes what has come on one of sources().

        Of stdout and stderr the first bytes are kept: what follows is dropped, so that nobody waits for us.
        Raises RoomLostError when the room does not answer any more, SandboxUnavailable when a wall is missing.
        """
        if fd in self._texts:
            self._take(fd)
        else:
            self._end()

    def _take(self, fd: int) -> bool:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        text = self._texts[fd]
        text += data[: self.room.policy.output_bytes - len(text)]
        return bool(data)

    def _end(self) -> None:
        try:
            answer = self.room.line.recv(_CHUNK)
        except OSError:
            answer = b""
        if not answer:
            self.room.close()
            raise self.room.lost("the sandbox's supervisor has gone")
        said = marshal.loads(answer)
        if "setup" in said:
            raise SandboxUnavailable(f"the {self.room.tier} sandbox failed: {said['setup']}")
        self.ending = cast(Ending, said)
        for fd in self._texts:  # the writers are dead: what is left is in the pipes
            while self._take(fd):
                pass

    def stop(self) -> None:
        """Has the job killed, if it still runs."""
        with suppress(OSError):
            self.room.line.send(KILL)

    @property
    def over(self) -> bool:
        return self.ending is not None

    @property
    def left(self) -> float:
        """Seconds until even the supervisor counts as lost."""
        return self._deadline - time.monotonic()

    @property
    def stdout(self) -> str:
        return self._texts[self.room.output[0]].decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self._texts[self.room.output[1]].decode(errors="replace")


class Source(Protocol):
    """What can be waited for."""

    def sources(self) -> list[int]: ...
    def read(self, fd: int) -> None: ...
    @property
    def over(self) -> bool: ...
    @property
    def left(self) -> float: ...


def wait(wanted: Source, *others: Source, seconds: float = math.inf) -> bool:
    """Reads all until `wanted` is over, at most `seconds`: whether it is.

    Raises RoomLostError when a room goes or is long overdue, SandboxUnavailable when a wall is missing.
    """
    end = time.monotonic() + seconds
    while not wanted.over:
        watched = {fd: one for one in (wanted, *others) if not one.over for fd in one.sources()}
        poll = select.poll()
        for fd in watched:
            poll.register(fd, select.POLLIN)
        left = min(end - time.monotonic(), wanted.left)
        if left <= 0:
            if seconds < math.inf:
                return False
            raise RoomLostError("the sandbox's supervisor does not answer; run this again")
        for fd, _ in poll.poll(1000 * left):
            if not watched[fd].over:
                watched[fd].read(fd)
    return True
