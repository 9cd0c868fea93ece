"""The room in which tests run: one process judges solution after solution, for no code of a model's runs there."""

from __future__ import annotations

import dataclasses
import json
import marshal
import math
import os
import socket
import time
from collections.abc import Sequence

from harness.sandbox.policy import Policy, Tier
from harness.sandbox.room import GRACE_SECONDS, Room
from harness.sandbox.verdict import Ending, Word

_MOST_CHECKS = 500
"""After so many a new process takes over, so that nothing that tests leave behind adds up."""


class Judge:
    """A process of trusted tests. Not for two threads at once. Raises as Room does."""

    def __init__(self, policy: Policy, tier: Tier, read: Sequence[str], path: Sequence[str]) -> None:
        self._policy = policy
        endless = dataclasses.replace(policy, cpu_seconds=math.inf, wall_seconds=math.inf)
        self._room = Room(endless, tier, read, path)
        self._line, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = self._room.start({"mode": "judge", "cpu_seconds": policy.cpu_seconds}, its)
        self._line.setblocking(False)
        self._asked = 0
        self._deadline = math.inf
        self.word: Word | Ending | None = None
        self.output = ""

    def ask(self, setup: str, tests: str, names: Sequence[str], channel: socket.socket) -> None:
        """Has a solution judged that answers on the channel; then wait for it to be over."""
        self.word, self.output = None, ""
        self._asked += 1
        self._deadline = time.monotonic() + 2 * self._policy.wall_limit + GRACE_SECONDS
        work = os.memfd_create("tests")
        try:
            with open(work, "wb", closefd=False) as file:
                file.write(marshal.dumps({"setup": setup, "source": tests, "names": list(names)}))
            socket.send_fds(self._line, [b"judge"], [work, channel.fileno()])
        finally:
            os.close(work)

    @property
    def over(self) -> bool:
        return self.word is not None

    @property
    def spent(self) -> bool:
        """Whether it can judge no more."""
        return self._process.over or self._asked >= _MOST_CHECKS

    @property
    def left(self) -> float:
        """Seconds until it counts as lost."""
        return self._deadline - time.monotonic()

    def sources(self) -> list[int]:
        """The descriptors to watch."""
        return [self._line.fileno(), *self._process.sources()]

    def read(self, fd: int) -> None:
        """Takes what has come on one of sources()."""
        if fd != self._line.fileno():
            self._process.read(fd)
            self.word = self._process.ending
            return
        try:
            answer = self._line.recv(1 << 20)
        except OSError:
            answer = b""
        if answer:  # else its ending comes in a moment
            self.word, self.output = json.loads(answer)

    def close(self) -> None:
        self._line.close()
        self._room.close()
