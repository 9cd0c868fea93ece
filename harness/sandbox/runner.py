"""Runs one piece of code in a helper interpreter and judges how it ended."""

from __future__ import annotations

import ast
import marshal
import os
import secrets
import selectors
import subprocess
import sys
import time
from contextlib import suppress
from typing import IO, cast

from harness.sandbox import scratch, tiers, users
from harness.sandbox.inside import cleanup
from harness.sandbox.inside.walls import Job
from harness.sandbox.policy import Policy, Result, SandboxUnavailable, Tier
from harness.sandbox.verdict import Ending, judge

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_START = "import sys; sys.path.append(sys.argv[1]); from inside.launch import main; main()"
# Beyond the wall limit, for starting, for killing the tree and for a loaded machine.
_GRACE_SECONDS = 30.0
_CHUNK = 65536


class Sandbox:
    """Runs code under one policy. One Sandbox may be used by many threads at once.

    unsafe: run without walls (tier "none"): limits and the killing of the whole tree remain, the code can read and
    write what you can. Raises SandboxUnavailable where no isolation can be had, FileNotFoundError for a path of
    Policy.read that does not exist.
    """

    def __init__(self, policy: Policy | None = None, unsafe: bool = False, *, _tier: Tier | None = None) -> None:
        self.policy = Policy() if policy is None else policy
        for path in self.policy.read:
            os.stat(path)
        if unsafe and not sys.platform.startswith("linux"):
            raise SandboxUnavailable(tiers.NOT_LINUX)
        self.tier: Tier = _tier or ("none" if unsafe else tiers.probe().tier)

    def run(self, source: str) -> Result:
        """Runs source as a program and waits for its end, at most Policy.wall_limit seconds after its start.

        Raises SandboxUnavailable when the walls cannot be put up (any more), OSError when no process can be started.
        """
        if not source.strip():
            return Result(outcome="no_code", detail="no code")
        token = secrets.token_hex(16)
        uid = None if self.tier == "none" else users.fresh()
        folder = "/" if self.tier == "namespaces" else scratch.make(uid)
        try:
            return self._run(self._job(source, token, uid, folder), token)
        finally:
            if folder != "/":
                cleanup.remove(folder)

    def _job(self, source: str, token: str, uid: int | None, folder: str) -> Job:
        policy = self.policy
        return {
            "tier": self.tier,
            "source": source,
            "token": token,
            "uid": uid,
            "scratch": folder,
            "read": list(policy.read),
            "cpu_seconds": policy.cpu_seconds,
            "wall_seconds": policy.wall_limit,
            "memory_mb": policy.memory_mb,
            "processes": policy.processes,
            "file_mb": policy.file_mb,
            "scratch_mb": policy.scratch_mb,
        }

    def _run(self, job: Job, token: str) -> Result:
        proof_read, proof = os.pipe()
        status_read, status = os.pipe()
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        try:
            # Never a plain fork: this process may have threads (torch), whose locks a forked Python would inherit.
            child = subprocess.Popen(
                [python, "-I", "-S", "-X", "utf8", "-c", _START, _FOLDER, str(proof), str(status)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(proof, status),
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            os.close(proof_read)
            os.close(status_read)
            raise
        finally:
            os.close(proof)
            os.close(status)
        stdin, stdout, stderr = (cast(IO[bytes], pipe) for pipe in (child.stdin, child.stdout, child.stderr))
        try:
            data = marshal.dumps(dict(job))
            with suppress(BrokenPipeError):  # it ended early: what it said tells why
                stdin.write(len(data).to_bytes(8, "little") + data)
                stdin.flush()
            texts = _collect(
                (stdout.fileno(), stderr.fileno(), proof_read, status_read),
                self.policy.output_bytes,
                time.monotonic() + self.policy.wall_limit + _GRACE_SECONDS,
            )
        finally:
            _end(child)
            os.close(proof_read)
            os.close(status_read)
        out, err, proven, last_word = (text.decode(errors="replace") for text in texts)
        said = ast.literal_eval(last_word) if last_word else {"setup": err.strip() or "no answer from the launcher"}
        if "setup" in said:
            raise SandboxUnavailable(f"the {self.tier} sandbox failed: {said['setup']}")
        ending = cast(Ending, said)
        mark = f"{token} "
        kind = proven.removeprefix(mark) if proven.startswith(mark) else ""
        outcome, detail = judge(ending, kind, self.policy)
        return Result(
            outcome=outcome,
            stdout=out,
            stderr=err,
            cpu_seconds=ending["cpu_seconds"],
            wall_seconds=ending["wall_seconds"],
            detail=detail,
        )


def _collect(fds: tuple[int, int, int, int], keep: int, deadline: float) -> tuple[bytes, bytes, bytes, bytes]:
    """Reads stdout, stderr, the proof and the status until the supervisor has gone, which closes the status, or until
    the deadline. Of stdout and stderr the first `keep` bytes: what follows is dropped, so that nobody waits for us."""
    texts = {fd: bytearray() for fd in fds}
    room = dict(zip(fds, (keep, keep, _CHUNK, _CHUNK), strict=True))
    status = fds[3]
    open_fds = set(fds)

    def read(fd: int) -> bool:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        texts[fd] += data[: room[fd] - len(texts[fd])]
        return bool(data)

    with selectors.DefaultSelector() as selector:
        for fd in fds:
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        while status in open_fds and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if not read(key.fd):
                    selector.unregister(key.fd)
                    open_fds.discard(key.fd)
    for fd in open_fds - {status}:  # the writers are dead: what is left is in the pipes
        while read(fd):
            pass
    out, err, proven, ending = (bytes(texts[fd]) for fd in fds)
    return out, err, proven, ending


def _end(child: subprocess.Popen[bytes]) -> None:
    """Closes everything of the helper; its stdin first, at which a supervisor that still runs kills all and goes."""
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            stream.close()
    try:
        child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
