"""Where sandbox tests run: each tier, as the user who runs the tests and, if that is root, as a plain user too."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.sandbox import Policy, Result, Sandbox, SandboxUnavailable, Tier

PLAIN_UID = 54321
USERS = ("self", "plain")
TIERS = ("namespaces", "landlock")
TRIVIAL = "print(6*7)"
SECRET = "harness-secret-5b1e"
"""In the environment and in an inherited descriptor of the plain user's harness."""


@functools.cache
def plain_python() -> str:
    """A python 3.11 or newer that any user can start, "" if there is none."""
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(path).exists():
            code = "import sys; print(sys.version_info >= (3, 11))"
            if subprocess.run([path, "-I", "-c", code], capture_output=True, text=True).stdout == "True\n":
                return path
    return ""


def as_plain_user(command: list[str]) -> list[str]:
    flags = [f"--reuid={PLAIN_UID}", f"--regid={PLAIN_UID}", "--clear-groups"]
    return ["setpriv", *flags, *command]


@functools.cache
def plain_helper() -> subprocess.Popen[str]:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    if not shutil.which("setpriv") or not plain_python():
        pytest.skip("needs setpriv and a python 3.11 or newer in /usr")
    script = Path(__file__).with_name("plain.py")
    if subprocess.run(as_plain_user(["test", "-r", str(script)])).returncode:
        pytest.skip("the checkout cannot be read by other users")
    command = as_plain_user([plain_python(), "-I", "-B", str(script)])
    with tempfile.TemporaryFile() as secret:
        secret.write(SECRET.encode())
        secret.flush()
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "HARNESS_SECRET": SECRET},
            pass_fds=[secret.fileno()],
        )


def run_in(user: str, tier: str, source: str, **limits: Any) -> Result:
    """One run in a tier ("none" for no walls), as "self" or "plain"; raises SandboxUnavailable."""
    return work_in(user, tier, [{"source": source}], **limits)[0]


def work_in(user: str, tier: str, jobs: Sequence[Mapping[str, Any]], keep: bool = False, **limits: Any) -> list[Result]:
    """Jobs one after the other in one sandbox, each the arguments of run() or of check(). keep: in one that stays for
    later calls with the same limits. Raises SandboxUnavailable, OSError."""
    if user == "self":
        policy, unsafe = Policy(**limits), tier == "none"
        box = kept(policy, tier) if keep else Sandbox(policy, unsafe, _tier=tier)
        return [box.check(**job) if "tests" in job else box.run(**job) for job in jobs]
    helper = plain_helper()
    assert helper.stdin
    assert helper.stdout
    helper.stdin.write(json.dumps({"tier": tier, "jobs": jobs, "keep": keep, "policy": limits}) + "\n")
    helper.stdin.flush()
    answer = json.loads(helper.stdout.readline())
    if "unavailable" in answer:
        raise SandboxUnavailable(answer["unavailable"])
    if "error" in answer:
        raise OSError(answer["error"])
    return [Result(**each) for each in answer["results"]]


@functools.cache
def kept(policy: Policy, tier: Tier) -> Sandbox:
    return Sandbox(policy, tier == "none", _tier=tier)


def named(name: str) -> list[int]:
    """The processes of the machine that call themselves name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def open_to_all(folder: Path) -> None:
    """Lets every user reach a folder of pytest's."""
    for path in (folder, *folder.parents):
        if path == Path(tempfile.gettempdir()):
            break
        path.chmod(0o755)


@functools.cache
def why_not(user: str, tier: str) -> str:
    try:
        result = run_in(user, tier, TRIVIAL)
    except SandboxUnavailable as error:
        return str(error)
    assert result.outcome == "ok", result
    return ""


def need(user: str, tier: str) -> None:
    """Skips the test, saying why, where the tier cannot work."""
    if tier != "none" and (reason := why_not(user, tier)):
        pytest.skip(reason)
